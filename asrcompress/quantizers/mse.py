"""Clipping by mean squared error.

Symmetric; each scale is the one, among many, whose rounded weights have the smallest squared error.
Large weights may be clipped so that the others get finer steps. Looks at no data.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from asrcompress.grids import (
    FP16_SMALLEST_NORMAL,
    Granularity,
    QuantizedWeight,
    as_rows,
    by_scale,
    encode,
    max_abs,
    narrow_scale,
    quant_max,
)
from asrcompress.quantizers.statistics import InputStatistics
from asrcompress.quantizers.support import require_bits

SUPPORTED_BITS = (8, 4, 3, 2)
NEEDS_STATISTICS = False
COARSE, FINE, LEAST_SQUARES = 48, 12, 3
SMALLEST_FRACTION = 0.02
CHUNK_ELEMENTS = 2**19  # weights x fractions that are tried at once


def quantize(
    weight: Tensor,
    *,
    num_bits: int,
    granularity: Granularity,
    name: str = "weight",
    statistics: InputStatistics | None = None,
) -> QuantizedWeight:
    """Quantize a weight of shape (out, ...) with a squared error of the weight that is at most rtn's, for every scale.

    Raises:
        AsrCompressError: NaN or infinity, fewer than 2 dimensions, groups that do not divide, or 1 bit.
    """
    require_bits("mse", num_bits, SUPPORTED_BITS, name)
    rows = as_rows(weight, name)
    start = narrow_scale(max_abs(rows, granularity, name) / quant_max(num_bits))
    scale = search_scale(by_scale(rows, granularity, name), start, num_bits)
    return QuantizedWeight(encode(rows, scale, num_bits), scale, num_bits, granularity, tuple(weight.shape))


def search_scale(grouped: Tensor, start: Tensor, num_bits: int) -> Tensor:
    """The scale of least squared error for each set of weights.

    A coarse search over fractions of `start`, a fine one around the best, then least squares: for
    fixed codes c the best scale is <w, c> / <c, c>. Only what is better than the best so far is taken.

    Args:
        grouped: (..., size) float32; one scale for each last dimension.
        start: (...) float16 or float32, the scales that clip nothing. Candidates are rounded to its type first.
        num_bits: 2 to 8.

    Returns:
        (...), of the type of `start`.
    """
    limit, size = quant_max(num_bits), grouped.shape[-1]
    base = start.float()
    # In units of `start`, so that no square underflows or overflows.
    units = grouped / base.unsqueeze(-1)
    best = torch.ones_like(base)
    least = _squared_error(units, best, limit)

    def attempt(fractions: Tensor) -> None:
        """Take, for each set of weights, the best of fractions (k, ...) if it is better than the best so far."""
        nonlocal best, least
        stored = store(base * fractions, start.dtype)
        tried = stored / base
        errors = torch.where(stored > 0, _squared_error(units, tried, limit), torch.inf)
        smallest, place = errors.min(dim=0)
        better = smallest < least
        best = torch.where(better, tried.gather(0, place.unsqueeze(0)).squeeze(0), best)
        least = torch.where(better, smallest, least)

    # Clipping to a fraction f costs at least ((1 - f) limit)^2 steps^2; no clipping costs at most size / 4.
    lowest = max(SMALLEST_FRACTION, 1 - math.sqrt(size) / (2 * limit))
    ratio = ((1 + 1 / (2 * limit)) / lowest) ** (1 / (COARSE - 1))
    together = max(1, CHUNK_ELEMENTS // grouped.numel())
    coarse = (lowest * ratio ** torch.arange(COARSE)).reshape(-1, *[1] * base.dim())
    for fractions in coarse.split(together):
        attempt(fractions * torch.ones_like(base))
    fine = (ratio ** ((torch.arange(FINE) + 0.5) * 2 / FINE - 1)).reshape(-1, *[1] * base.dim())
    middle = best
    for fractions in fine.split(together):
        attempt(fractions * middle)
    for _ in range(LEAST_SQUARES):
        codes = (units / best.unsqueeze(-1)).round().clamp(-limit, limit)
        squares = codes.square().sum(dim=-1)
        fitted = torch.where(squares > 0, (units * codes).sum(dim=-1) / squares.clamp_min(1), best)
        attempt(fitted.unsqueeze(0))
    return (base * best).to(start.dtype)


def store(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales as they will be stored, back in float32; 0 where they are no normal number there."""
    stored = scale.to(dtype).float()
    smallest = FP16_SMALLEST_NORMAL if dtype == torch.float16 else torch.finfo(torch.float32).tiny
    return torch.where((stored >= smallest) & torch.isfinite(stored), stored, torch.zeros_like(stored))


def _squared_error(units: Tensor, scale: Tensor, limit: int) -> Tensor:
    step = scale.unsqueeze(-1)
    back = (units / step).round_().clamp_(-limit, limit).mul_(step)
    return back.sub_(units).square_().sum(dim=-1)
