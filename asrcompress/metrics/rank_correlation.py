"""Spearman's rank correlation, with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_PAIRS = 5


@dataclass(frozen=True)
class RankCorrelation:
    """spearman between low and high with `confidence`; None where there are too few pairs, or one side is all the same."""

    spearman: float | None
    low: float | None
    high: float | None
    confidence: float
    num_pairs: int


def spearman(first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95) -> RankCorrelation:
    """Rank correlation of two sequences, equal values sharing the mean of their ranks.

    The interval is Fisher's z with the standard error of Bonett and Wright 2000 (Psychometrika 65), sqrt((1 + r^2 / 2) / (n - 3)).

    Raises:
        ValueError: the sequences differ in length, or a value is NaN.
    """
    from scipy.stats import norm, rankdata

    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape:
        raise ValueError(f"{len(one)} values against {len(other)}")
    if np.isnan(one).any() or np.isnan(other).any():
        raise ValueError("a value is NaN")
    if len(one) < MIN_PAIRS or np.ptp(one) == 0 or np.ptp(other) == 0:
        return RankCorrelation(None, None, None, confidence, len(one))
    ranks = [rankdata(values) - (len(one) + 1) / 2 for values in (one, other)]
    found = float(ranks[0] @ ranks[1] / math.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1])))
    found = min(1.0, max(-1.0, found))
    z = math.atanh(min(max(found, -1 + 1e-12), 1 - 1e-12))
    error = float(norm.ppf((1 + confidence) / 2)) * math.sqrt((1 + found**2 / 2) / (len(one) - 3))
    return RankCorrelation(
        found, min(found, math.tanh(z - error)), max(found, math.tanh(z + error)), confidence, len(one)
    )
