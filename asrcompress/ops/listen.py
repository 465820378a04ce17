"""Playing recordings to a stream: the probability of the keyword over time, without and with a reset after detections.

A stream is a family's: `feed(samples)` and `finish()` give steps, `copy()` and `reset()` are about its state. What
counts as a detection is metrics/events.py's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.events import Detector, detections, smooth

BLOCK_S = 20.0  # audio that is fed at once
AHEAD_S = 0.5  # after a detection


@dataclass(frozen=True)
class Heard:
    """A recording's probabilities, each (steps,): when their audio ends, as the stream gives them, their moving average.

    detections: steps that are one.
    """

    times_s: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    detections: NDArray[np.int64]

    @property
    def detections_s(self) -> NDArray[np.float64]:
        """When something was detected."""
        return self.times_s[self.detections]

    def detect(self, threshold: float, debounce_steps: int) -> Heard:
        """The same recording at another threshold; only where nothing was reset."""
        found = detections(self.smoothed, threshold, debounce_steps)
        return Heard(self.times_s, self.probabilities, self.smoothed, found)


@dataclass
class Stopwatch:
    """Audio played and time that the streams took: by the clock, and on a processor."""

    audio_s: float = 0.0
    compute_s: float = 0.0
    cpu_s: float = 0.0


def listen(
    stream: Any, recording: Iterable[np.ndarray], sample_rate_hz: int, smoothing_steps: int, watch: Stopwatch
) -> Heard:
    """Play a recording without a reset; nothing is detected yet."""
    steps: list[Any] = []
    for block in _blocks(recording, sample_rate_hz):
        steps += _timed(watch, stream.feed, block)
        watch.audio_s += len(block) / sample_rate_hz
    steps += _timed(watch, stream.finish)
    probabilities = _checked(steps)
    times_s = np.array([step.time_s for step in steps])
    return Heard(times_s, probabilities, smooth(probabilities, smoothing_steps), np.zeros(0, dtype=np.int64))


def listen_and_reset(stream: Any, recording: Iterable[np.ndarray], sample_rate_hz: int, detector: Detector) -> Heard:
    """Play a recording; right after each step that is a detection, the stream and the detector forget what they heard.

    The reset falls between two steps however the audio is cut: a piece with a detection is taken back and played again up
    to the end of that step's audio. As detections often follow on each other, pieces are short after one, and then grow.
    """
    steps: list[Any] = []
    smoothed: list[NDArray[np.float64]] = []
    found: list[int] = []
    ahead = int(BLOCK_S * sample_rate_hz)
    played = 0  # samples
    for block in _blocks(recording, sample_rate_hz):
        while len(block):
            before, piece = stream.copy(), block[:ahead]
            new = stream.feed(piece)
            averages, is_detection = detector.advance(_checked(new))
            steps += new[: len(averages)]
            smoothed.append(averages)
            ahead *= 2
            if is_detection:
                found.append(len(steps) - 1)
                piece = piece[: round(steps[-1].time_s * sample_rate_hz) - played]
                stream = before
                stream.feed(piece)
                stream.reset()
                detector.reset()
                ahead = int(AHEAD_S * sample_rate_hz)
            block, played = block[len(piece) :], played + len(piece)
    rest = stream.finish()
    while rest:  # steps at the very end, after which there is nothing to be heard
        averages, is_detection = detector.advance(_checked(rest))
        steps += rest[: len(averages)]
        smoothed.append(averages)
        rest = rest[len(averages) :]
        if is_detection:
            found.append(len(steps) - 1)
    return Heard(
        np.array([step.time_s for step in steps]),
        np.array([step.probability for step in steps]),
        np.concatenate([np.zeros(0), *smoothed]),
        np.array(found, dtype=np.int64),
    )


def _timed(watch: Stopwatch, call: Callable[..., list[Any]], *arguments: np.ndarray) -> list[Any]:
    begin, cpu_begin = time.perf_counter(), time.process_time()
    result = call(*arguments)
    watch.compute_s += time.perf_counter() - begin
    watch.cpu_s += time.process_time() - cpu_begin
    return result


def _blocks(recording: Iterable[np.ndarray], sample_rate_hz: int) -> Iterator[np.ndarray]:
    """The same samples in pieces of about BLOCK_S: short ones are put together, as one call costs as much as another."""
    size = int(BLOCK_S * sample_rate_hz)
    waiting: list[np.ndarray] = []
    for samples in recording:
        waiting.append(samples)
        if sum(map(len, waiting)) >= size:
            joined = np.concatenate(waiting)
            whole = len(joined) // size * size
            yield from np.split(joined[:whole], range(size, whole, size))
            waiting = [joined[whole:]]
    if sum(map(len, waiting)):
        yield np.concatenate(waiting)


def _checked(steps: list[Any]) -> NDArray[np.float64]:
    probabilities = np.array([step.probability for step in steps], dtype=np.float64)
    if np.isnan(probabilities).any():
        raise AsrCompressError(
            f"the probability at {steps[int(np.argmax(np.isnan(probabilities)))].time_s:.2f} s is NaN: the model's output "
            "is broken; check its weights, or compress it less"
        )
    return probabilities
