"""Recognise fake quantization: a weight of few levels per channel that is stored as floats, whoever made it.

Works on values alone. A uniform grid is believed when every channel lies on one and chance is out of the question:
each gap between two values that is a whole number of steps is worth the bits by which it could have missed. Few
distinct values without a uniform grid (a codebook) are recognised by their repetitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asrcompress.ahead import in_order
from asrcompress.grids import all_finite
from asrcompress.mapped import outlines, release

Grouping = tuple[
    str, np.ndarray, np.ndarray
]  # granularity, (segments, length), indices of those that are not all zeros

MAX_BITS = 8
GROUP_SIZES = (128, 64, 32)
ENOUGH_BITS = 64.0  # of evidence: one in 2^64 by chance
CHANCE_BITS = 3.0  # that a channel of floats gives: 1.44 on average for the best of several tries, and a margin
MAX_PARTS = 256  # the smallest gap may be this many steps
SAMPLE, MOST = 8, 1024  # channels that are looked at first, and at most
FIRST = 8  # values of a segment that are looked at before all of them
REPEATS = 4  # values per distinct value that make a codebook
LARGEST_DOUBT = 0.2  # rounding of the stored floats, in steps: with more, a grid cannot be told from none


@dataclass(frozen=True)
class FakeQuantized:
    """A float weight that holds no more than `num_bits` of information per value.

    distinct_values: the most in one channel (or group, or the tensor). uniform: on a grid of equal steps.
    times_larger: bytes stored / bytes of `num_bits` per value, scales aside.
    """

    name: str
    num_bits: int
    granularity: str
    distinct_values: int
    uniform: bool
    stored_dtype: str
    num_params: int
    size_bytes: int
    packed_size_bytes: int
    times_larger: float

    @property
    def text(self) -> str:
        """The sentence that corrects the claim."""
        per = {"per_tensor": "in the tensor", "per_channel": "per channel"}.get(self.granularity, "per group")
        return (
            f"{self.name}: claims int{self.num_bits}? {self.distinct_values} distinct values {per}, stored as "
            f"{self.stored_dtype}: {self.times_larger:.1f}x larger than claimed"
        )

    def record(self) -> dict[str, Any]:
        """For the sidecar."""
        return asdict(self)


def fake_quantized(tensors: Mapping[str, Tensor]) -> list[FakeQuantized]:
    """Every float tensor of two or more dimensions that is fake-quantized; tied ones once."""
    seen: set[int] = set()
    names = []
    for name, outline in outlines(tensors).items():
        if outline.dim() < 2 or not outline.dtype.is_floating_point:
            continue
        if not outline.is_meta:
            if outline.data_ptr() in seen:
                continue
            seen.add(outline.data_ptr())
        names.append(name)

    def look(name: str) -> FakeQuantized | None:
        tensor = tensors[name]
        result = examine(name, tensor)
        release(tensor)
        return result

    sizes = outlines(tensors)
    found = in_order(names, look, lambda name: sizes[name].numel() * sizes[name].element_size())
    return [result for _, result in found if result is not None]


def examine(name: str, weight: Tensor) -> FakeQuantized | None:
    """Look at one weight of shape (out, ...); None when it is a float weight as far as its values tell."""
    if weight.numel() < 2 or not all_finite(weight) or not bool(weight.any()):
        return None
    eps = float(torch.finfo(weight.dtype).eps)
    rounding = 2 * eps if weight.dtype == torch.float32 else eps  # in float32 the product with the scale rounds, too
    values = (weight.detach() if weight.dtype in (torch.float32, torch.float64) else weight.detach().float()).numpy()
    groupings = list(_groupings(values))
    grid, book = (_search(test, values, groupings, rounding) for test in (_uniform, _codebook))
    if grid is None and book is None:
        return None
    if grid is not None and (book is None or grid[1][0] <= book[1][0]):
        return _describe(name, weight, *grid, uniform=True)
    return _describe(name, weight, *book, uniform=False) if book is not None else None


def _search(
    test: Callable[..., Any], values: np.ndarray, groupings: list[Grouping], rounding: float
) -> tuple[str, tuple[int, int]] | None:
    """The coarsest sharing of a grid (or codebook) that passes a test, and what the test found."""
    for granularity, segments, used in groupings:
        found = _examine(test, segments, used, rounding)
        if found is not None:
            whole = (
                _examine(test, values.reshape(1, -1), np.arange(1), rounding) if granularity == "per_channel" else None
            )
            return ("per_tensor", whole) if whole is not None and whole[0] <= found[0] else (granularity, found)
    return None


def _describe(name: str, weight: Tensor, granularity: str, found: tuple[int, int], *, uniform: bool) -> FakeQuantized:
    num_bits, distinct = found
    return FakeQuantized(
        name=name,
        num_bits=num_bits,
        granularity=granularity,
        distinct_values=distinct,
        uniform=uniform,
        stored_dtype=str(weight.dtype).removeprefix("torch."),
        num_params=weight.numel(),
        size_bytes=weight.numel() * weight.element_size(),
        packed_size_bytes=-(-weight.numel() * num_bits // 8),
        times_larger=8 * weight.element_size() / num_bits,
    )


def _groupings(values: np.ndarray) -> Iterator[Grouping]:
    """What may share a scale: rows, the last dimension's columns, groups within rows."""
    rows = values.reshape(values.shape[0], -1)
    yield "per_channel", rows, _used(rows)
    if values.shape[-1] > 1:
        columns = values.reshape(-1, values.shape[-1]).T
        yield "per_channel", columns, _used(columns)
    for size in GROUP_SIZES:
        if rows.shape[1] > size and rows.shape[1] % size == 0:
            yield f"per_group:{size}", (groups := rows.reshape(-1, size)), _used(groups)


