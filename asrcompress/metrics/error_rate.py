"""Word and character error rate of a corpus, with the counts that they are made of.

Alignment is jiwer's, through its library: its command line drops short lines. A corpus rate is all
errors over all reference words, not a mean of utterance rates. Intervals are bootstrap.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asrcompress.metrics.normalizers import Normalizer

if TYPE_CHECKING:
    from jiwer import AlignmentChunk


@dataclass(frozen=True)
class EditCounts:
    """Edits that turn a reference into a hypothesis, and the reference's length, in one kind of unit."""

    substitutions: int
    insertions: int
    deletions: int
    num_reference: int

    @property
    def num_errors(self) -> int:
        """Substitutions, insertions and deletions together."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float | None:
        """Errors per reference unit, a fraction that may pass 1; None where the reference is empty."""
        return self.num_errors / self.num_reference if self.num_reference else None

    def __add__(self, other: EditCounts) -> EditCounts:
        return EditCounts(
            self.substitutions + other.substitutions,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.num_reference + other.num_reference,
        )


@dataclass(frozen=True)
class UtteranceErrors:
    """One utterance as it was scored: the normalised texts and the edits between them."""

    reference: str
    hypothesis: str
    words: EditCounts
    chars: EditCounts


@dataclass(frozen=True)
class ErrorRate:
    """A corpus as it was scored. `wer` and `cer` are fractions; None where no reference has a word."""

    wer: float | None
    cer: float | None
    substitutions: int
    insertions: int
    deletions: int
    num_reference_words: int
    char_substitutions: int
    char_insertions: int
    char_deletions: int
    num_reference_chars: int
    num_utterances: int
    num_empty_references: int
    num_empty_hypotheses: int
    per_utterance: tuple[UtteranceErrors, ...]

    def metrics(self) -> dict[str, Any]:
        """Everything but the utterances, by name, as a sidecar has it."""
        return {name: value for name, value in vars(self).items() if name != "per_utterance"}


def score(references: Sequence[str], hypotheses: Sequence[str], *, normalizer: Normalizer) -> ErrorRate:
    """Score hypotheses against references, both normalised first.

    Words are what whitespace separates. Characters include one space between words.

    Args:
        references: what was said, one text an utterance; empty where nothing was said.
        hypotheses: what was recognised, in the same order.
        normalizer: applied to both.

    Raises:
        ValueError: there are not as many hypotheses as references.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references, but {len(hypotheses)} hypotheses")
    expected = [normalizer(text) for text in references]
    recognised = [normalizer(text) for text in hypotheses]
    words = _count_edits(expected, recognised, _split_words)
    chars = _count_edits(expected, recognised, _split_chars)
    nothing = EditCounts(0, 0, 0, 0)
    all_words, all_chars = sum(words, nothing), sum(chars, nothing)
    return ErrorRate(
        wer=all_words.rate,
        cer=all_chars.rate,
        substitutions=all_words.substitutions,
        insertions=all_words.insertions,
        deletions=all_words.deletions,
        num_reference_words=all_words.num_reference,
        char_substitutions=all_chars.substitutions,
        char_insertions=all_chars.insertions,
        char_deletions=all_chars.deletions,
        num_reference_chars=all_chars.num_reference,
        num_utterances=len(expected),
        num_empty_references=sum(not text.split() for text in expected),
        num_empty_hypotheses=sum(not text.split() for text in recognised),
        per_utterance=tuple(map(UtteranceErrors, expected, recognised, words, chars)),
    )


def _split_words(texts: list[str]) -> list[list[str]]:
    return [text.split() for text in texts]


def _split_chars(texts: list[str]) -> list[list[str]]:
    return [list(" ".join(text.split())) for text in texts]


def _count_edits(
    references: list[str], hypotheses: list[str], split: Callable[[list[str]], list[list[str]]]
) -> list[EditCounts]:
    """Align every pair and count. `split` takes the place of jiwer's transforms, which split at spaces only."""
    import jiwer

    if not references:
        return []
    transform: Any = split  # any callable serves jiwer, though its signature asks for its own classes
    output = jiwer.process_words(references, hypotheses, transform, transform)
    return [
        EditCounts(
            substitutions=sum(chunk.ref_end_idx - chunk.ref_start_idx for chunk in _of(chunks, "substitute")),
            insertions=sum(chunk.hyp_end_idx - chunk.hyp_start_idx for chunk in _of(chunks, "insert")),
            deletions=sum(chunk.ref_end_idx - chunk.ref_start_idx for chunk in _of(chunks, "delete")),
            num_reference=len(reference),
        )
        for reference, chunks in zip(output.references, output.alignments, strict=True)
    ]


def _of(chunks: list[AlignmentChunk], kind: str) -> list[AlignmentChunk]:
    return [chunk for chunk in chunks if chunk.type == kind]
