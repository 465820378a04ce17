"""Keyword clips glued between clips of other words, as one recording: where each lies, and its samples.

Clips are as long as they were recorded, and are put together without a pause or a fade. What is done with
the recording is long_form.py's work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from asrcompress.speech.audio import read_audio
from asrcompress.speech.keyword_datasets import KeywordClip


@dataclass(frozen=True)
class Placed:
    """A clip and the samples of the recording that it fills: from `start` to before `end`."""

    clip: KeywordClip
    start: int
    end: int


def glue(clips: Sequence[KeywordClip], lengths: Sequence[int], *, gap: int, seed: int) -> list[Placed]:
    """Place all keyword clips, in order, between clips of other words.

    Args:
        clips: with and without the keyword, at least one of each.
        lengths: of each clip in samples, at least 1.
        gap: samples of other words, at least, before each keyword, between two, and after the last; whole clips.
        seed: of the order of the other words' clips, which are used again when all have been.

    Returns:
        Clips in the order of the recording; the first begins at 0.
    """
    order = np.random.default_rng(seed).permutation([i for i, clip in enumerate(clips) if not clip.is_keyword])
    others = cycle(order.tolist())
    placed: list[Placed] = []
    end = 0

    def add(index: int) -> None:
        nonlocal end
        placed.append(Placed(clips[index], end, end + lengths[index]))
        end += lengths[index]

    def fill() -> None:
        start = end
        while end - start < gap or end == start:
            add(next(others))

    for index, clip in enumerate(clips):
        if clip.is_keyword:
            fill()
            add(index)
    fill()
    return placed


def samples_of(placed: Sequence[Placed], sample_rate_hz: int) -> Iterator[np.ndarray]:
    """The samples of each clip, (samples,) float32."""
    for each in placed:
        yield read_audio(each.clip.audio, sample_rate_hz=sample_rate_hz)
