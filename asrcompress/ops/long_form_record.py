"""What long-form evaluation says of recordings that were heard: counts, latency, plateau, curve, a piece to look at.

Arithmetic only: nothing is read or played here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asrcompress.metrics.events import Matches, detections, match
from asrcompress.metrics.poisson import poisson_interval
from asrcompress.ops.listen import Heard
from asrcompress.ops.long_form_config import TOLERANCE_S

MAX_EVENTS = 100
POINTS_PER_SIDE = 100  # of the curve: thresholds that change false accepts, and those that change false rejects


@dataclass(frozen=True)
class Recording:
    """Parts played one after the other.

    names: of each part, (its set or word, its id). borders_s: (parts + 1,), where they begin and the last one ends.
    read: gives the samples of each part.
    """

    names: list[tuple[str, str]]
    borders_s: NDArray[np.float64]
    read: Callable[[], Iterator[np.ndarray]]

    @property
    def duration_s(self) -> float:
        """Of all parts together."""
        return float(self.borders_s[-1])


@dataclass(frozen=True)
class Keywords:
    """A recording in which some parts, `positions`, are the keyword, and `gap_s` at least lies between them."""

    recording: Recording
    positions: NDArray[np.int64]
    gap_s: float

    @property
    def starts_s(self) -> NDArray[np.float64]:
        """Where each keyword's clip begins."""
        return self.recording.borders_s[self.positions]

    @property
    def ends_s(self) -> NDArray[np.float64]:
        """Where it ends."""
        return self.recording.borders_s[self.positions + 1]

    @property
    def record(self) -> dict[str, Any]:
        """Facts about the recording."""
        return {
            "num_keywords": len(self.positions),
            "num_other": len(self.recording.names) - len(self.positions),
            "duration_s": round(self.recording.duration_s, 6),
            "gap_s": self.gap_s,
        }

    def match(self, heard: Heard) -> Matches:
        """A detection from a clip's beginning to TOLERANCE_S after its end is the keyword's."""
        return match(heard.detections_s, self.starts_s, self.ends_s + TOLERANCE_S)

    def peaks(self, times_s: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The largest value in each keyword's span, (keywords,); 0 where no step falls into it."""
        begin = np.searchsorted(times_s, self.starts_s, side="right")
        end = np.searchsorted(times_s, self.ends_s + TOLERANCE_S, side="right")
        return np.array([values[b:e].max(initial=0.0) for b, e in zip(begin, end, strict=True)])


def outcome(negative: Heard, positive: Heard, keywords: Keywords, hours: float, confidence: float) -> dict[str, Any]:
    """Counts, rates and latencies of one policy."""
    matches = keywords.match(positive)
    accepted = matches.first >= 0
    times_s = positive.detections_s[matches.first[accepted]]
    num_accepts = len(negative.detections)
    return {
        "false_accepts": num_accepts,
        "false_accepts_per_hour": num_accepts / hours,
        "interval": asdict(poisson_interval(num_accepts, hours, confidence=confidence)),
        "false_rejects": matches.num_rejected,
        "false_reject_rate": matches.num_rejected / len(accepted),
        "repeated_detections": matches.num_repeated,
        "false_accepts_between_keywords": matches.num_elsewhere,
        "latency_from_start_ms": _spread((times_s - keywords.starts_s[accepted]) * 1000),
        "latency_from_end_ms": _spread((times_s - keywords.ends_s[accepted]) * 1000),
    }


def plateau(plain: Heard, reset: Heard, keywords: Keywords, threshold: float, step_s: float) -> dict[str, Any]:
    """How long the threshold is reached around a keyword, from its beginning to where the next one begins.

    raw: probabilities as they come. smoothed: their moving average. reset: that, with a reset after each detection.
    Over the keywords that reach it at all.
    """
    ends_s = np.append(keywords.starts_s[1:], keywords.recording.duration_s)

    def above_s(times_s: NDArray[np.float64], values: NDArray[np.float64]) -> dict[str, float] | None:
        times_s = times_s[values >= threshold]
        counts = np.searchsorted(times_s, ends_s, "right") - np.searchsorted(times_s, keywords.starts_s, "right")
        found = counts[counts > 0].astype(np.float64) * step_s
        spread = _spread(found)
        return spread and spread | {"mean": float(found.mean())}

    return {
        "raw_s": above_s(plain.times_s, plain.probabilities),
        "smoothed_s": above_s(plain.times_s, plain.smoothed),
        "reset_s": above_s(reset.times_s, reset.smoothed),
    }


def where(heard: Heard, recording: Recording) -> list[dict[str, Any]]:
    """The first MAX_EVENTS detections, with the part of the recording that each one's audio ends in."""
    times_s = heard.detections_s[:MAX_EVENTS]
    parts = np.clip(np.searchsorted(recording.borders_s, times_s, side="left") - 1, 0, len(recording.names) - 1)
    events = []
    for step, time_s, part in zip(heard.detections, times_s.tolist(), parts.tolist(), strict=False):
        name, identifier = recording.names[part]
        within_s = round(time_s - float(recording.borders_s[part]), 6)
        events.append({"set": name, "id": identifier, "time_s": within_s, "score": float(heard.smoothed[step])})
    return events


def curve(
    negative: Heard, positive: Heard, keywords: Keywords, hours: float, debounce_steps: int
) -> dict[str, list[float]]:
    """False accepts per hour and the share of keywords missed over ascending thresholds, without resets."""
    thresholds = _thresholds(negative.smoothed, keywords.peaks(positive.times_s, positive.smoothed), debounce_steps)
    accepts = [len(detections(negative.smoothed, threshold, debounce_steps)) / hours for threshold in thresholds]
    rejected = [keywords.match(positive.detect(threshold, debounce_steps)).num_rejected for threshold in thresholds]
    return {
        "threshold": thresholds,
        "false_accepts_per_hour": accepts,
        "false_reject_rate": [count / len(keywords.positions) for count in rejected],
    }


def _thresholds(negative: NDArray[np.float64], peaks: NDArray[np.float64], debounce_steps: int) -> list[float]:
    """Where something changes, dense where few false accepts or few false rejects are left."""
    padded = np.append(negative, np.zeros(-len(negative) % debounce_steps))
    blocks = padded.reshape(-1, debounce_steps).max(axis=1)
    chosen = [np.sort(blocks)[::-1], np.sort(peaks)]
    picked = [
        values[np.unique(np.geomspace(1, len(values), POINTS_PER_SIDE).astype(int)) - 1]
        for values in chosen
        if len(values)
    ]
    thresholds: list[float] = np.unique(np.concatenate(picked)).tolist()
    return thresholds


def trace(plain: Heard, reset: Heard, keywords: Keywords, threshold: float) -> dict[str, Any] | None:
    """The keyword that was detected with the median latency, and the clips around it, without and with the policy.

    None where the policy detected none.
    """
    matches = keywords.match(reset)
    accepted = np.flatnonzero(matches.first >= 0)
    if not len(accepted):
        return None
    latency_s = reset.detections_s[matches.first[accepted]] - keywords.starts_s[accepted]
    chosen = int(accepted[np.argsort(latency_s, kind="stable")[(len(accepted) - 1) // 2]])
    borders_s, position = keywords.recording.borders_s, int(keywords.positions[chosen])
    first = position - 1
    last = int(keywords.positions[chosen + 1]) - 1 if chosen + 1 < len(keywords.positions) else len(borders_s) - 2
    start_s, end_s = float(borders_s[first]), float(borders_s[last + 1])

    def cut(heard: Heard) -> dict[str, list[float]]:
        inside = (heard.times_s > start_s) & (heard.times_s <= end_s)
        found = heard.detections_s[(heard.detections_s > start_s) & (heard.detections_s <= end_s)]
        return {
            "time_s": _rounded(heard.times_s[inside] - start_s),
            "probability": heard.probabilities[inside].tolist(),
            "smoothed": heard.smoothed[inside].tolist(),
            "detections_s": _rounded(found - start_s),
        }

    clips = [
        {
            "word": keywords.recording.names[part][0],
            "id": keywords.recording.names[part][1],
            "is_keyword": part == position,
            "start_s": round(float(borders_s[part]) - start_s, 6),
            "end_s": round(float(borders_s[part + 1]) - start_s, 6),
        }
        for part in range(first, last + 1)
    ]
    return {"threshold": threshold, "clips": clips, "without_policy": cut(plain), "with_policy": cut(reset)}


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(value, 6) for value in values.tolist()]


def _spread(values: NDArray[np.float64]) -> dict[str, float] | None:
    """Median and 95th percentile, or None of nothing."""
    if not len(values):
        return None
    median, p95 = np.percentile(values, [50, 95])
    return {"median": float(median), "p95": float(p95)}
