"""From posteriors over time to detections: moving average, threshold, debounce.

A stream gives the keyword's probability at even steps of time. Its moving average over the last steps is compared
with the threshold; steps before the start, or before a reset, count as 0. The first step that reaches the threshold
is a detection, and for the debounce after it nothing is detected again. `smooth` and `detections` do that for a
whole recording, `Detector` for a stream as it comes in. Matching detections with keywords is `match`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray


def smooth(probabilities: ArrayLike, num_steps: int) -> NDArray[np.float64]:
    """The mean of each step and the `num_steps - 1` before it, (steps,) -> (steps,)."""
    values = np.asarray(probabilities, dtype=np.float64)
    return _means(np.concatenate([np.zeros(num_steps - 1), values]), num_steps)


def _means(values: NDArray[np.float64], num_steps: int) -> NDArray[np.float64]:
    """Means of all windows of `num_steps`; each window by itself, so that where a stream was cut changes no digit."""
    if len(values) < num_steps:
        return np.zeros(0)
    return np.lib.stride_tricks.sliding_window_view(values, num_steps).mean(axis=1)


def detections(smoothed: ArrayLike, threshold: float, debounce_steps: int) -> NDArray[np.int64]:
    """The steps of all detections.

    Args:
        smoothed: (steps,) what is compared with the threshold.
        threshold: reached by an equal value.
        debounce_steps: from one detection to the next there are at least as many steps; 1 lets every step detect.
    """
    above = np.flatnonzero(np.asarray(smoothed) >= threshold)
    found: list[int] = []
    position = 0
    while position < len(above):
        found.append(int(above[position]))
        position = int(np.searchsorted(above, found[-1] + debounce_steps))
    return np.array(found, dtype=np.int64)


@dataclass
class Detector:
    """What stands behind a stream on a device: remembers the last probabilities and the last detection.

    `num_steps` is how many steps went through it.
    """

    threshold: float
    smoothing_steps: int
    debounce_steps: int
    num_steps: int = 0
    _ready_at: int = 0
    _history: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the probabilities so far, not the debounce."""
        self._history = np.zeros(self.smoothing_steps - 1)

    def advance(self, probabilities: ArrayLike) -> tuple[NDArray[np.float64], bool]:
        """Take in steps up to the first detection in them, that one included, or all of them.

        Returns:
            The moving averages of the steps taken in, and whether the last of them is a detection. Steps after it have
            not been seen: give them again.
        """
        values = np.concatenate([self._history, np.asarray(probabilities, dtype=np.float64)])
        smoothed = _means(values, self.smoothing_steps)
        first = max(0, self._ready_at - self.num_steps)
        above = np.flatnonzero(smoothed[first:] >= self.threshold)
        count = first + int(above[0]) + 1 if len(above) else len(smoothed)
        self._history = values[count : count + self.smoothing_steps - 1]
        self.num_steps += count
        if len(above):
            self._ready_at = self.num_steps - 1 + self.debounce_steps
        return smoothed[:count], bool(len(above))


@dataclass(frozen=True)
class Matches:
    """Which detections belong to which keyword.

    first: (keywords,) which detection accepted each keyword, -1 where none did. `num_repeated` further detections fell
    into the span of an accepted keyword; `num_elsewhere` into no span: false accepts.
    """

    first: NDArray[np.int64]
    num_repeated: int
    num_elsewhere: int

    @property
    def num_rejected(self) -> int:
        """Keywords that nothing detected."""
        return int((self.first < 0).sum())


def match(times_s: ArrayLike, starts_s: ArrayLike, ends_s: ArrayLike) -> Matches:
    """Match detections with keywords: the first in a keyword's span accepts it.

    Args:
        times_s: (detections,) ascending.
        starts_s: (keywords,) ascending; where each span begins. The beginning is not in it.
        ends_s: (keywords,) where it ends. The end is in it. No span reaches into the next.

    Raises:
        ValueError: spans overlap, or are not in order.
    """
    times, starts, ends = (np.asarray(values, dtype=np.float64) for values in (times_s, starts_s, ends_s))
    if (ends < starts).any() or (starts[1:] < ends[:-1]).any():
        raise ValueError("spans of keywords overlap or are not in order")
    begin = np.searchsorted(times, starts, side="right")
    counts = np.searchsorted(times, ends, side="right") - begin
    first = np.where(counts > 0, begin, -1)
    return Matches(first, int(np.maximum(counts - 1, 0).sum()), len(times) - int(counts.sum()))
