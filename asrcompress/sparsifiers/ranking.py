"""Unstructured pruning: how many weights each part of a matrix keeps, and which, by rank.

Counts are exact whatever ties there are. Patterns of groups are patterns.py's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.patterns import UNSTRUCTURED, Pattern
from asrcompress.quantizers.support import Pruned

Choice = Pattern | float  # keep_n of every group_m, or the fraction of zeros in a matrix
CHUNK = 1 << 24  # elements that are ranked together where rows are many


def check_sparsity(sparsity: float) -> float:
    """The fraction of zeros, checked.

    Raises:
        AsrCompressError: not between 0 and 1, or one of them.
    """
    if not 0 < sparsity < 1:  # NaN, too
        raise AsrCompressError(
            f"sparsity {sparsity}: use the fraction of weights to drop, such as 0.5; above 0, below 1"
        )
    return sparsity


def kept_of(sparsity: float, sizes: Sequence[int]) -> list[int]:
    """How many weights each of several parts of a matrix keeps, when the fraction `sparsity` of all is dropped.

    The sum is exact: sum(sizes) - round(sparsity x sum(sizes)), at least 1; each part is within 1 of its share.

    Args:
        sparsity: between 0 and 1.
        sizes: weights in each part, in the order in which fractions are handed on.
    """
    kept, seen, dropped = [], 0, 0
    for size in sizes:
        seen += size
        due = round(sparsity * seen)
        kept.append(size - (due - dropped))
        dropped = due
    if kept and not any(kept):
        kept[0] = 1
    return kept


def only(rows: Tensor, mask: Tensor, choice: Choice) -> Pruned:
    """What is left where kept weights stay as they are."""
    return Pruned(rows, mask, choice if isinstance(choice, tuple) else UNSTRUCTURED)


def keep_ranked(score: Tensor, counts: Sequence[int], *, of_magnitude: bool = False) -> Tensor:
    """Which columns to keep: of each row as many as `counts` says with the largest score, of equals the first.

    Args:
        score: (rows, columns) float32; no NaN.
        counts: (rows,), 0 to columns each.
        of_magnitude: rank by |score|, of which no copy is kept.

    Returns:
        (rows, columns) bool.
    """
    rows, columns = score.shape
    values, mask = score.contiguous().numpy(), np.empty((rows, columns), dtype=bool)
    keep = np.asarray(counts).reshape(-1, 1)
    step = max(CHUNK // max(columns, 1), 1)
    for begin in range(0, rows, step):
        here = slice(begin, begin + step)
        mask[here] = _largest(values[here], keep[here], of_magnitude)
    return torch.from_numpy(mask)


def _largest(values: np.ndarray, counts: np.ndarray, of_magnitude: bool) -> np.ndarray:
    """`keep_ranked` for a few rows, or one long one: by the smallest value that is kept, and of those equal to it the first."""
    columns = values.shape[1]
    # The place of the smallest kept value in ascending order; a row that keeps none has one beyond its largest.
    places = np.minimum(columns - counts, columns - 1)
    ordered = np.abs(values) if of_magnitude else values.copy()
    ordered.partition(np.unique(places), axis=1)
    least = np.take_along_axis(ordered, places, axis=1)
    del ordered
    mask: np.ndarray = values > least
    ties = values == least
    if of_magnitude:
        mask |= values < -least
        ties |= values == -least
    left = counts - np.count_nonzero(mask, axis=1, keepdims=True)
    if (np.count_nonzero(ties, axis=1, keepdims=True) != left).any():
        ties &= np.cumsum(ties, axis=1, dtype=np.int32 if columns < 2**31 else np.int64) <= left
    mask |= ties
    return mask
