"""Normalisation on integers: mean, variance, square root and division without floats.

I-BERT (arXiv 2101.01321, section 3.6) takes the integer square root of the variance by Newton's iteration; so is it here,
with fraction bits that grow with what 64 bits leave room for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asrcompress.integers.grid import Grid
from asrcompress.integers.rescale import shift_right, to_codes

OUTPUT_BITS = 16  # fraction bits of normalised numbers
INVERSE_BITS = 44  # of 1 / standard deviation


def integer_sqrt(x: Tensor) -> Tensor:
    """floor(sqrt(x)) of int64 x, 0 <= x < 2^62, element by element."""
    bits, rest = torch.zeros_like(x), x
    for step in (32, 16, 8, 4, 2, 1):
        large = (rest >> step) > 0
        bits = bits + large * step
        rest = torch.where(large, rest >> step, rest)
    root = torch.ones_like(x) << ((bits >> 1) + 1)  # not below the root
    for _ in range(5):  # from within a factor of two, the error squares at each step
        root = (root + torch.div(x, root, rounding_mode="floor")) >> 1
    root = root.clamp_min(1)
    root = torch.where(root * root > x, root - 1, root)
    return torch.where(root * root > x, root - 1, root)


def normalise(codes: Tensor, grid: Grid, eps: float, dims: tuple[int, ...]) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over `dims`, as int64 of 16 fraction bits; codes of `grid`, any shape."""
    count = 1
    for dim in dims:
        count *= codes.shape[dim]
    # 2 (num_bits + fraction) + log2(count) bits hold the sum of squares.
    fraction = min(8, (62 - (count - 1).bit_length()) // 2 - grid.num_bits)
    x = codes.to(torch.int64) << fraction
    mean = torch.div(x.sum(dim=dims, keepdim=True) + count // 2, count, rounding_mode="floor")
    centred = x - mean
    variance = torch.div((centred * centred).sum(dim=dims, keepdim=True), count, rounding_mode="floor")
    variance = variance + max(1, round(min(eps / grid.scale**2 * 4**fraction, 2.0**60)))
    inverse = torch.div(1 << INVERSE_BITS, integer_sqrt(variance).clamp_min(1), rounding_mode="floor")
    return shift_right(centred * inverse, INVERSE_BITS - OUTPUT_BITS)


def affine(normalised: Tensor, multiplier: Tensor, offset: Tensor, shift: int, grid: Grid) -> Tensor:
    """normalised * multiplier + offset, shifted: the learned weight and bias, and the step to `grid`; int64 all."""
    return to_codes(shift_right(normalised * multiplier + offset, shift), grid)
