"""N:M sparsity, counted: at most keep_n values of every group_m along the input dimension are not zero.

Names are ambiguous in the wild (kept or pruned?); here N is what is kept. Counts every group of a weight and names the
first that has a value too many. Makes no pattern; sparsifiers do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asrcompress.group_codes import group_numbers
from asrcompress.packing import count_true

FIRST_ROWS = 16
KNOWN = ((1, 4), (2, 4))  # what `detect` looks for, sparsest first


@dataclass(frozen=True)
class PatternCount:
    """How many of a weight's groups hold how many values: histogram[k] groups have k. fault: "" where all comply."""

    keep_n: int
    group_m: int
    histogram: tuple[int, ...]
    fault: str


def count_pattern(mask: Tensor, keep_n: int, group_m: int, name: str, *, who: str = "") -> PatternCount:
    """Count every group.

    Args:
        mask: (rows, columns) or (out, ...), True where a value is kept; columns are the input dimension.
        keep_n: values kept of every `group_m`.
        group_m: size of a group.
        name: of the weight, for the message.
        who: claims it, where that is not the weight itself, such as "the recipe ".
    """
    rows = mask.reshape(mask.shape[0], -1)
    if rows.shape[1] % group_m:
        fault = (
            f"{name}: {rows.shape[1]} inputs do not divide into groups of {group_m}, so it has no {keep_n}:{group_m}"
        )
        return PatternCount(keep_n, group_m, (), fault)
    numbers = torch.from_numpy(group_numbers(rows.numpy(), group_m))
    occurs = torch.bincount(numbers if group_m <= 8 else numbers.int(), minlength=1 << group_m)
    members = torch.tensor([number.bit_count() for number in range(1 << group_m)])
    histogram = [int(occurs[members == count].sum()) for count in range(group_m + 1)]
    wrong = torch.empty(0, 2)
    if any(histogram[keep_n + 1 :]):
        kept = members[numbers.long()].reshape(len(rows), -1)
        wrong = (kept > keep_n).nonzero()
    fault = ""
    if len(wrong):
        row, group = (int(index) for index in wrong[0])
        more = f" (and {len(wrong) - 1} more groups)" if len(wrong) > 1 else ""
        fault = (
            f"{name}: {who}claims {keep_n}:{group_m}, but row {row} has {int(kept[row, group])} values in inputs "
            f"{group * group_m}..{(group + 1) * group_m - 1}{more}"
        )
    return PatternCount(keep_n, group_m, tuple(histogram), fault)


def count_zeros(mask: Tensor, sparsity: float, name: str, *, who: str = "") -> str:
    """The fault, "" where there is none, of a claim that this fraction of a weight's values are 0.

    The count that is due is exact: the nearest whole number, but never all of them.
    """
    count = mask.numel()
    zeros = count - count_true(mask)
    due = min(round(sparsity * count), count - 1)
    return "" if zeros >= due else f"{name}: {who}claims {due:,} zeros of {count:,} values, but has {zeros:,}"


def detect_pattern(mask: Tensor) -> str | None:
    """The sparsest known pattern that every group keeps to, such as "2:4"; None for a dense weight."""
    columns = mask.reshape(mask.shape[0], -1).shape[1]
    for keep_n, group_m in KNOWN:
        if columns % group_m:
            continue
        first = mask[:FIRST_ROWS]  # of a dense weight, they tell
        if not any(count_pattern(part, keep_n, group_m, "").fault for part in (first, mask)):
            return f"{keep_n}:{group_m}"
    return None
