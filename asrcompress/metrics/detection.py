"""False accepts and false rejects of a keyword detector, and the area under their curve (AU FA-FR).

A clip is accepted when its score reaches the threshold. Both rates are counts divided by *all* clips,
positive or not; the curve has a threshold at every score, at 0 and at 1. Smaller is better. False
accepts per hour need running audio and are not counted here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.bootstrap import Interval, PairedInterval, draw_indices, percentiles


@dataclass(frozen=True)
class DetectionCurve:
    """The curve by ascending thresholds; false accepts fall along it and false rejects rise.

    `thresholds`, `false_accepts` and `false_rejects` are (num_thresholds,) arrays, the latter two counts.
    """

    thresholds: NDArray[np.float64]
    false_accepts: NDArray[np.int64]
    false_rejects: NDArray[np.int64]
    num_samples: int
    num_positives: int

    @property
    def false_accept_rate(self) -> NDArray[np.float64]:
        """False accepts over all clips."""
        return self.false_accepts / self.num_samples

    @property
    def false_reject_rate(self) -> NDArray[np.float64]:
        """False rejects over all clips."""
        return self.false_rejects / self.num_samples

    @property
    def au_fa_fr(self) -> float:
        """Area under false reject rate over false accept rate, by the trapezoid rule; from counts, so exact."""
        return float(_areas(self.false_accepts, self.false_rejects)) / self.num_samples**2


@dataclass(frozen=True)
class OperatingPoint:
    """What a detector does at one threshold. Rates are over all clips."""

    threshold: float
    false_accepts: int
    false_rejects: int
    num_samples: int
    num_positives: int

    @property
    def false_accept_rate(self) -> float:
        """False accepts over all clips."""
        return self.false_accepts / self.num_samples

    @property
    def false_reject_rate(self) -> float:
        """False rejects over all clips."""
        return self.false_rejects / self.num_samples


def detection_curve(scores: ArrayLike, labels: ArrayLike) -> DetectionCurve:
    """The whole curve.

    Args:
        scores: (num_samples,) probability of the keyword, in [0, 1].
        labels: (num_samples,) 1 or True where the clip holds the keyword.

    Raises:
        AsrCompressError: a score is NaN or outside [0, 1], or all clips are of one kind.
        ValueError: shapes differ, or a label is neither 0 nor 1.
    """
    values, positive = _checked(scores, labels)
    thresholds = np.unique(np.concatenate([[0.0], values, [1.0]]))
    position = np.searchsorted(thresholds, values)
    weights = np.ones((1, len(values)), dtype=np.int64)
    accepts, rejects = _curve_counts(position, positive, weights, len(thresholds))
    return DetectionCurve(thresholds, accepts[0], rejects[0], len(values), int(positive.sum()))


def at_threshold(scores: ArrayLike, labels: ArrayLike, threshold: float) -> OperatingPoint:
    """False accepts and false rejects at one threshold; a score equal to it is accepted.

    Raises:
        AsrCompressError: as for `detection_curve`, or the threshold is outside [0, 1].
    """
    values, positive = _checked(scores, labels)
    if not 0 <= threshold <= 1:
        raise AsrCompressError(f"threshold {threshold} is outside [0, 1]; it is compared with probabilities")
    accepted = values >= threshold
    return OperatingPoint(
        threshold,
        int((accepted & ~positive).sum()),
        int((~accepted & positive).sum()),
        len(values),
        int(positive.sum()),
    )


def thin_curve(curve: DetectionCurve, max_points: int = 200) -> dict[str, list[float]]:
    """At most `max_points` points of a curve for a plot, both ends among them; corners come first.

    Points where neither count changes are left out before anything else. The area is not to be taken from this.
    """
    changed = (np.diff(curve.false_accepts) != 0) | (np.diff(curve.false_rejects) != 0)
    kept = np.flatnonzero(np.concatenate([[True], changed[:-1], [True]]))
    if len(kept) > max_points:
        kept = kept[np.linspace(0, len(kept) - 1, max_points).round().astype(int)]
    return {
        "threshold": curve.thresholds[kept].tolist(),
        "false_accept_rate": curve.false_accept_rate[kept].tolist(),
        "false_reject_rate": curve.false_reject_rate[kept].tolist(),
    }


def bootstrap_au_fa_fr(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of AU FA-FR when clips are drawn with replacement.

    A draw without positives or without negatives has no curve; it is drawn again.

    Raises:
        AsrCompressError: as for `detection_curve`.
    """
    values, positive = _checked(scores, labels)
    areas = _resampled_areas([values], positive, num_resamples, seed)[0]
    low, high = percentiles(areas, confidence)
    return Interval(low, high, confidence, num_resamples, seed)


