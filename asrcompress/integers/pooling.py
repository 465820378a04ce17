"""Pooling and resizing of codes: comparisons, integer means, integer interpolation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.integers.grid import Grid
from asrcompress.integers.rescale import rescale
from asrcompress.integers.tensor import GridTensor, grid_tensor

Size = int | tuple[int, ...]
POSITION_BITS = 11  # fraction bits of a bilinear weight


def _sizes(size: Size, count: int) -> tuple[int, ...]:
    return (size,) * count if isinstance(size, int) else tuple(size)


def _windows(
    codes: Tensor, kernel: Size, stride: Size | None, padding: Size, dilation: Size, fill: int, ceil: bool
) -> Tensor:
    """(batch, channels, *size) -> (batch, channels, *size_out, window): what each output looks at."""
    dims = codes.dim() - 2
    kernels, paddings, dilations = _sizes(kernel, dims), _sizes(padding, dims), _sizes(dilation, dims)
    strides = kernels if stride in (None, ()) or stride == [] else _sizes(stride, dims)  # type: ignore[arg-type]
    pads: list[int] = []
    for axis in reversed(range(dims)):
        reach = dilations[axis] * (kernels[axis] - 1) + 1
        extent = codes.shape[2 + axis] + 2 * paddings[axis] - reach
        outputs = (-(-extent // strides[axis]) if ceil else extent // strides[axis]) + 1
        if ceil and (outputs - 1) * strides[axis] >= codes.shape[2 + axis] + paddings[axis]:
            outputs -= 1  # no window starts in the padding on the right
        needed = (outputs - 1) * strides[axis] + reach - codes.shape[2 + axis] - paddings[axis]
        pads += [paddings[axis], max(needed, paddings[axis])]
    windows = F.pad(codes, pads, value=fill)
    for axis in range(dims):
        reach = dilations[axis] * (kernels[axis] - 1) + 1
        windows = windows.unfold(2 + axis, reach, strides[axis])[..., :: dilations[axis]]
    return windows.flatten(2 + dims)


def _batched(codes: Tensor, dims: int) -> Tensor:
    """(batch, channels, *size) of (channels, *size) too."""
    return codes.unsqueeze(0) if codes.dim() == dims + 1 else codes


def _max_pool(
    x: GridTensor, dims: int, kernel: Size, stride: Size | None, padding: Size, dilation: Size, ceil: bool
) -> GridTensor:
    codes = _batched(x.payload, dims)
    largest = _windows(codes, kernel, stride, padding, dilation, x.grid.code_min, ceil).amax(dim=-1)
    return grid_tensor(largest.reshape(*x.payload.shape[:-dims], *largest.shape[2:]), x.grid, x.sites)


def max_pool1d(
    x: GridTensor,
    kernel_size: Size,
    stride: Any = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> GridTensor:
    """F.max_pool1d: (batch, channels, time)."""
    return _max_pool(x, 1, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d(
    x: GridTensor,
    kernel_size: Size,
    stride: Any = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> GridTensor:
    """F.max_pool2d: (batch, channels, height, width)."""
    return _max_pool(x, 2, kernel_size, stride, padding, dilation, ceil_mode)


def _sum(x: GridTensor, dim: Any, keepdim: bool) -> tuple[Tensor, int]:
    """Sums over dimensions (all if None or ()), and of how many numbers each is."""
    codes = x.payload
    dims = tuple(range(codes.dim())) if dim is None or dim == () else (dim if isinstance(dim, list | tuple) else (dim,))
    count = math.prod(codes.shape[axis] for axis in dims)
    return (codes.to(torch.int64) - x.grid.zero_point).sum(dim=tuple(dims), keepdim=keepdim), count


def _scaled_sum(sums: Tensor, count: int, x: GridTensor, divisor: int, grid: Grid) -> Tensor:
    return rescale(sums, x.grid.scale / grid.scale / divisor, grid, num_bits=x.grid.num_bits + count.bit_length())


def mean(grid: Grid, x: GridTensor, dim: Any = None, keepdim: bool = False, **unused: Any) -> Tensor:
    """torch.mean over dimensions; 0 where there is nothing."""
    sums, count = _sum(x, dim, keepdim)
    return _scaled_sum(sums, count, x, max(count, 1), grid)


def total(grid: Grid, x: GridTensor, dim: Any = None, keepdim: bool = False, **unused: Any) -> Tensor:
    """torch.sum over dimensions."""
    sums, count = _sum(x, dim, keepdim)
    return _scaled_sum(sums, count, x, 1, grid)


def adaptive_average(dims: int) -> Callable[..., Tensor]:
    """F.adaptive_avg_pool1d or 2d where the output's size divides the input's, 1 included."""

    def run(grid: Grid, x: GridTensor, output_size: Any) -> Tensor:
        have = x.payload.shape[-dims:]
        sizes = [size or old for size, old in zip(_sizes(output_size, dims), have, strict=True)]
        for size, old in zip(sizes, have, strict=True):
            if old % size:
                raise AsrCompressError(
                    f"module '{x.sites.module_name}': adaptive pooling from {old} to {size} has no integer version; use a divisor, or level computed"
                )
        return _average(grid, x, dims, tuple(old // size for size, old in zip(sizes, have, strict=True)), None)

    return run


def average_pool(dims: int) -> Callable[..., Tensor]:
    """F.avg_pool1d or 2d without padding."""

    def run(
        grid: Grid, x: GridTensor, kernel_size: Size, stride: Any = None, padding: Size = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> Tensor:  # fmt: skip
        if any(_sizes(padding, 1)) or ceil_mode or divisor_override:
            raise AsrCompressError(
                f"module '{x.sites.module_name}': average pooling with padding has no integer version; use level computed"
            )
        return _average(grid, x, dims, kernel_size, stride)

    return run


def _average(grid: Grid, x: GridTensor, dims: int, kernel: Size, stride: Any) -> Tensor:
    windows = _windows(_batched(x.payload, dims), kernel, stride, 0, 1, 0, False)
    sums, count = (windows.to(torch.int64) - x.grid.zero_point).sum(dim=-1), windows.shape[-1]
    return _scaled_sum(sums, count, x, count, grid).reshape(*x.payload.shape[:-dims], *sums.shape[2:])


def interpolate(
    grid: Grid, x: GridTensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> Tensor:  # fmt: skip
    """F.interpolate over the dimensions behind (batch, channels): nearest, linear or bilinear.

    Where an output lies between its neighbours is Python's arithmetic on sizes; weights are integers of 11 fraction bits.
    """
    if mode not in ("nearest", "linear", "bilinear") or antialias:
        raise AsrCompressError(
            f"module '{x.sites.module_name}': interpolation '{mode}' has no integer version; use bilinear, or level computed"
        )
    have = x.payload.shape[2:]
    factors = _factors(scale_factor, len(have))
    sizes = (
        _sizes(size, len(have))
        if size is not None
        else tuple(math.floor(n * f) for n, f in zip(have, factors, strict=True))
    )
    codes = x.payload.to(torch.int64) - x.grid.zero_point
    fraction = 0
    for axis, (old, new) in enumerate(zip(have, sizes, strict=True)):
        step = 1 / factors[axis] if size is None and not recompute_scale_factor else old / new
        if mode == "nearest":
            index = torch.tensor([min(math.floor(i * step), old - 1) for i in range(new)], device=codes.device)
            codes = codes.index_select(2 + axis, index)
            continue
        left, right, weight = _neighbours(old, new, step, bool(align_corners))
        shape = [1] * codes.dim()
        shape[2 + axis] = new
        weights = torch.tensor(weight, device=codes.device).reshape(shape)
        near, far = (codes.index_select(2 + axis, torch.tensor(where, device=codes.device)) for where in (left, right))
        codes, fraction = near * (2**POSITION_BITS - weights) + far * weights, fraction + POSITION_BITS
    return rescale(codes, x.grid.scale / grid.scale * 2.0**-fraction, grid, num_bits=x.grid.num_bits + fraction)


def _factors(scale_factor: Any, count: int) -> tuple[float, ...]:
    if scale_factor is None:
        return (1.0,) * count
    return (float(scale_factor),) * count if isinstance(scale_factor, int | float) else tuple(map(float, scale_factor))


def _neighbours(old: int, new: int, step: float, align_corners: bool) -> tuple[list[int], list[int], list[int]]:
    """For each output: the two inputs that it lies between, and the second one's weight."""
    left, right, weight = [], [], []
    for i in range(new):
        place = i * (old - 1) / max(new - 1, 1) if align_corners else max((i + 0.5) * step - 0.5, 0.0)
        first = min(math.floor(place), old - 1)
        left.append(first)
        right.append(min(first + 1, old - 1))
        weight.append(round(min(max(place - first, 0.0), 1.0) * 2**POSITION_BITS))
    return left, right, weight
