"""Sums, products and multiples of codes: integer multipliers of one shift, one rounding.

Which torch functions these are is said in functions.py. Saturates at the result's grid, as every function of codes does.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.integers.grid import Grid
from asrcompress.integers.rescale import MULTIPLIER_BITS, OFFSET_BITS, common_shift, rescale, shift_right, to_codes
from asrcompress.integers.tensor import GridTensor, codes_on, grid_tensor

Number = int | float


def _operand(x: Any) -> tuple[Tensor | Number, float]:
    """(integers without zero point, scale): activations, plain integer tensors, Python numbers."""
    if isinstance(x, GridTensor):
        wide = x.payload.to(torch.int64)
        return (wide - x.grid.zero_point if x.grid.zero_point else wide), x.grid.scale
    if isinstance(x, Tensor):
        return x.to(torch.int64), 1.0
    return x, 1.0


def weighted_sum(grid: Grid, *terms: tuple[Any, float]) -> Tensor:
    """Codes of sum(weight * operand)."""
    operands = [(value, scale * weight / grid.scale) for x, weight in terms for value, scale in (_operand(x),)]
    tensors = [(value, factor) for value, factor in operands if isinstance(value, Tensor)]
    number = sum(value * factor for value, factor in operands if not isinstance(value, Tensor))
    shift = common_shift(max(abs(factor) for _, factor in tensors), number)
    total: Any = _fixed(number, shift, OFFSET_BITS)
    for value, factor in tensors:
        total = total + value * _fixed(factor, shift, MULTIPLIER_BITS)
    return to_codes(shift_right(total, shift), grid)


def _fixed(number: Number, shift: int, num_bits: int) -> int:
    """A number with `shift` fraction bits, saturated."""
    return round(min(max(number * 2**shift, 1 - 2**num_bits), 2**num_bits - 1))


def add(grid: Grid, a: Any, b: Any, *, alpha: Number = 1) -> Tensor:
    """torch.add."""
    return weighted_sum(grid, (a, 1.0), (b, float(alpha)))


def subtract(grid: Grid, a: Any, b: Any, *, alpha: Number = 1) -> Tensor:
    """torch.sub."""
    return weighted_sum(grid, (a, 1.0), (b, -float(alpha)))


def rsub(grid: Grid, a: Any, b: Any, *, alpha: Number = 1) -> Tensor:
    """torch.rsub: b - a."""
    return weighted_sum(grid, (b, 1.0), (a, -float(alpha)))


def product(grid: Grid, a: Any, b: Any) -> Tensor:
    """torch.mul of two tensors."""
    (left, left_scale), (right, right_scale) = _operand(a), _operand(b)
    products = left * right
    assert isinstance(products, Tensor)  # noqa: S101 (one of them is an activation)
    return rescale(products, left_scale * right_scale / grid.scale, grid)


def multiple(x: GridTensor, factor: Number) -> GridTensor:
    """x times a Python number: the same codes, negated for a negative one, on another grid; x keeps its own."""
    if not math.isfinite(factor):
        raise AsrCompressError(f"module '{x.sites.module_name}': codes are multiplied by {factor}")
    if factor == 0:
        return grid_tensor(torch.full_like(x.payload, x.grid.zero_point), x.grid, x.sites)
    if factor > 0:
        return grid_tensor(x.payload.clone(), x.grid.scaled(factor), x.sites)
    if x.grid.zero_point:
        raise AsrCompressError(f"module '{x.sites.module_name}': a grid with a zero point is multiplied by {factor}")
    return grid_tensor(-x.payload, x.grid.scaled(-factor), x.sites)


def cat(grid: Grid, tensors: Any, dim: int = 0) -> Tensor:
    """torch.cat: all on one grid; plain integer tensors count as numbers."""
    return torch.cat([codes_on(part, grid) for part in tensors], dim)


def stack(grid: Grid, tensors: Any, dim: int = 0) -> Tensor:
    """torch.stack, likewise."""
    return torch.stack([codes_on(part, grid) for part in tensors], dim)
