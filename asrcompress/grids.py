"""Integer grids: how a float weight becomes codes and scales, and back. Pure tensors.

Symmetric grids have a restricted range: num_bits holds the codes -(2^(b-1) - 1) .. 2^(b-1) - 1,
so negation is exact and zero is a code. Asymmetric ones use all of -2^(b-1) .. 2^(b-1) - 1, and the
code that means 0 is the zero point. One bit has the codes -1 and 1; where a pattern drops weights,
these have the code 0. Does not choose scales by data
and does not pack bytes; quantizers/ and packing.py do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.gather import zero_where_dropped

FP16_SMALLEST_NORMAL = 2.0**-14
FP16_LARGEST = 65504.0
BLOCK_ELEMENTS = 1 << 17  # floats that are worked on at once: they stay in a second-level cache from step to step


@dataclass(frozen=True)
class Granularity:
    """How many weights share a scale.

    A weight of shape (out, ...) is seen as (rows, columns): rows = out, columns = the product of
    the rest, which is the reduction dimension. The scale's shape is
    per_tensor (1, 1); per_channel (rows, 1); per_group (rows, columns / group_size).
    """

    kind: str
    group_size: int | None = None

    @classmethod
    def parse(cls, text: str) -> Granularity:
        """Read `per_channel`, `per_tensor` or `per_group:SIZE`."""
        kind, _, size = text.partition(":")
        if kind in ("per_tensor", "per_channel") and not size:
            return cls(kind)
        if kind == "per_group" and size.isascii() and size.isdigit() and int(size) > 0:
            return cls(kind, int(size))
        raise AsrCompressError(
            f"granularity '{text}': use per_channel, per_tensor, or per_group:SIZE such as per_group:32"
        )

    def __str__(self) -> str:
        return self.kind if self.group_size is None else f"{self.kind}:{self.group_size}"

    def num_groups(self, columns: int, name: str = "weight") -> int:
        """Scales per row. Raises when the columns do not divide into groups."""
        if self.group_size is None:
            return 1
        if columns % self.group_size:
            raise AsrCompressError(
                f"{name}: {columns} inputs do not divide into groups of {self.group_size}; "
                f"use a divisor such as {math.gcd(columns, self.group_size)}, or --exclude '{name}'"
            )
        return columns // self.group_size


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight as integers.

    codes: (rows, columns) int8, each within the grid of num_bits.
    scale: float16 or float32, shaped as Granularity says, as it is stored.
    shape: the weight's own shape; rows x columns elements.
    zero_point: int8, shaped like scale, the code of 0 on an asymmetric grid; None on a symmetric one.
    method: the quantizer that made it, where that is not simply the one asked for (`auto` picks one).
    pattern: (keep_n, group_m) where only keep_n of every group_m neighbours in a row are stored. The others stand for 0
        and hold the code of it, at 1 bit, too, where the kept ones are -1 and 1. `unstructured`: any codes may be such.
    """

    codes: Tensor
    scale: Tensor
    num_bits: int
    granularity: Granularity
    shape: tuple[int, ...]
    zero_point: Tensor | None = None
    method: str | None = None
    pattern: tuple[int, int] | Literal["unstructured"] | None = None

    def dequantize(self) -> Tensor:
        """The float32 weight, in its own shape, that the integers stand for."""
        return dequantize(self.codes, self.scale, self.zero_point).reshape(self.shape)


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """(codes (rows, columns) - zero_point) x scale, both (rows or 1, groups) -> float32 (rows, columns)."""
    rows, columns = codes.shape
    groups = scale.shape[1]
    grouped = codes.reshape(rows, groups, columns // max(groups, 1)).float()
    if zero_point is not None:
        grouped = grouped - zero_point.float().unsqueeze(-1)
    return (grouped * scale.float().unsqueeze(-1)).reshape(rows, columns)


def zero_codes(zero_point: Tensor | None, rows: int, columns: int) -> Tensor:
    """The code that stands for 0 at every place: int8 (rows, columns), a view where one code does for many."""
    if zero_point is None:
        return torch.zeros(1, 1, dtype=torch.int8).expand(rows, columns)
    return zero_point.repeat_interleave(columns // zero_point.shape[1], dim=1).expand(rows, columns)


def quant_max(num_bits: int) -> int:
    """The largest code of a symmetric grid of 2 bits or more; the smallest is its negation."""
    return 2 ** (num_bits - 1) - 1


def code_range(num_bits: int, *, symmetric: bool) -> tuple[int, int]:
    """The smallest and the largest code. One bit has -1 and 1, and nothing between but what a pattern drops."""
    if num_bits == 1:
        return -1, 1
    high = quant_max(num_bits)
    return (-high if symmetric else -high - 1), high


def nonzero_codes(codes: Tensor, zero_point: Tensor | None) -> Tensor:
    """(rows, columns) bool, True where a code stands for something else than 0."""
    if zero_point is not None or codes.device.type != "cpu":
        return codes != zero_codes(zero_point, *codes.shape).to(codes.device)
    return torch.from_numpy(np.not_equal(codes.numpy(), np.int8(0)))


def row_blocks(rows: Tensor) -> Iterator[slice]:
    """Rows (rows, columns) a block at a time: BLOCK_ELEMENTS each, or one row; all at once where it is not on a CPU."""
    count, columns = rows.shape
    step = max(1, BLOCK_ELEMENTS // max(columns, 1)) if rows.device.type == "cpu" else max(count, 1)
    for begin in range(0, count, step):
        yield slice(begin, min(begin + step, count))


def as_rows(weight: Tensor, name: str = "weight", *, is_checked: bool = False) -> Tensor:
    """See a weight of shape (out, ...) as (rows, columns), checked to be finite (unless it is already) and not empty."""
    if weight.dim() < 2 or weight.numel() == 0:
        raise AsrCompressError(
            f"{name}: shape {tuple(weight.shape)} has no rows and columns to quantize; --exclude '{name}'"
        )
    rows = weight.detach().float().reshape(weight.shape[0], -1)
    if not is_checked and not all_finite(rows):
        raise not_finite(name)
    return rows


def not_finite(name: str) -> AsrCompressError:
    """The error for a weight that holds NaN or infinity."""
    return AsrCompressError(f"{name}: holds NaN or infinity; the checkpoint is broken, use an earlier one")


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor of any shape holds neither NaN nor infinity: its smallest and largest value tell, and pass NaN on."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    return all(math.isfinite(float(edge)) for edge in torch.aminmax(tensor))


def max_abs(rows: Tensor, granularity: Granularity, name: str = "weight", mask: Tensor | None = None) -> Tensor:
    """The largest magnitude that each scale has to cover, shaped like the scale. NaN and infinity show in it.

    `mask`: (rows, columns) bool, False where a weight counts as 0.
    """
    groups = granularity.num_groups(rows.shape[1], name)
    found = torch.empty(len(rows), groups, dtype=rows.dtype, device=rows.device)
    for here in row_blocks(rows):
        part = rows[here] if mask is None else zero_where_dropped(rows[here], mask[here])
        grouped = part.reshape(len(part), groups, -1)
        torch.maximum(grouped.amax(dim=-1), -grouped.amin(dim=-1), out=found[here])
    return found.amax(dim=0, keepdim=True) if granularity.kind == "per_tensor" else found


def narrow_scale(scale: Tensor) -> Tensor:
    """Store a scale as float16 where that is free.

    Rounding to codes happens after this, on the stored scale, so the error stays within half a step;
    float16 is kept only if every scale is a normal number there, else float32.
    A scale of 0 (a row of zeros) becomes 1: its codes are 0 either way.
    """
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    fits = bool(((scale >= FP16_SMALLEST_NORMAL) & (scale <= FP16_LARGEST)).all())
    return scale.half() if fits else scale.float().clamp_min(torch.finfo(torch.float32).tiny)


def encode(
    rows: Tensor, scale: Tensor, num_bits: int, zero_point: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Round (rows, columns) float32 to the nearest code on the grid of `scale` (and `zero_point`); int8.

    `mask`: (rows, columns) bool, False where a weight counts as 0; of symmetric grids alone.
    """
    count, columns = rows.shape
    groups = scale.shape[1]
    low, high = code_range(num_bits, symmetric=zero_point is None)
    step = scale.float().unsqueeze(-1).expand(count, groups, 1)
    zero = None if zero_point is None else zero_point.float().unsqueeze(-1).expand(count, groups, 1)
    codes = torch.empty(count, columns, dtype=torch.int8, device=rows.device)
    buffer: Tensor | None = None
    for here in row_blocks(rows):
        values = rows[here].reshape(-1, groups, columns // groups)
        buffer = torch.empty_like(values) if buffer is None else buffer[: len(values)]
        torch.div(values, step[here], out=buffer).round_()
        if zero is not None:
            buffer += zero[here]
        codes[here] = buffer.clamp_(low, high).reshape(-1, columns)
        if mask is not None:
            codes[here] *= mask[here].view(torch.int8)
    return codes


def by_scale(rows: Tensor, granularity: Granularity, name: str = "weight") -> Tensor:
    """See (rows, columns) as (rows or 1, groups, size): what shares a scale lies along the last dimension."""
    if granularity.kind == "per_tensor":
        return rows.reshape(1, 1, -1)
    return rows.reshape(rows.shape[0], granularity.num_groups(rows.shape[1], name), -1)
