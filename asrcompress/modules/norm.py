"""Normalisation at level integer-only: LayerNorm, GroupNorm and BatchNorm.

LayerNorm and GroupNorm compute mean, variance and square root on integers; BatchNorm, after training, is one
multiplier and one offset a channel, into which its statistics, weight and bias are folded. With floats the float
module runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.integers.grid import Grid
from asrcompress.integers.norm import OUTPUT_BITS, affine, normalise
from asrcompress.integers.rescale import fixed_points
from asrcompress.integers.tensor import GridTensor, as_float, grid_tensor, point
from asrcompress.modules.weight import GridOf, passed


class IntegerNorm(nn.Module):
    """Keeps the float module, whose parameters are few, and makes integers of them."""

    fixed: tuple[Tensor, Tensor, int, Grid] | None = None

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.float_norm: Any = norm
        self.eps = float(norm.eps)  # type: ignore[arg-type]

    def fix(self, grid_of: GridOf) -> None:
        """Make the constants: multiplier and offset a channel, from the input's unit to the grid of `out`."""
        grid = grid_of("out")
        if grid is None:
            return
        factor, offset = self.folded(grid_of)
        multiplier, shift, offset = fixed_points(factor / grid.scale, 30, offset / grid.scale)
        self.fixed = (multiplier, offset, shift, grid)

    def folded(self, grid_of: GridOf) -> tuple[Tensor, Tensor]:
        """float64 factor and offset a channel, so that out = factor * integer input + offset."""
        norm = self.float_norm
        shape = getattr(norm, "normalized_shape", None) or (norm.num_channels,)
        weight = torch.ones(shape) if norm.weight is None else norm.weight.detach()
        factor = weight.double() * 2.0**-OUTPUT_BITS
        return factor, torch.zeros_like(factor) if norm.bias is None else norm.bias.detach().double()

    def forward(self, x: Tensor) -> Tensor:
        """As the float module: shapes stay."""
        x = self.prepared(x)
        if not isinstance(x, GridTensor):
            return passed(x, self.float_norm(as_float(x)), "out")
        site = x.sites.next_site("out")
        if self.fixed is None:
            x.sites.grid(site)  # says which site calibration missed
            raise ValueError(f"{site}: its constants were not made")
        multiplier, offset, shift, grid = self.fixed
        shape = self.channel_shape(x)
        codes = affine(self.integers(x), multiplier.reshape(shape), offset.reshape(shape), shift, grid)
        return grid_tensor(codes, grid, x.sites)

    def prepared(self, x: Tensor) -> Tensor:
        """What passes before normalisation: nothing but x."""
        return x

    def integers(self, x: GridTensor) -> Tensor:
        """What factor and offset apply to, int64."""
        raise AssertionError("a norm says what it normalises")

    def channel_shape(self, x: Tensor) -> tuple[int, ...]:
        """How a value a channel is laid out against x."""
        return (1, -1, *[1] * (x.dim() - 2))


class IntegerLayerNorm(IntegerNorm):
    """Over the last dimensions; weight and bias have their shape."""

    def integers(self, x: GridTensor) -> Tensor:
        """Normalised numbers."""
        count = len(self.float_norm.normalized_shape)
        return normalise(x.payload, x.grid, self.eps, tuple(range(-count, 0)))

    def channel_shape(self, x: Tensor) -> tuple[int, ...]:
        """The normalised dimensions."""
        return tuple(self.float_norm.normalized_shape)


class IntegerGroupNorm(IntegerNorm):
    """Over the channels of a group and all positions: x (batch, channels, *size)."""

    def integers(self, x: GridTensor) -> Tensor:
        """Normalised numbers."""
        groups = self.float_norm.num_groups
        grouped = x.payload.reshape(x.shape[0], groups, x[0].numel() // groups if len(x) else 0)
        return normalise(grouped, x.grid, self.eps, (-1,)).reshape(x.shape)


class IntegerBatchNorm(IntegerNorm):
    """With running statistics, in eval mode: x (batch, channels, *size) passes the site `x` and is multiplied and shifted."""

    def folded(self, grid_of: GridOf) -> tuple[Tensor, Tensor]:
        """Statistics, weight and bias in one factor and one offset."""
        grid = grid_of("x")
        factor, offset = batch_norm_affine(self.float_norm)
        return factor * (grid.scale if grid else 1.0), offset

    def prepared(self, x: Tensor) -> Tensor:
        """The input's unit has to be known before the model runs."""
        return point(x, "x")

    def integers(self, x: GridTensor) -> Tensor:
        """Codes without zero point."""
        wide = x.payload.to(torch.int64)
        return wide - x.grid.zero_point if x.grid.zero_point else wide


def batch_norm_affine(norm: Any) -> tuple[Tensor, Tensor]:
    """(factor, offset) a channel, float64: what a BatchNorm is after training, its statistics, weight and bias in one."""
    factor = 1 / (norm.running_var.double() + norm.eps).sqrt()
    factor = factor if norm.weight is None else norm.weight.detach().double() * factor
    offset = -norm.running_mean.double() * factor
    return factor, offset if norm.bias is None else offset + norm.bias.detach().double()
