"""What one stored weight shows: its codes, what it takes, what is not zero in it, and whether that is what is claimed.

Counts every code, every bit of a bitmask and every group of a pattern, and keeps the counts alone, so that no more than one
weight needs to be in memory. Whole files are judged in honesty_file.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asrcompress.grids import QuantizedWeight, code_range
from asrcompress.metrics.honesty_nm import count_pattern, count_zeros, detect_pattern
from asrcompress.packing import count_true, packed_size_bytes
from asrcompress.patterns import UNSTRUCTURED, Pattern, pattern_name
from asrcompress.sparse import SparseWeight
from asrcompress.stored_weight import data_sizes, kept

COUNT_AT_ONCE, ROWS_AT_ONCE = 1 << 18, 128  # codes; rows, whose counts stay in a second-level cache
FEW_CODES, FEWEST_CODES = 16, 8  # of 4 bits and of 3
Claim = Pattern | float  # keep_n of every group_m, or the fraction of zeros


@dataclass(frozen=True)
class WeightFacts:
    """What is counted in one weight.

    row: for the table of packed weights, or that of sparse ones. due: bytes that its data may take, by part.
    faults: codes and scales that do not fit what it says of itself. miscounts: claims about zeros that the count does not bear
    out.
    """

    row: dict[str, Any]
    due: dict[str, int]
    faults: tuple[str, ...]
    miscounts: tuple[str, ...]


def count_weight(name: str, weight: QuantizedWeight | SparseWeight, claim: Claim | None = None) -> WeightFacts:
    """Count one weight's codes, zeros, groups and bytes.

    Args:
        name: of the weight.
        weight: as it was read.
        claim: what the recipe says of its zeros, where it says something.
    """
    mask, due = kept(weight), data_sizes(weight)
    own = weight.pattern if isinstance(weight.pattern, tuple) else None
    wrong = [*miscounts(name, mask, own), *(miscounts(name, mask, claim, who="the recipe ") if claim != own else ())]
    if isinstance(weight, SparseWeight):
        row = _sparse_row(name, weight, due) | _pattern(name, weight, mask)
        return WeightFacts(row, due, (), tuple(wrong))
    row, faults = _code_row(name, weight, due), []
    low, high = code_range(weight.num_bits, symmetric=weight.zero_point is None)
    if row["min"] < low or row["max"] > high:
        faults.append(
            f"{name}: claims {weight.num_bits} bits and holds codes {row['min']}..{row['max']}; they end at {low}..{high}"
        )
    if weight.scale.numel() >= weight.codes.numel() > 1:
        faults.append(f"{name}: has a scale for every weight, which is a float copy in all but name")
    return WeightFacts(row | _pattern(name, weight, mask), due, tuple(faults), tuple(wrong))


def miscounts(name: str, mask: Tensor, claim: Claim | None, *, who: str = "") -> Iterator[str]:
    """Say where a claim about zeros is not what they are.

    Args:
        name: of the weight.
        mask: (rows, columns) bool, True where it is not zero.
        claim: what is claimed, if anything.
        who: claims it, where that is not the weight itself, such as "the recipe ".
    """
    fault = ""
    if isinstance(claim, tuple):
        fault = count_pattern(mask, *claim, name, who=who).fault
    elif claim is not None:
        fault = count_zeros(mask, claim, name, who=who)
    if fault:
        yield fault


def _code_row(name: str, weight: QuantizedWeight, due: dict[str, int]) -> dict[str, Any]:
    """Distinct codes per channel, range, histogram, bits with scales.

    histogram: codes counted in up to 16 bins of equal width from the smallest code of two's complement.
    """
    distinct, total = _count_codes(weight.codes)
    present = total.nonzero()[0] - 128
    width = max(weight.num_bits, 2)
    low, bin_width, num_bins = -(2 ** (width - 1)), 2 ** max(width - 4, 0), 2 ** min(width, 4)
    places = np.clip((np.arange(-128, 128) - low) // bin_width, 0, num_bins - 1)
    extra = weight.scale.numel() * weight.scale.element_size()
    if weight.zero_point is not None:
        extra += packed_size_bytes(weight.zero_point.numel(), weight.num_bits)
    return {
        "name": name,
        "num_bits": weight.num_bits,
        "granularity": str(weight.granularity),
        "method": weight.method,
        "distinct_min": int(distinct[0]),
        "distinct_median": int(distinct[(len(distinct) - 1) // 2]),
        "distinct_max": int(distinct[-1]),
        "min": int(present[0]),
        "max": int(present[-1]),
        "histogram": np.bincount(places, weights=total, minlength=num_bins).astype(np.int64).tolist(),
        "bits_per_weight": 8 * (sum(due.values()) + extra) / weight.codes.numel(),
    }


def _sparse_row(name: str, weight: SparseWeight, due: dict[str, int]) -> dict[str, Any]:
    """How many values a sparse float weight keeps, of how many, and what they take."""
    return {
        "name": name,
        "dtype": str(weight.values.dtype).removeprefix("torch."),
        "method": weight.method,
        "num_params": weight.mask.numel(),
        "num_kept": count_true(weight.mask),
        "bits_per_weight": 8 * sum(due.values()) / weight.mask.numel(),
    }


def _pattern(name: str, weight: QuantizedWeight | SparseWeight, mask: Tensor) -> dict[str, Any]:
    """The pattern that every group keeps to, and where one is claimed how many groups have 0, 1, ... values that are not zero.

    num_kept: of packed weights that are unstructured, the codes that stand for something else than 0.
    """
    claim = weight.pattern
    if isinstance(claim, tuple):
        count = count_pattern(mask, *claim, name)
        pattern = detect_pattern(mask) if count.fault else pattern_name(claim)
        return {"pattern": pattern, "kept_per_group": list(count.histogram)}
    if isinstance(weight, SparseWeight):
        return {"pattern": UNSTRUCTURED, "kept_per_group": None}
    if claim == UNSTRUCTURED:
        return {"pattern": UNSTRUCTURED, "kept_per_group": None, "num_kept": count_true(mask)}
    return {"pattern": detect_pattern(mask), "kept_per_group": None}


def _count_codes(codes: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(distinct codes of each row, sorted; how often each of -128 .. 127 occurs) of (rows, columns) int8."""
    low, high = (int(edge) for edge in torch.aminmax(codes))
    are_few = low >= -FEW_CODES // 2 and high < FEW_CODES // 2
    step = min(max(1, COUNT_AT_ONCE // codes.shape[1]), ROWS_AT_ONCE)
    total, distinct = np.zeros(256, dtype=np.int64), []
    for part in codes.contiguous().split(step):
        numbers = part.view(torch.uint8)
        if high - low < FEWEST_CODES:  # few counters, each waiting for itself, would be slow
            for code in range(low, high + 1):
                total[code + 128] += np.count_nonzero(part.numpy() == code)
        else:
            total += np.roll(torch.bincount(numbers.reshape(-1), minlength=256).numpy(), 128)
        distinct.append((_distinct_few if are_few else _distinct)(numbers))
    return np.sort(np.concatenate(distinct)), total


def _distinct(numbers: Tensor) -> np.ndarray:
    """How many distinct bytes are in each row: each row is counted in a range of its own."""
    first = 256 * torch.arange(len(numbers), dtype=torch.int16).unsqueeze(1)
    counts = torch.bincount((numbers + first).reshape(-1), minlength=256 * len(numbers))
    return np.count_nonzero(counts.numpy().reshape(-1, 256), axis=1)


def _distinct_few(numbers: Tensor) -> np.ndarray:
    """`_distinct` where no two differ by FEW_CODES or more: each number sets a bit."""
    places = np.bitwise_and(numbers.numpy(), np.uint8(FEW_CODES - 1))
    seen = np.bitwise_or.reduce(np.left_shift(np.uint16(1), places, dtype=np.uint16), axis=1)
    return np.unpackbits(seen.view(np.uint8).reshape(-1, 2), axis=1).sum(axis=1, dtype=np.int64)
