"""Products of int8 operands with int32 accumulation, and the dynamic grid of activations.

The one place where integers are multiplied, so that an audit has one place to look. Does not know
about modules or weights' storage.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATION_MAX = 127  # symmetric int8
TINY = 1e-30  # a vector whose largest value is below is taken for zeros: 127 / it would not be a float32


def quantize_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """Put activations on an int8 grid of their own, one scale per token (per vector).

    Args:
        x: (..., columns) float.

    Returns:
        int8 codes (..., columns), round(x * (127 / largest)), and float scale (..., 1); a vector of zeros has scale 1, one
        that holds NaN or infinity has NaN there, so that neither gets lost. kernels/c/rows.h does the same.
    """
    largest = x.abs().amax(dim=-1, keepdim=True)
    most = torch.full_like(largest, ACTIVATION_MAX)
    inverse = torch.where(largest < TINY, torch.zeros_like(largest), most / largest)
    scale = torch.where(largest == 0, torch.ones_like(largest), largest / most)
    scale = torch.where(largest < torch.inf, scale, torch.full_like(scale, torch.nan))
    return (x * inverse).round().clamp(-ACTIVATION_MAX, ACTIVATION_MAX).to(torch.int8), scale


def int_matmul(left: Tensor, right: Tensor) -> Tensor:
    """left (m, k) int8 times right (n, k) int8, transposed -> (m, n) int32, exactly.

    `torch._int_mm` has two traps: on CPU a single column (k = 1) gives wrong products, and on CUDA
    m must exceed 16 and k, n be multiples of 8. A single column is multiplied as int32 instead, and
    zeros are padded on CUDA.
    """
    m, k = left.shape
    n = right.shape[0]
    if m == 0 or n == 0:
        return left.new_zeros((m, n), dtype=torch.int32)
    if left.is_cuda:
        left = F.pad(left, (0, -k % 8, 0, max(17 - m, 0)))
        right = F.pad(right, (0, -k % 8, 0, -n % 8))
    elif k == 1:
        return left.to(torch.int32) @ right.to(torch.int32).t()
    return torch._int_mm(left.contiguous(), right.t())[:m, :n]


LARGE = 1 << 15  # multiplications of one batch entry from which a call of its own is the faster way


def int_bmm(left: Tensor, right: Tensor) -> Tensor:
    """left (b, m, k) int8 times right (b, n, k) int8, transposed -> (b, m, n) int32, exactly.

    One `int_matmul` per batch entry where entries are large, and always on CUDA, which has nothing else; small ones are
    one batched product of int8 values held as int32.
    """
    if left.is_cuda or (len(left) and left[0].numel() * right.shape[1] >= LARGE):
        return torch.stack([int_matmul(a, b) for a, b in zip(left, right, strict=True)])
    return torch.bmm(left.to(torch.int32), right.to(torch.int32).transpose(1, 2))
