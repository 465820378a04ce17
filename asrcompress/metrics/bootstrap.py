"""Bootstrap confidence intervals of corpus error rates, alone and paired.

Whole utterances are drawn with replacement and the corpus rate is taken again (percentile method).
Two systems are compared on the same draws, which removes what the utterances have in common.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_DRAWS_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Interval:
    """A percentile interval of a rate, and how it was found."""

    low: float
    high: float
    confidence: float
    num_resamples: int
    seed: int


@dataclass(frozen=True)
class PairedInterval:
    """The difference of two rates (candidate - baseline), its percentile interval, and how it was found."""

    delta: float
    low: float
    high: float
    confidence: float
    num_resamples: int
    seed: int


def bootstrap_interval(
    errors: ArrayLike,
    totals: ArrayLike,
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of sum(errors) / sum(totals).

    A draw in which no utterance has a reference word has no rate; it is drawn again.

    Args:
        errors: (num_utterances,) errors of each utterance.
        totals: (num_utterances,) reference words (or characters) of each utterance.
        num_resamples: how many draws.
        confidence: the share of draws inside the interval, a fraction.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: lengths differ, a count is negative, all totals are 0, or an option is out of range.
    """
    counted, words = _columns(totals, errors)
    rates = _resampled_rates(counted, words, num_resamples, seed)[0]
    low, high = percentiles(rates, confidence)
    return Interval(low, high, confidence, num_resamples, seed)


def paired_bootstrap(
    errors: ArrayLike,
    baseline_errors: ArrayLike,
    totals: ArrayLike,
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedInterval:
    """Interval of the difference of two systems' rates on the same utterances.

    Args:
        errors: (num_utterances,) errors of the candidate.
        baseline_errors: (num_utterances,) errors of the baseline, in the same order.
        totals: (num_utterances,) reference words of each utterance, the same for both.
        num_resamples: how many draws.
        confidence: the share of draws inside the interval, a fraction.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: as for `bootstrap_interval`.
    """
    counted, words = _columns(totals, errors, baseline_errors)
    candidate, baseline = _resampled_rates(counted, words, num_resamples, seed)
    low, high = percentiles(candidate - baseline, confidence)
    sums = counted.sum(axis=1)
    delta = float((sums[0] - sums[1]) / words.sum())
    return PairedInterval(delta, low, high, confidence, num_resamples, seed)


def percentiles(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """The central interval that holds a share `confidence` of the values."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it is a fraction between 0 and 1, such as 0.95")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def draw_indices(size: int, num_resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Blocks of draws with replacement, (rows, size) indices below `size`, without end.

    Args:
        size: how many things there are, and how many are drawn each time.
        num_resamples: how many rows will be needed; blocks are no larger than that.
        seed: the same seed gives the same draws.
    """
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}; at least 1 is needed")
    generator = np.random.default_rng(seed)
    rows = max(1, min(num_resamples, _DRAWS_AT_ONCE // size))
    while True:
        yield generator.integers(0, size, size=(rows, size))


def _columns(totals: ArrayLike, *systems: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    words = np.asarray(totals, dtype=np.int64)
    counted = [np.asarray(errors, dtype=np.int64) for errors in systems]
    if words.ndim != 1 or any(errors.shape != words.shape for errors in counted):
        raise ValueError(f"errors and totals differ in length: {[errors.shape for errors in counted]}, {words.shape}")
    if any((column < 0).any() for column in (words, *counted)):
        raise ValueError("a count is negative")
    if not words.sum():
        raise ValueError("all totals are 0: there is no rate")
    return np.stack(counted), words


def _resampled_rates(
    counted: NDArray[np.int64], words: NDArray[np.int64], num_resamples: int, seed: int
) -> NDArray[np.float64]:
    """(num_systems, num_resamples) rates; every system sees the same draws."""
    blocks: list[NDArray[np.float64]] = []
    num_drawn = 0
    for indices in draw_indices(len(words), num_resamples, seed):
        drawn_words = words[indices].sum(axis=1)
        has_rate = drawn_words > 0
        drawn = np.stack([errors[indices].sum(axis=1) for errors in counted])
        blocks.append(drawn[:, has_rate] / drawn_words[has_rate])
        num_drawn += int(has_rate.sum())
        if num_drawn >= num_resamples:
            break
    return np.concatenate(blocks, axis=1)[:, :num_resamples]
