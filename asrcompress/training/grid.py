"""A weight on the grid and under the mask that are stored, differentiable.

Forward gives exactly what the stored codes stand for. Backward is the straight-through estimator (Bengio et al. 2013,
arXiv 1308.3432): rounding has the derivative 1, and a weight beyond the grid's end has 0. A learned scale has the gradient of
LSQ (Esser et al. 2020, arXiv 1902.08153), and moves by a factor, so that one learning rate fits scales of all sizes. Masks of N:M
are sparse-refined, SR-STE (Zhou et al. 2021, arXiv 2102.04010), where that is asked for. Chooses no grid; quantizers do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.grids import FP16_LARGEST, FP16_SMALLEST_NORMAL, code_range
from asrcompress.quantizers.mse import search_scale, storable
from asrcompress.training.parallel import whole

INSIDE = 0.49  # of a step: how far a float weight may start from the middle of its code
NO_SCALE = 1e-20  # stands in for a scale of 0 where something is divided by it
SIGNED = (0.01, 1.49)  # of a scale, at 1 bit: how far it may start from 0, on its code's side


class TrainedWeight(nn.Module):
    """What a float weight is stored as: a parametrization of torch.nn.utils.parametrize.

    Args:
        mask: (rows, columns) bool, True = kept; None where all are.
        scale: (rows or 1, groups), as stored; None where kept weights stay in float.
        num_bits: of the codes, where there is a scale.
        zero_point: int8, shaped like scale; None on a symmetric grid.
        is_learned: whether the scale is trained.
        is_dense: whether dropped weights have a gradient, so that a mask that is chosen anew can take them back.
        decay: of dropped weights, SR-STE's lambda; 0 for none. `pull` gives it, once an update, however often the weight is used.
        dtype: that kept floats are stored in, where there is no scale.
    """

    mask: Tensor | None
    scale: Tensor | None
    zero_point: Tensor | None
    growth: nn.Parameter | None

    def __init__(
        self,
        *,
        mask: Tensor | None = None,
        scale: Tensor | None = None,
        num_bits: int = 0,
        zero_point: Tensor | None = None,
        is_learned: bool = True,
        is_dense: bool = False,
        decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.num_bits, self.is_dense, self.decay, self.dtype = num_bits, is_dense, decay, dtype
        self.is_half = scale is not None and scale.dtype == torch.float16
        # Copies: they may change, and what they are of may not.
        self.register_buffer("mask", None if mask is None else mask.clone())
        self.register_buffer("scale", None if scale is None else scale.to(torch.float32, copy=True))
        self.register_buffer("zero_point", None if zero_point is None else zero_point.float())
        learned = scale is not None and is_learned
        # ln of the factor by which the scale has grown
        self.growth = nn.Parameter(torch.zeros(scale.shape)) if learned and scale is not None else None

    def forward(self, weight: Tensor) -> Tensor:
        """The float weight, in its own shape -> what its codes stand for."""
        rows = weight.reshape(weight.shape[0], -1)
        if self.scale is None:
            kept = _Masked.apply(rows, self.mask, self.is_dense, self.dtype)
            return kept.reshape(weight.shape)
        low, high = code_range(self.num_bits, symmetric=self.zero_point is None)
        kept = _OnGrid.apply(rows, self.factor(), self.zero_point, self.mask, (low, high), self.num_bits, self.is_dense)
        return kept.reshape(weight.shape)

    @torch.no_grad()
    def pull(self, weight: Tensor) -> Tensor | None:
        """What SR-STE adds to the gradient of the float weight: decay x the weights that are dropped; None where it adds nothing."""
        if self.mask is None or not self.decay:
            return None
        return self.decay * weight * ~self.mask.reshape(weight.shape)

    def factor(self) -> Tensor:
        """The scale as it would be stored now, float32; differentiable where it is learned."""
        assert self.scale is not None  # noqa: S101 (asked by the callers)
        return self.scale if self.growth is None else _Stored.apply(self.scale * self.growth.exp(), self.is_half)

    @torch.no_grad()
    def refit(self, weight: Tensor) -> None:
        """Take the scale whose rounded weights have the least squared error, dropped ones left out (the search of method mse).

        Raises:
            ValueError: the scale is learned, or there is none: a bug in the caller.
        """
        if self.scale is None or self.growth is not None:
            raise ValueError("no scale to find")
        rows = weight.detach().reshape(weight.shape[0], -1).float()
        kept = rows if self.mask is None else rows * self.mask
        shape = (1, 1, -1) if self.scale.shape[0] == 1 else (*self.scale.shape, -1)
        grouped = kept.reshape(shape).cpu()
        if self.num_bits == 1:
            count = grouped.ne(0).sum(dim=-1) if self.mask is None else self.mask.reshape(shape).sum(dim=-1).cpu()
            found = grouped.abs().sum(dim=-1) / count.clamp_min(1)
            least = FP16_SMALLEST_NORMAL if self.is_half else torch.finfo(torch.float32).tiny
            found = torch.where(self.scale.cpu() > 0, found.clamp_min(least), 0.0)
        else:
            zero = torch.zeros(()) if self.zero_point is None else self.zero_point.cpu()
            low, high = (end - zero for end in code_range(self.num_bits, symmetric=self.zero_point is None))
            start = storable(covering(grouped, low, high), torch.float16 if self.is_half else torch.float32)
            found = search_scale(grouped, start, low, high)
        self.scale.copy_(found.half().float() if self.is_half else found.float())

    @torch.no_grad()
    def codes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(codes int8 (rows, columns), scale in its stored type), with the code of 0 where a weight is dropped."""
        assert self.scale is not None  # noqa: S101 (asked by the callers)
        rows, scale = weight.reshape(weight.shape[0], -1), self.scale
        if self.growth is not None:  # may be split over ranks
            scale = _Stored.apply(scale * whole(self.growth).exp(), self.is_half)
        found = _round(_grouped(rows, scale), scale, self.zero_point, self.num_bits)
        codes = found if self.zero_point is None else found + self.zero_point.unsqueeze(-1)
        if self.mask is not None:
            zero = 0.0 if self.zero_point is None else self.zero_point.unsqueeze(-1)
            codes = torch.where(_grouped(self.mask, scale), codes, torch.as_tensor(zero, device=codes.device))
        codes = codes.to(torch.int8).reshape(rows.shape)
        return codes, scale.half() if self.is_half else scale

    @torch.no_grad()
    def nearest(self, weight: Tensor, codes: Tensor) -> Tensor:
        """A float weight that has these codes and is otherwise as near to `weight` as it can be: where training starts.

        Dropped weights are as they were.
        """
        if self.scale is None:
            return weight
        rows = weight.reshape(weight.shape[0], -1)
        zero = 0.0 if self.zero_point is None else self.zero_point.unsqueeze(-1)
        scale = _divisor(self.scale)
        steps, ratio = _grouped(codes.float(), self.scale) - zero, _grouped(rows, self.scale) / scale
        if self.num_bits == 1:
            found = (ratio * steps).clamp(*SIGNED) * steps * scale
        else:
            found = ((ratio - steps).clamp(-INSIDE, INSIDE) + steps) * scale
        if self.mask is not None:
            found = torch.where(_grouped(self.mask, self.scale), found, _grouped(rows, self.scale))
        return found.reshape(weight.shape)