def paired_bootstrap_au_fa_fr(
    scores: ArrayLike,
    baseline_scores: ArrayLike,
    labels: ArrayLike,
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedInterval:
    """Interval of the difference of two systems' AU FA-FR (candidate - baseline) on the same draws of clips.

    Raises:
        AsrCompressError: as for `detection_curve`.
    """
    values, positive = _checked(scores, labels)
    baseline, _ = _checked(baseline_scores, labels)
    candidate_areas, baseline_areas = _resampled_areas([values, baseline], positive, num_resamples, seed)
    low, high = percentiles(candidate_areas - baseline_areas, confidence)
    delta = detection_curve(values, positive).au_fa_fr - detection_curve(baseline, positive).au_fa_fr
    return PairedInterval(delta, low, high, confidence, num_resamples, seed)


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    values, marks = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 1 or marks.shape != values.shape:
        raise ValueError(f"scores and labels are not two rows of one length: {values.shape}, {marks.shape}")
    if not np.isin(marks, (0, 1)).all():
        raise ValueError("a label is neither 0 nor 1")
    broken = np.isnan(values)
    if broken.any():
        raise AsrCompressError(
            f"{int(broken.sum())} of {len(values)} scores are NaN, the first at clip {int(np.argmax(broken))}: "
            "the model's output is broken; check its weights, or compress it less"
        )
    outside = (values < 0) | (values > 1)
    if outside.any():
        raise AsrCompressError(
            f"score {values[np.argmax(outside)]:g} of clip {int(np.argmax(outside))} is outside [0, 1]; "
            "give probabilities, after softmax"
        )
    positive = marks.astype(bool)
    if not positive.any():
        raise AsrCompressError(f"none of the {len(values)} clips holds the keyword; add clips that do")
    if positive.all():
        raise AsrCompressError(f"all {len(values)} clips hold the keyword; add clips that do not")
    return values, positive


def _curve_counts(
    position: NDArray[np.int64], positive: NDArray[np.bool_], weights: NDArray[np.int64], num_thresholds: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts at every threshold, for several weightings of the clips.

    Args:
        position: (num_samples,) which threshold each clip's score is.
        positive: (num_samples,) mask.
        weights: (rows, num_samples) how often each clip counts.
        num_thresholds: how many thresholds there are.

    Returns:
        False accepts and false rejects, each (rows, num_thresholds).
    """
    order = np.argsort(position, kind="stable")
    # Where in that order the scores begin that reach each threshold.
    begin = np.searchsorted(position[order], np.arange(num_thresholds))
    sorted_weights, sorted_positive = weights[:, order], positive[order]
    negatives_below = _cumulated(sorted_weights * ~sorted_positive)
    positives_below = _cumulated(sorted_weights * sorted_positive)
    return negatives_below[:, -1:] - negatives_below[:, begin], positives_below[:, begin]


def _cumulated(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Running sums along the last axis that begin with 0: one longer than `counts`."""
    return np.concatenate([np.zeros((len(counts), 1), dtype=np.int64), counts.cumsum(axis=1)], axis=1)


def _areas(accepts: NDArray[np.int64], rejects: NDArray[np.int64]) -> NDArray[np.float64]:
    """Trapezoid areas along the last axis, in counts squared."""
    widths = accepts[..., :-1] - accepts[..., 1:]
    areas: NDArray[np.float64] = (widths * (rejects[..., :-1] + rejects[..., 1:])).sum(axis=-1) / 2
    return areas


def _resampled_areas(
    systems: list[NDArray[np.float64]], positive: NDArray[np.bool_], num_resamples: int, seed: int
) -> list[NDArray[np.float64]]:
    """(num_resamples,) areas for each system; every system sees the same draws."""
    num_samples = len(positive)
    grids = [np.unique(np.concatenate([[0.0], values, [1.0]])) for values in systems]
    positions = [np.searchsorted(grid, values) for grid, values in zip(grids, systems, strict=True)]
    blocks: list[list[NDArray[np.float64]]] = [[] for _ in systems]
    num_drawn = 0
    for indices in draw_indices(num_samples, num_resamples, seed):
        drawn_positives = positive[indices].sum(axis=1)
        indices = indices[(drawn_positives > 0) & (drawn_positives < num_samples)]
        offsets = np.arange(len(indices))[:, None] * num_samples
        weights = np.bincount((indices + offsets).ravel(), minlength=indices.size).reshape(indices.shape)
        for block, grid, position in zip(blocks, grids, positions, strict=True):
            block.append(_areas(*_curve_counts(position, positive, weights, len(grid))) / num_samples**2)
        num_drawn += len(indices)
        if num_drawn >= num_resamples:
            break
    return [np.concatenate(block)[:num_resamples] for block in blocks]
