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
OFFSET_BITS = 60  # of what is added to products before the shift
MAX_SHIFT = 62


@lru_cache(maxsize=65536)
def fixed_point(factor: float, num_bits: int = MULTIPLIER_BITS) -> tuple[int, int]:
    """factor -> (multiplier, shift), |multiplier| < 2^num_bits, shift 0 to 62.

    A factor that needs more bits gets the largest multiplier: every integer but 0 leaves any grid then, as it would
    with the factor itself. So it is where calibration saw nothing but zeros.

    Raises:
        ValueError: the factor is no number.
    """
    if math.isnan(factor):
        raise ValueError("a factor is no number")
    if factor == 0:
        return 0, 0
    exponent = math.frexp(abs(factor))[1] if math.isfinite(factor) else num_bits + 1  # |factor| < 2^exponent
    shift = min(num_bits - exponent, MAX_SHIFT)
    if shift < 0:
        return int(math.copysign(2**num_bits - 1, factor)), 0
    multiplier = round(factor * 2**shift)
    if abs(multiplier) == 2**num_bits:  # rounded up to the next power of two
        multiplier, shift = (multiplier // 2, shift - 1) if shift else (multiplier - (1 if multiplier > 0 else -1), 0)
    return multiplier, shift


def common_shift(factor: float, offset: float = 0.0, num_bits: int = MULTIPLIER_BITS) -> int:
    """One shift for several products and an offset: `factor` and `offset` are the largest, the offset in the result's unit."""
    shift = fixed_point(abs(factor), num_bits)[1]
    if offset and math.isfinite(offset):
        shift = min(shift, OFFSET_BITS - math.frexp(abs(offset))[1])
    return max(shift, 0)


def to_fixed(numbers: Tensor, shift: int, num_bits: int) -> Tensor:
    """float64 numbers as int64 of `shift` fraction bits, saturated at 2^num_bits - 1."""
    largest = float(2**num_bits - 1)
    return (numbers.double() * 2.0**shift).round().clamp(-largest, largest).to(torch.int64)


def fixed_points(
    factors: Tensor, num_bits: int = MULTIPLIER_BITS, offsets: Tensor | None = None
) -> tuple[Tensor, int, Tensor]:
    """float64 factors and offsets of any shape -> (int64 multipliers, one shift for all, int64 offsets).

    The largest decides the shift. Offsets are in the result's unit, none count as 0.
    """
    offsets = torch.zeros_like(factors) if offsets is None else offsets
    largest, largest_offset = (float(x.abs().max()) if x.numel() else 0.0 for x in (factors, offsets))
    shift = common_shift(largest, largest_offset, num_bits)
    return to_fixed(factors, shift, num_bits), shift, to_fixed(offsets, shift, OFFSET_BITS)


def shift_right(x: Tensor, shift: int) -> Tensor:
    """x / 2^shift, rounded half up; x int64."""
    return x if shift == 0 else (x + (1 << (shift - 1))).bitwise_right_shift_(shift)


def to_codes(x: Tensor, grid: Grid) -> Tensor:
    """Put integers that are in units of `grid.scale` on the grid: zero point added, clamped, narrowed."""
    if grid.zero_point:
        x = x + grid.zero_point
    return x.clamp(grid.code_min, grid.code_max).to(grid.dtype)


def rescale(x: Tensor, factor: float, grid: Grid, *, num_bits: int = 31) -> Tensor:
    """Integers x times a real factor, as codes of `grid` (x * factor is in units of grid.scale)."""
    return to_codes(times(x, factor, num_bits=num_bits), grid)


def times(x: Tensor, factor: float, *, num_bits: int = 31) -> Tensor:
    """Integers x times a real factor, rounded, int64.

    num_bits: what |x| fits; beyond 31 the multiplier has as many bits less, so that 64 bits hold the product.
    """
    multiplier, shift = fixed_point(factor, min(MULTIPLIER_BITS, MAX_SHIFT - num_bits))
    products = x.to(torch.int64) * multiplier
    if shift:
        products = products.add_(1 << (shift - 1)).bitwise_right_shift_(shift)
    return products


def regrid(codes: Tensor, old: Grid, new: Grid) -> Tensor:
    """Codes of one grid as codes of another."""
    if old == new:
        return codes
    wide = codes.to(torch.int64) - old.zero_point if old.zero_point else codes
    return rescale(wide, old.scale / new.scale, new)
