"""Softmax and attention's weighted sum on integers.

exp(-x) of a difference of codes d is the product of two table entries, exp(-256 s (d >> 8)) and exp(-s (d & 255)),
so it is as exact as the tables are (I-BERT, arXiv 2101.01321, section 3.5, fits a polynomial instead). Attention
multiplies the values by the exponentials themselves, as 8-bit codes whose largest is always 127, and divides
the sum once, by the sum of those codes: weights add up to one exactly, and long rows lose no small weights to
a fixed grid.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from asrcompress.integers.grid import Grid
from asrcompress.integers.matmul import int_bmm
from asrcompress.integers.rescale import rescale, shift_right
from asrcompress.integers.tensor import GridTensor, grid_tensor

FRACTION_BITS = 15
SOFTMAX_GRID = Grid(2.0**-15, 0, 16)
LOWEST = -(2**31)  # stands for minus infinity among scores


@lru_cache(maxsize=512)
def _tables(scale: float) -> tuple[Tensor, Tensor]:
    """exp(-256 s i) and exp(-s j) for i, j = 0..255, as integers of 15 fraction bits; int64."""
    one = 2**FRACTION_BITS
    coarse = [round(one * math.exp(-256 * scale * index)) for index in range(256)]
    fine = [round(one * math.exp(-scale * index)) for index in range(256)]
    return torch.tensor(coarse, dtype=torch.int64), torch.tensor(fine, dtype=torch.int64)


def exponentials(scores: Tensor, scale: float, dim: int = -1) -> Tensor:
    """exp(scale (score - largest)) along `dim`, as int64 of 15 fraction bits; the largest is 2^15.

    Args:
        scores: int64; LOWEST where masked, which gives 0.
        scale: of a score's unit.
        dim: what is normalised over.
    """
    below = scores.amax(dim=dim, keepdim=True) - scores
    coarse, fine = _tables(scale)
    index = below.clamp_max(256 * 256 - 1)
    product = coarse.to(scores.device)[index >> 8] * fine.to(scores.device)[index & 255]
    return shift_right(product, FRACTION_BITS).masked_fill(scores == LOWEST, 0)


def softmax(x: GridTensor, dim: int = -1, *unused: Any, **unused_too: Any) -> GridTensor:
    """torch.softmax of codes; the result has 15 fraction bits."""
    e = exponentials(x.payload.to(torch.int64), x.grid.scale, dim)
    total = e.sum(dim=dim, keepdim=True).clamp_min(1)
    weights = torch.div((e << FRACTION_BITS) + (total >> 1), total, rounding_mode="floor")
    return grid_tensor(weights.clamp_max(SOFTMAX_GRID.code_max).to(torch.int16), SOFTMAX_GRID, x.sites)


def coded_weights(weights: Tensor, num_bits: int) -> Tensor:
    """Softmax's weights in float, as `softmax_sum` has them: codes of `num_bits` whose largest is the top one, over their sum.

    Args:
        weights: (..., keys), from a softmax over keys.
        num_bits: of the codes; 8 at most count.
    """
    top = _top(num_bits)
    largest = weights.amax(dim=-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    codes = (weights / largest * top + 0.5).floor()  # half up, as shift_right
    return codes / codes.sum(dim=-1, keepdim=True).clamp_min(1)


def softmax_sum(
    scores: Tensor, scale: float, values: Tensor, value_scale: float, grid: Grid, num_bits: int = 8
) -> Tensor:
    """softmax(scores) @ values.

    Args:
        scores: (batch, queries, keys) int64 codes; LOWEST where masked. A row without any key gives 0.
        scale: of the scores' codes.
        values: (batch, keys, width) int8 codes, symmetric.
        value_scale: of the values' codes.
        grid: of the result.
        num_bits: of the exponentials that the values are multiplied by; 8 at most count.

    Returns:
        (batch, queries, width) codes of `grid`.
    """
    top = _top(num_bits)
    weights = shift_right(exponentials(scores, scale) * top, FRACTION_BITS)
    total = weights.sum(dim=-1, keepdim=True).clamp_min(1)
    sums = int_bmm(weights.to(torch.int8), values.transpose(1, 2)).to(torch.int64)
    # sums / total with 16 fraction bits, through one division a row: 2^40 / total has at least 17 bits up to 2^16 keys.
    inverse = torch.div(2**40 + (total >> 1), total, rounding_mode="floor")
    return rescale(shift_right(sums * inverse, 24), value_scale / grid.scale * 2.0**-16, grid)


def _top(num_bits: int) -> int:
    """The largest code that values are multiplied by."""
    return int(2 ** (min(num_bits, 8) - 1)) - 1
