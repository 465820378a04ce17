"""A model of level integer-only in a few torch operations, and ways to be dishonest with it.

Shared by the tests of the audit. Stands in for a real one: packed weights as `codes`, one border on each side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asrcompress.integers.crossing import enter_integers, leave_integers

STEP = 0.05


class Packed(nn.Module):
    """Codes of one weight, and how many bits they claim."""

    def __init__(self, rows: int, columns: int, num_bits: int = 8) -> None:
        super().__init__()
        top = 2 ** (num_bits - 1) - 1
        self.register_buffer("codes", torch.randint(-top, top + 1, (rows, columns), dtype=torch.int8))
        self.num_bits = num_bits


class Projection(nn.Module):
    """Codes (..., columns) -> codes (..., rows), rescaled by a shift."""

    def __init__(self, columns: int, rows: int, num_bits: int = 8) -> None:
        super().__init__()
        self.packed = Packed(rows, columns, num_bits)

    def forward(self, x: Tensor) -> Tensor:
        sums = torch._int_mm(x.reshape(-1, x.shape[-1]), self.packed.codes.t())
        return ((sums + 512) >> 10).clamp(-127, 127).to(torch.int8).reshape(*x.shape[:-1], -1)


class Attention(nn.Module):
    """Two projections and the product of what they give."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj = Projection(width, width), Projection(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q_proj(x), self.k_proj(x)
        return self.product(q.to(torch.int32), k.to(torch.int32))

    def product(self, q: Tensor, k: Tensor) -> Tensor:
        return (torch.bmm(q, k.transpose(1, 2)) >> 10).clamp(-127, 127).to(torch.int8)


class Toy(nn.Module):
    """Features (batch, 24, 16) float -> logits (batch, 24, 8) float, integers between."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Packed(4, 16)
        self.attention = Attention(16)
        self.head = Projection(24, 8, num_bits=4)

    def forward(self, features: Tensor) -> Tensor:
        codes = enter_integers(features, STEP, 0, 8)
        codes = (codes.to(torch.int16) + self.table.codes[torch.zeros(24, dtype=torch.long)]).clamp(-127, 127)
        return leave_integers(self.head(self.attention(codes.to(torch.int8))), STEP, 0)


def toy() -> Toy:
    """The honest model, with the same codes every time."""
    torch.manual_seed(0)
    return Toy().eval()


def features() -> Tensor:
    """What it takes."""
    return torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(1))
