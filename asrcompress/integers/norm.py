"""Normalisation on integers: mean, variance, square root and division without floats.

I-BERT (arXiv 2101.01321, section 3.6) takes the integer square root of the variance by Newton's iteration; so is it here,
with fraction bits that grow with what 64 bits leave room for.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from asrcompress.integers.grid import Grid
from asrcompress.integers.rescale import shift_right, to_codes

OUTPUT_BITS = 16  # fraction bits of normalised numbers
INVERSE_BITS = 44  # of 1 / standard deviation


@lru_cache(maxsize=8)
def _powers_of_four(device: torch.device) -> Tensor:
    return torch.tensor([4**power for power in range(31)], device=device)


def integer_sqrt(x: Tensor) -> Tensor:
    """floor(sqrt(x)) of int64 x, 0 <= x < 2^62, element by element."""
    # Of the powers of 4, as many are at most x as the root has bits: 2^bits is above it, by a factor of two at most.
    powers = _powers_of_four(x.device)
    root = torch.bitwise_left_shift(torch.ones_like(x), torch.bucketize(x, powers, right=True))
    above_zero = x.clamp_min(1)
    for _ in range(5):  # from within a factor of two, the error squares at each step
        root = (root + torch.div(above_zero, root, rounding_mode="floor")) >> 1
    root = torch.where(root * root > x, root - 1, root)
    return torch.where(root * root > x, root - 1, root)


def normalise(codes: Tensor, grid: Grid, eps: float, dims: tuple[int, ...]) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over `dims`, as int64 of 16 fraction bits; codes of `grid`, any shape.

    Mean and deviation are whole numbers of 1/256 of a code (1/64 for groups of 200,000): that is how far they are off.
    """
    count = 1
    for dim in dims:
        count *= codes.shape[dim]
    if codes.numel() == 0:
        return codes.to(torch.int64)
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
