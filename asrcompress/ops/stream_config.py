"""Options of `eval --streaming`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from asrcompress.errors import AsrCompressError

SHORTEST_MS, LONGEST_MS = 1.0, 60_000.0
_NUMBER = r"(\d+(?:\.\d+)?)"
_CHUNKS = re.compile(rf"{_NUMBER}(?:\.\.{_NUMBER})?")


@dataclass(frozen=True)
class StreamConfig:
    """How clips are played.

    chunk_ms: shortest and longest piece, in milliseconds; where they differ, each length is drawn anew, all alike likely.
    window_s: audio that the model's attention sees.
    """

    chunk_ms: tuple[float, float] = (100.0, 100.0)
    window_s: float = 1.0

    def chunk_samples(self, sample_rate_hz: int) -> tuple[int, int]:
        """Shortest and longest piece in samples, at least one."""
        low, high = (max(1, round(ms * sample_rate_hz / 1000)) for ms in self.chunk_ms)
        return low, high


def parse_chunk_ms(text: str) -> tuple[float, float]:
    """`100` or `10..500` -> shortest and longest, in milliseconds.

    Raises:
        AsrCompressError: neither of the two, or out of range.
    """
    match = _CHUNKS.fullmatch(text.strip())
    if match is None:
        raise AsrCompressError(
            f"--chunk-ms {text}: is no length; use milliseconds such as 100, or 10..500 for random lengths"
        )
    low = float(match[1])
    high = float(match[2]) if match[2] else low
    if not SHORTEST_MS <= low <= high <= LONGEST_MS:
        raise AsrCompressError(
            f"--chunk-ms {text}: is out of range; use {SHORTEST_MS:g} to {LONGEST_MS:g}, the shorter one first"
        )
    return low, high
