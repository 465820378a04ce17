"""What is kept of a weight, as options and rules say it: an N:M pattern, all but a fraction of zeros, or everything.

For `quantize` and `sparsify` alike. The options themselves are in recipe.py and sparsify_config.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from asrcompress.errors import AsrCompressError
from asrcompress.patterns import parse_pattern
from asrcompress.sparsifiers import needs_statistics
from asrcompress.sparsifiers.ranking import Choice, check_sparsity

NO_PATTERN = "none"
DEFAULT_SPARSIFIER = "magnitude"
Said = str | float | None  # a pattern, `none`, or a fraction of zeros, as it was given; None where nothing is said


class SparsityRule(Protocol):
    """What a rule says of sparsity; None leaves a thing as it was."""

    @property
    def pattern(self) -> str | None:
        """keep_n:group_m, or `none`."""

    @property
    def sparsity(self) -> float | None:
        """The fraction of zeros."""

    @property
    def sparsifier(self) -> str | None:
        """How the kept ones are chosen."""

    def fits(self, name: str) -> bool:
        """Whether the rule is about this weight."""


def check_said(pattern: str | None, sparsity: float | None) -> Said:
    """The one of both that is given, checked.

    Raises:
        AsrCompressError: both are, or it is no pattern or no fraction.
    """
    if pattern is not None and sparsity is not None:
        raise AsrCompressError(
            f"pattern {pattern} and sparsity {sparsity}: give one of them; a pattern has its fraction of zeros, 2:4 one half"
        )
    if pattern not in (None, NO_PATTERN):
        parse_pattern(str(pattern))
    if sparsity is not None:
        check_sparsity(sparsity)
    return pattern if pattern is not None else sparsity


def said_of(name: str, said: Said, sparsifier: str | None, rules: Iterable[SparsityRule]) -> tuple[Said, str]:
    """What options and, over them, the rules that fit say of a weight, and the sparsifier."""
    chosen = sparsifier or DEFAULT_SPARSIFIER
    for rule in rules:
        if rule.fits(name):
            said = rule.pattern if rule.pattern is not None else said if rule.sparsity is None else rule.sparsity
            chosen = rule.sparsifier or chosen
    return said, chosen


def drops(said: Said) -> bool:
    """Whether something is dropped."""
    return said not in (None, NO_PATTERN)


def check_coding(coding: str | None, *, is_compact: bool = False) -> str | None:
    """The entropy coding `zstd` as it is, `none` as None.

    Raises:
        AsrCompressError: it is neither; or it is asked for in a compact file, where every tensor is coded already.
    """
    if coding == "zstd" and is_compact:
        raise AsrCompressError(
            "--compact codes every tensor, better than zstd; leave out --entropy-coding, or give --entropy-coding none"
        )
    if coding not in (None, "none", "zstd"):
        raise AsrCompressError(f"entropy coding {coding}: use zstd, or none")
    return None if coding == "none" else coding


def as_choice(said: Said) -> Choice | None:
    """What a sparsifier is asked for; None where all is kept."""
    if isinstance(said, str):
        return None if said == NO_PATTERN else parse_pattern(said)
    return said


def wants_inputs(choice: Choice | None, sparsifier: str) -> bool:
    """Whether a weight's inputs have a say in what it keeps."""
    return choice is not None and needs_statistics(sparsifier)
