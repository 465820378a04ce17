"""Products of static int8 codes: activations by packed weights, and activations by activations.

int8 by int8 with int32 sums; the sums are rescaled by integer multipliers, one for each output channel (and
group of columns), with the bias as an integer in the same fixed-point units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.integers.grid import Grid
from asrcompress.integers.matmul import int_bmm, int_matmul
from asrcompress.integers.rescale import fixed_points, rescale, shift_right, to_codes
from asrcompress.integers.sites import Sites
from asrcompress.integers.tensor import Activation, GridTensor, as_floats, codes_on, grid_tensor, observed


@dataclass(frozen=True)
class FixedWeight:
    """What rescales the sums of a product with a packed weight; made once, before the model runs.

    multiplier: (rows, groups) int64. offset: (rows,) int64, bias and zero points. shift: for all. grid: of the result.
    input_grid: of the activations. weight_zero_point: (rows, groups) int64, or None.
    """

    multiplier: Tensor
    offset: Tensor
    shift: int
    grid: Grid
    input_grid: Grid
    weight_zero_point: Tensor | None = None


def fix_weight(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None, bias: Tensor | None, input_grid: Grid, grid: Grid
) -> FixedWeight:
    """Constants for activations on `input_grid` times codes (rows, columns), scales and zero points (rows or 1, groups)."""
    rows, columns = codes.shape
    groups = scale.shape[1]
    factors = scale.double().expand(rows, groups) * (input_grid.scale / grid.scale)
    offsets = torch.zeros(rows, device=codes.device) if bias is None else bias.detach()
    multiplier, shift, offset = fixed_points(factors, offsets=offsets.double() / grid.scale)
    weight_zero_point = None
    if zero_point is not None:
        weight_zero_point = zero_point.to(torch.int64).expand(rows, groups)
    if input_grid.zero_point:
        sums = codes.reshape(rows, groups, columns // groups).to(torch.int64).sum(dim=-1)
        if weight_zero_point is not None:
            sums = sums - weight_zero_point * (columns // groups)
        offset = offset - input_grid.zero_point * (sums * multiplier).sum(dim=-1)
    return FixedWeight(multiplier, offset, shift, grid, input_grid, weight_zero_point)


def weight_product(x: Tensor, codes: Tensor, fixed: FixedWeight) -> Tensor:
    """x (tokens, columns) int8 times codes (rows, columns) int8 -> (tokens, rows) codes of fixed.grid."""
    groups = fixed.multiplier.shape[1]
    size = codes.shape[1] // groups
    total = fixed.offset
    for group in range(groups):
        columns = slice(group * size, (group + 1) * size)
        sums = int_matmul(x[:, columns], codes[:, columns])
        if fixed.weight_zero_point is not None:
            sums = sums - x[:, columns].sum(dim=1, keepdim=True, dtype=torch.int64) * fixed.weight_zero_point[:, group]
        total = total + sums * fixed.multiplier[:, group]  # int64, as the multipliers are
    return to_codes(shift_right(total, fixed.shift), fixed.grid)


def matmul(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """torch.matmul of two activations, (..., m, k) and (..., k, n): both pass an operand site, the result one of its own."""
    left, right = args
    if not (isinstance(left, Activation) and isinstance(right, Activation)) or min(left.dim(), right.dim()) < 2:
        raise AsrCompressError(
            f"module '{sites.module_name}': a product with a plain tensor or a vector has no integer version; use level computed"
        )
    left_site, right_site, site = sites.next_site("operand"), sites.next_site("operand"), sites.next_site("matmul")
    if sites.record is not None:
        operands = [sites.observe(name, x.payload) for name, x in ((left_site, left), (right_site, right))]
        return observed(sites.observe(site, func(*operands)), sites)
    if not sites.knows(site):
        return func(*as_floats(args))
    left_grid, right_grid, grid = sites.grid(left_site), sites.grid(right_site), sites.grid(site)
    sums = batched_product(codes_on(left, left_grid), codes_on(right, right_grid).transpose(-1, -2))
    return grid_tensor(rescale(sums, left_grid.scale * right_grid.scale / grid.scale, grid), grid, sites)


def batched_product(left: Tensor, right: Tensor) -> Tensor:
    """(..., m, k) int8 times (..., n, k) int8, transposed -> (..., m, n) int32; leading sizes are broadcast."""
    batch = left.shape[:-2]
    if batch != right.shape[:-2]:
        batch = torch.broadcast_shapes(batch, right.shape[:-2])
        left, right = (x.expand(*batch, *x.shape[-2:]) for x in (left, right))
    count = math.prod(batch)
    left, right = (x.reshape(count, *x.shape[-2:]) for x in (left, right))
    sums = int_bmm(left, right)
    return sums.reshape(*batch, left.shape[-2], right.shape[-2])


def scores(q: GridTensor, k: GridTensor, grid: Grid) -> Tensor:
    """q k^T of (batch, queries, width) and (batch, keys, width) as codes of `grid`, int64."""
    sums = int_bmm(q.payload, k.payload)
    return rescale(sums, q.grid.scale * k.grid.scale / grid.scale, grid).to(torch.int64)