class _OnGrid(torch.autograd.Function):
    """(rows, columns) float -> what the codes stand for."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, scale: Tensor, zero: Tensor | None, mask: Tensor | None, ends: tuple[int, int],
        num_bits: int, is_dense: bool,
    ) -> Tensor:  # fmt: skip
        grouped = _grouped(rows, scale)
        steps = _round(grouped, scale, zero, num_bits)
        out = (steps * scale.unsqueeze(-1)).reshape(rows.shape)
        ctx.save_for_backward(rows, scale, zero, mask)
        ctx.ends, ctx.num_bits, ctx.is_dense = ends, num_bits, is_dense
        return out if mask is None else out * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        rows, scale, zero, mask = ctx.saved_tensors
        ratio = _grouped(rows, scale) / _divisor(scale)
        steps = _round(_grouped(rows, scale), scale, zero, ctx.num_bits)
        low, high = (end - (0 if zero is None else zero.unsqueeze(-1)) for end in ctx.ends)
        inside = (ratio >= low - 0.5) & (ratio <= high + 0.5)
        kept = grad if mask is None else grad * mask
        of_scale = None
        if ctx.needs_input_grad[1]:
            of_scale = (_grouped(kept, scale) * (steps - ratio * inside)).sum(dim=-1).sum_to_size(scale.shape)
        of_rows = (grad if ctx.is_dense else kept) * inside.reshape(rows.shape)
        return of_rows, of_scale, None, None, None, None, None


class _Masked(torch.autograd.Function):
    """(rows, columns) float -> the same as it is stored, with 0 where dropped."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, mask: Tensor | None, is_dense: bool, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.is_dense = is_dense
        stored = rows.to(dtype, copy=True).to(rows.dtype)
        return stored if mask is None else stored * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (mask,) = ctx.saved_tensors
        return grads[0] if mask is None or ctx.is_dense else grads[0] * mask, None, None, None


class _Stored(torch.autograd.Function):
    """A scale -> the scale that is stored, rounded to float16 where it is stored so; straight through."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, is_half: bool) -> Tensor:
        if not is_half:
            return scale.clone()
        rounded = scale.abs().clamp(FP16_SMALLEST_NORMAL, FP16_LARGEST).copysign(scale).half().float()
        return torch.where(scale == 0, scale, rounded)  # a scale of 0, at 1 bit, stays: its weights are all 0

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


def _grouped(rows: Tensor, scale: Tensor) -> Tensor:
    """(rows, columns) -> (rows, groups, size): what shares a scale lies along the last dimension."""
    return rows.reshape(rows.shape[0], scale.shape[1], -1)


def covering(grouped: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The smallest scale on whose grid, low .. high steps, nothing is clipped: grouped (..., size) -> (...)."""
    up, down = grouped.amax(dim=-1).clamp_min(0), grouped.amin(dim=-1).clamp_max(0)
    above = torch.where(high > 0, up / high.clamp_min(1), 0.0)
    return torch.maximum(above, torch.where(low < 0, down / low.clamp_max(-1), 0.0))


def _divisor(scale: Tensor) -> Tensor:
    """A scale to divide by. Where it is 0 its weights are, too, whatever their codes: any small one does."""
    return torch.where(scale == 0, NO_SCALE, scale).unsqueeze(-1)


def _round(grouped: Tensor, scale: Tensor, zero: Tensor | None, num_bits: int) -> Tensor:
    """Codes less their zero point, as floats; the same operations as `grids.encode`, so the same codes."""
    if num_bits == 1:
        return torch.where(grouped >= 0, 1.0, -1.0)
    steps = (grouped / _divisor(scale)).round()
    low, high = code_range(num_bits, symmetric=zero is None)
    if zero is None:
        return steps.clamp_(low, high)
    return (steps + zero.unsqueeze(-1)).clamp_(low, high) - zero.unsqueeze(-1)
