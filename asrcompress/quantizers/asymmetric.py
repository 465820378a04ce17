"""Asymmetric grids: a scale and a zero point for each channel or group, by squared error of the weight.

For 2 to 4 bits, where the one code that a symmetric grid leaves out is much of the grid, and where
few weights that share a scale lie evenly around 0. Looks at no data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asrcompress.grids import (
    Granularity,
    QuantizedWeight,
    by_scale,
    code_range,
    encode,
    max_abs,
    narrow_scale,
    quant_max,
)
from asrcompress.quantizers.mse import search_scale, squared_error, storable
from asrcompress.quantizers.statistics import InputStatistics
from asrcompress.quantizers.support import Pruned, remaining, require_bits

SUPPORTED_BITS = (8, 4, 3, 2)
NEEDS_STATISTICS = False
SMALLEST_FRACTION, COARSE = 0.1, 24
NEIGHBOURS = 2  # zero points on either side of the one that clips nothing


def quantize(
    weight: Tensor,
    *,
    num_bits: int,
    granularity: Granularity,
    name: str = "weight",
    statistics: InputStatistics | None = None,
    pruned: Pruned | None = None,
) -> QuantizedWeight:
    """Quantize a weight of shape (out, ...) with a squared error of the weight that is at most mse's, for every scale.

    Codes use all of -2^(b-1) .. 2^(b-1) - 1; the zero point is one of them, so 0 is exact.

    Raises:
        AsrCompressError: NaN or infinity, fewer than 2 dimensions, groups that do not divide, or 1 bit.
    """
    require_bits("asymmetric", num_bits, SUPPORTED_BITS, name)
    rows, pattern = remaining(weight, pruned, name)
    dtype = narrow_scale(max_abs(rows, granularity, name) / quant_max(num_bits)).dtype
    scale, zero_point = search_grid(by_scale(rows, granularity, name), num_bits, dtype)
    codes = encode(rows, scale, num_bits, zero_point)
    return QuantizedWeight(codes, scale, num_bits, granularity, tuple(weight.shape), zero_point, pattern=pattern)


def search_grid(grouped: Tensor, num_bits: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The scale (...) of type `dtype` and zero point (...) int8 of least squared error for weights (..., size).

    Tried are the symmetric grid of mse, with the code that it leaves out added, and, for the zero
    point that clips nothing and its neighbours, the best scale.
    """
    low, high = code_range(num_bits, symmetric=False)
    limit = quant_max(num_bits)
    symmetric = search_scale(grouped, storable(grouped.abs().amax(dim=-1) / limit, dtype), -limit, limit)
    least_value, most_value = grouped.amin(dim=-1).clamp_max(0), grouped.amax(dim=-1).clamp_min(0)
    start = storable(((most_value - least_value) / (high - low)).nan_to_num(), dtype)
    unit = start.float()
    units = grouped / unit.unsqueeze(-1)
    middle = low - least_value / unit
    scale, zero_point = symmetric, torch.zeros_like(unit)
    least = squared_error(units, symmetric.float() / unit, torch.tensor(low), torch.tensor(high))
    for shift in range(-NEIGHBOURS, NEIGHBOURS + 1):
        zero = (middle + shift).round().clamp(low, high)
        found = search_scale(grouped, start, low - zero, high - zero, lowest=SMALLEST_FRACTION, coarse=COARSE)
        error = squared_error(units, found.float() / unit, (low - zero).unsqueeze(-1), (high - zero).unsqueeze(-1))
        better = error < least
        scale, zero_point = torch.where(better, found, scale), torch.where(better, zero, zero_point)
        least = torch.where(better, error, least)
    return scale, zero_point.to(torch.int8)
