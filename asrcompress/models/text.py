"""Vocabulary pieces to text. No SentencePiece model is needed for that: pieces carry their own word boundaries."""

from __future__ import annotations

from collections.abc import Sequence

LETTERS, SENTENCEPIECE, WORDS = "letters", "sentencepiece", "words"  # text units
PIECE_BOUNDARY = "\u2581"  # SentencePiece's, at the start of a word
LETTER_BOUNDARY = "|"  # of letter dictionaries, between words


def join_pieces(pieces: Sequence[str], text_units: str) -> str:
    """The text that decoded symbols stand for.

    Args:
        pieces: symbols of the vocabulary, specials left out.
        text_units: `words`, `sentencepiece` or `letters`.
    """
    if text_units == WORDS:
        return " ".join(pieces)
    return "".join(pieces).replace(LETTER_BOUNDARY if text_units == LETTERS else PIECE_BOUNDARY, " ").strip()


def guess_text_units(symbols: Sequence[str]) -> str:
    """What a vocabulary is made of, by its word boundaries, for tasks that do not say."""
    if any(symbol.startswith(PIECE_BOUNDARY) for symbol in symbols):
        return SENTENCEPIECE
    return LETTERS if LETTER_BOUNDARY in symbols else WORDS
