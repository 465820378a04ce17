"""Rescaling integers by a real factor without floats: an integer multiplier and a right shift.

factor ~ multiplier / 2^shift with a multiplier of up to 31 bits, as in gemmlowp and Jacob et al. (2018),
arXiv 1712.05877, section 2.2; the product takes 64 bits, rounding is half up.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from asrcompress.integers.grid import Grid

MULTIPLIER_BITS = 31
MAX_SHIFT = 62


@lru_cache(maxsize=65536)
def fixed_point(factor: float, num_bits: int = MULTIPLIER_BITS) -> tuple[int, int]:
    """factor -> (multiplier, shift), |multiplier| < 2^num_bits, shift 0 to 62.

    Raises:
        ValueError: the factor is not finite or needs a left shift (a grid that was chosen wrongly).
    """
    if factor == 0:
        return 0, 0
    _, exponent = math.frexp(abs(factor))  # |factor| = m * 2^exponent, 0.5 <= m < 1
    shift = min(num_bits - exponent, MAX_SHIFT)
    if shift < 0:
        raise ValueError(f"a factor of {factor} does not fit {num_bits} bits")
    multiplier = round(factor * 2**shift)
    if abs(multiplier) == 2**num_bits:  # rounded up to the next power of two
        multiplier, shift = (multiplier // 2, shift - 1) if shift else (multiplier - 1, 0)
    return multiplier, shift


def fixed_points(factors: Tensor, num_bits: int = MULTIPLIER_BITS) -> tuple[Tensor, int]:
    """float64 factors of any shape -> (int64 multipliers, one shift for all): the largest decides the shift."""
    largest = float(factors.abs().max()) if factors.numel() else 0.0
    _, shift = fixed_point(largest, num_bits)
    return (factors.double() * 2.0**shift).round().to(torch.int64), shift


def shift_right(x: Tensor, shift: int) -> Tensor:
    """x / 2^shift, rounded half up; x int64."""
    return x if shift == 0 else (x + (1 << (shift - 1))) >> shift


def to_codes(x: Tensor, grid: Grid) -> Tensor:
    """Put integers that are in units of `grid.scale` on the grid: zero point added, clamped, narrowed."""
    if grid.zero_point:
        x = x + grid.zero_point
    return x.clamp(grid.code_min, grid.code_max).to(grid.dtype)


def rescale(x: Tensor, factor: float, grid: Grid) -> Tensor:
    """Integers x times a real factor, as codes of `grid` (x * factor is in units of grid.scale)."""
    multiplier, shift = fixed_point(factor)
    return to_codes(shift_right(x.to(torch.int64) * multiplier, shift), grid)


def regrid(codes: Tensor, old: Grid, new: Grid) -> Tensor:
    """Codes of one grid as codes of another."""
    if old == new:
        return codes
    wide = codes.to(torch.int64) - old.zero_point if old.zero_point else codes
    return rescale(wide, old.scale / new.scale, new)
