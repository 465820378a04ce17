"""Clipping by mean squared error.

Symmetric; each scale is the one, among many, whose rounded weights have the smallest squared error.
Large weights may be clipped so that the others get finer steps. Looks at no data.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from asrcompress.grids import (
    FP16_LARGEST,
    FP16_SMALLEST_NORMAL,
    Granularity,
    QuantizedWeight,
    by_scale,
    encode,
    max_abs,
    narrow_scale,
    quant_max,
)
from asrcompress.quantizers.statistics import InputStatistics
from asrcompress.quantizers.support import Pruned, remaining, require_bits

SUPPORTED_BITS = (8, 4, 3, 2)
NEEDS_STATISTICS = False
COARSE, FINE, LEAST_SQUARES = 64, 12, 3
SMALLEST_FRACTION = 0.02
LARGEST_FRACTION = 1.25  # few weights may lie better on a coarser grid that is not used to its end
CHUNK_ELEMENTS = 2**19  # weights x fractions that are tried at once


def quantize(
    weight: Tensor,
    *,
    num_bits: int,
    granularity: Granularity,
    name: str = "weight",
    statistics: InputStatistics | None = None,
    pruned: Pruned | None = None,
) -> QuantizedWeight:
    """Quantize a weight of shape (out, ...) with a squared error of the weight that is at most rtn's, for every scale.

    Raises:
        AsrCompressError: NaN or infinity, fewer than 2 dimensions, groups that do not divide, or 1 bit.
    """
    require_bits("mse", num_bits, SUPPORTED_BITS, name)
    rows, pattern = remaining(weight, pruned, name)
    limit = quant_max(num_bits)
    start = narrow_scale(max_abs(rows, granularity, name) / limit)
    scale = search_scale(by_scale(rows, granularity, name), start, -limit, limit)
    codes = encode(rows, scale, num_bits)
    return QuantizedWeight(codes, scale, num_bits, granularity, tuple(weight.shape), pattern=pattern)


def search_scale(
    grouped: Tensor,
    start: Tensor,
    low: int | Tensor,
    high: int | Tensor,
    *,
    lowest: float | None = None,
    coarse: int = COARSE,
) -> Tensor:
    """The scale of least squared error for each set of weights.

    A coarse search over fractions of `start`, a fine one around the best, then least squares: for
    fixed codes c the best scale is <w, c> / <c, c>. Only what is better than the best so far is taken.

    Args:
        grouped: (..., size) float32; one scale for each last dimension.
        start: (...) float16 or float32, the first scales that are tried. Others are rounded to its type first.
        low: the smallest code, as steps from 0; an int or (...).
        high: the largest; an int or (...).
        lowest: the smallest fraction; by default the one below which clipping cannot win if `start` clips nothing.
        coarse: how many fractions the coarse search tries.

    Returns:
        (...), of the type of `start`.
    """
    base = start.float()
    low, high = (torch.as_tensor(edge, dtype=torch.float32).unsqueeze(-1) for edge in (low, high))
    # In units of `start`, so that no square underflows or overflows.
    units = grouped / base.unsqueeze(-1)
    best = torch.ones_like(base)
    least = squared_error(units, best, low, high)

    def attempt(fractions: Tensor) -> None:
        """Take, for each set of weights, the best of fractions (k, ...) if it is better than the best so far."""
        nonlocal best, least
        stored = store(base * fractions, start.dtype)
        tried = stored / base
        errors = torch.where(stored > 0, squared_error(units, tried, low, high), torch.inf)
        smallest, place = errors.min(dim=0)
        better = smallest < least
        best = torch.where(better, tried.gather(0, place.unsqueeze(0)).squeeze(0), best)
        least = torch.where(better, smallest, least)

    limit = int(high.max())
    if lowest is None:
        # Clipping to a fraction f costs at least ((1 - f) limit)^2 steps^2; no clipping costs at most size / 4.
        lowest = max(SMALLEST_FRACTION, 1 - math.sqrt(grouped.shape[-1]) / (2 * limit))
    ratio = (LARGEST_FRACTION / lowest) ** (1 / (coarse - 1))
    together = max(1, CHUNK_ELEMENTS // grouped.numel())
    first = (lowest * ratio ** torch.arange(coarse)).reshape(-1, *[1] * base.dim())
    for fractions in first.split(together):
        attempt(fractions * torch.ones_like(base))
    second = (ratio ** ((torch.arange(FINE) + 0.5) * 2 / FINE - 1)).reshape(-1, *[1] * base.dim())
    middle = best
    for fractions in second.split(together):
        attempt(fractions * middle)
    for _ in range(LEAST_SQUARES):
        codes = (units / best.unsqueeze(-1)).round().clamp(low, high)
        squares = codes.square().sum(dim=-1)
        fitted = torch.where(squares > 0, (units * codes).sum(dim=-1) / squares.clamp_min(1), best)
        attempt(fitted.unsqueeze(0))
    return (base * best).to(start.dtype)


def storable(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales (...) as `dtype`, moved to the nearest normal number there; a scale of 0 becomes 1."""
    if dtype == torch.float16:
        limited = scale.clamp(FP16_SMALLEST_NORMAL, FP16_LARGEST)
    else:
        limited = scale.clamp(torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max)
    return torch.where(scale > 0, limited, torch.ones_like(scale)).to(dtype)


def store(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales as they will be stored, back in float32; 0 where they are no normal number there."""
    stored = scale.to(dtype).float()
    smallest = FP16_SMALLEST_NORMAL if dtype == torch.float16 else torch.finfo(torch.float32).tiny
    return torch.where((stored >= smallest) & torch.isfinite(stored), stored, torch.zeros_like(stored))


def squared_error(units: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Sum of squared rounding errors of units (..., size) on the grid low x scale .. high x scale (..., 1): (...)."""
    step = scale.unsqueeze(-1)
    back = (units / step).round_().clamp_(low, high).mul_(step)
    return back.sub_(units).square_().sum(dim=-1)
