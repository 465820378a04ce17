"""Vocabulary pieces to text. No SentencePiece model is needed for that: pieces carry their own word boundaries."""

from __future__ import annotations

from collections.abc import Sequence

PIECE_BOUNDARY = "\u2581"  # SentencePiece's, at the start of a word
LETTER_BOUNDARY = "|"  # wav2letter's, between words


def join_pieces(pieces: Sequence[str], text_units: str) -> str:
    """The text that decoded symbols stand for.

    Args:
        pieces: symbols of the vocabulary, specials left out.
        text_units: `words`, `sentencepiece` or `letters`.
    """
    if text_units == "words":
        return " ".join(pieces)
    boundary = LETTER_BOUNDARY if text_units == "letters" else PIECE_BOUNDARY
    return "".join(pieces).replace(boundary, " ").strip()


def guess_text_units(symbols: Sequence[str]) -> str:
    """What a vocabulary is made of, by its word boundaries, for tasks that do not say."""
    if any(PIECE_BOUNDARY in symbol for symbol in symbols):
        return "sentencepiece"
    return "letters" if LETTER_BOUNDARY in symbols else "words"
