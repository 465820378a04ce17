"""Text normalisation before scoring: a named list of small steps, hashed so that runs can be compared.

A normaliser changes what counts as an error, so its name and hash go into every sidecar. Neither of
the two spells out numbers or contractions.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from asrcompress.errors import AsrCompressError


def nfkc(text: str) -> str:
    """Unicode compatibility form: one spelling for each character."""
    return unicodedata.normalize("NFKC", text)


def lower_case(text: str) -> str:
    """Every letter small."""
    return text.lower()


def straight_apostrophes(text: str) -> str:
    """Typographic apostrophes become the typewriter's."""
    return text.replace("\u2019", "'").replace("\u2018", "'").replace("\u02bc", "'")


def punctuation_to_spaces(text: str) -> str:
    """Punctuation (Unicode categories P*) other than the apostrophe becomes a space: `well-known` is two words."""
    return "".join(" " if char != "'" and unicodedata.category(char).startswith("P") else char for char in text)


def collapse_spaces(text: str) -> str:
    """One space between words and none around them."""
    return " ".join(text.split())


@dataclass(frozen=True)
class Normalizer:
    """Steps applied in order. Raise `version` whenever a step's behaviour changes."""

    name: str
    version: int
    steps: tuple[Callable[[str], str], ...]

    def __call__(self, text: str) -> str:
        """The text that is scored."""
        for step in self.steps:
            text = step(text)
        return text

    @property
    def sha256(self) -> str:
        """Hex sha256 of the definition: name, version and the steps' names."""
        definition = [self.name, self.version, [step.__name__ for step in self.steps]]
        return hashlib.sha256(json.dumps(definition).encode()).hexdigest()


NORMALIZERS = {
    normalizer.name: normalizer
    for normalizer in (
        Normalizer("none", 1, ()),
        Normalizer(
            "basic",
            1,
            (nfkc, lower_case, nfkc, straight_apostrophes, punctuation_to_spaces, collapse_spaces),
        ),
    )
}


def get_normalizer(name: str) -> Normalizer:
    """The normaliser of that name.

    Raises:
        AsrCompressError: there is none.
    """
    if name not in NORMALIZERS:
        raise AsrCompressError(f"there is no normaliser {name!r}; take one of: {', '.join(NORMALIZERS)}")
    return NORMALIZERS[name]