def _used(segments: np.ndarray) -> np.ndarray:
    """Which segments are not all zeros. Their first values tell it of nearly all that are not."""
    used = np.asarray(segments[:, :FIRST].any(axis=1))
    rest = np.flatnonzero(~used)
    used[rest] = segments[rest].any(axis=1)
    return np.flatnonzero(used)


def _examine(
    test: Callable[..., Any], segments: np.ndarray, used: np.ndarray, rounding: float
) -> tuple[int, int] | None:
    """(bits, most distinct values in a segment) when every segment that is used passes the test, or None."""
    if len(used) == 0 or segments.shape[1] < 2:
        return None
    chosen = used[np.linspace(0, len(used) - 1, min(len(used), MOST)).astype(int)]
    few = chosen[:: max(1, len(chosen) // SAMPLE)]
    if test(segments[few].astype(np.float64), rounding, 0.0) is None:
        return None
    found: tuple[int, int] | None = test(segments[chosen].astype(np.float64), rounding, ENOUGH_BITS)
    return found


def _uniform(segments: np.ndarray, rounding: float, enough: float) -> tuple[int, int] | None:
    evidence, levels, most = 0.0, 2, 1
    for values in segments:
        distinct = np.unique(values)
        found = _steps(np.union1d(distinct, [0.0]), rounding) or _steps(distinct, rounding)
        if found is None:
            return None
        repeats = len(values) - len(distinct) if len(distinct) > 1 else 0
        evidence += found[1] - CHANCE_BITS + repeats
        levels, most = max(levels, found[0]), max(most, len(distinct))
    num_bits = 1 if most <= 2 else math.ceil(math.log2(levels))
    return (num_bits, most) if evidence >= enough and num_bits <= MAX_BITS else None


def _steps(values: np.ndarray, rounding: float) -> tuple[int, float] | None:
    """The levels of the coarsest grid that sorted values lie on, and the bits of evidence; None without one."""
    tolerance = float(np.abs(values).max()) * rounding
    gaps = np.sort(np.diff(values))
    gaps = gaps[gaps > 2 * tolerance]
    if len(gaps) < 2:
        return 2, 0.0
    span, smallest = float(gaps.sum()), float(gaps[0])
    for parts in range(1, MAX_PARTS + 1):
        step = smallest / parts
        if span / step > 2**MAX_BITS or tolerance / step > LARGEST_DOUBT:
            return None
        for reach in (2, 8, 32, 2**MAX_BITS):  # the longer a gap, the better the step has to be known
            near = gaps[gaps <= reach * smallest]
            step = float(near.sum() / np.round(near / step).sum())
        doubt = 2 * tolerance / step
        if np.abs(gaps / step - np.round(gaps / step)).max() <= doubt:
            bits = (len(gaps) - 1) * -math.log2(min(2 * doubt, 1.0)) - math.log2(parts)
            return round(span / step) + 1, bits
    return None


def _codebook(segments: np.ndarray, rounding: float, enough: float) -> tuple[int, int] | None:
    most = repeats = 0
    for values in segments:
        kept = values[values != 0]  # a pruned weight repeats its zeros and is no codebook for that
        distinct = len(np.unique(kept))
        if distinct > 2**MAX_BITS or len(kept) < REPEATS * distinct:
            return None
        repeats += len(kept) - distinct if distinct > 1 else 0
        most = max(most, distinct + (len(kept) < len(values)))
    return (math.ceil(math.log2(most)), most) if 2 <= most <= 2**MAX_BITS and repeats >= enough else None
