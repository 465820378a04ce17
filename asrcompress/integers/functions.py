"""What each torch function does to activations: one table, for observing and for running on integers.

Views keep the grid; what makes numbers of another range passes a site, whose grid comes from calibration.
Plain integer tensors (masks) count as numbers of scale 1; a plain float tensor that meets codes is an error.
Products, norms, softmax and lookups are in files of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.integers import lookup, pooling, softmax
from asrcompress.integers.grid import Grid
from asrcompress.integers.products import matmul
from asrcompress.integers.rescale import fixed_point, rescale, shift_right, to_codes
from asrcompress.integers.sites import Sites
from asrcompress.integers.tensor import (
    Activation,
    GridTensor,
    activations,
    grid_tensor,
    map_tensors,
    observed,
    payloads,
)

Function = Callable[[Sites, Any, Any, Any], Any]
Number = int | float


def sited(kind: str, integer: Callable[..., Tensor]) -> Function:
    """A function whose result has a grid of its own; integer(grid, *args, **kwargs) gives the codes."""

    def run(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
        site = sites.next_site(kind)
        if sites.record is not None:
            result = func(*payloads(args), **payloads(kwargs))
            sites.record(site, result)
            return observed(result, sites)
        grid = sites.grid(site)
        return grid_tensor(integer(grid, *_integers(sites, args), **_integers(sites, kwargs)), grid, sites)

    return run


def unsited(integer: Callable[..., GridTensor]) -> Function:
    """A function whose result's grid follows from its operand's."""

    def run(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
        if sites.record is not None:
            return observed(func(*payloads(args), **payloads(kwargs)), sites)
        return integer(*_integers(sites, args), **_integers(sites, kwargs))

    return run


def _integers(sites: Sites, value: Any) -> Any:
    """The arguments, refused where a plain float tensor is among them."""

    def check(x: Tensor) -> Tensor:
        if not isinstance(x, Activation) and x.is_floating_point():
            raise AsrCompressError(
                f"module '{sites.module_name}': a float tensor of shape {tuple(x.shape)} meets integers, so the model cannot reach "
                "level integer-only; give the module an integer twin, or use level computed"
            )
        return x

    return map_tensors(value, check)


def view(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """Moves elements and computes nothing."""
    first = next(iter(activations((args, kwargs))))
    return first.like(func(*payloads(args), **payloads(kwargs)))


def identity(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """Nothing at all (dropout after training, casts between floats); about a plain tensor: the function itself."""
    return args[0] if isinstance(args[0], Activation) else func(*payloads(args), **payloads(kwargs))


def plain(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """Makes a new plain tensor, or answers a question."""
    return func(*payloads(args), **payloads(kwargs))


def _operand(x: Any) -> tuple[Tensor | Number, float]:
    """(integers without zero point, scale): activations, plain integer tensors, Python numbers."""
    if isinstance(x, GridTensor):
        wide = x.payload.to(torch.int64)
        return (wide - x.grid.zero_point if x.grid.zero_point else wide), x.grid.scale
    if isinstance(x, Tensor):
        return x.to(torch.int64), 1.0
    return x, 1.0


def weighted_sum(grid: Grid, *terms: tuple[Any, float]) -> Tensor:
    """Codes of sum(weight * operand): integer multipliers of one shift, one rounding."""
    operands = [(*_operand(x), weight) for x, weight in terms]
    factors = [scale * weight / grid.scale for value, scale, weight in operands if isinstance(value, Tensor)]
    _, shift = fixed_point(max(map(abs, factors)))
    total: Any = 0
    for value, scale, weight in operands:
        factor = scale * weight / grid.scale
        total = total + (
            value * round(factor * 2**shift) if isinstance(value, Tensor) else round(value * factor * 2**shift)
        )
    return to_codes(shift_right(total, shift), grid)


def _add(grid: Grid, a: Any, b: Any, *, alpha: Number = 1) -> Tensor:
    return weighted_sum(grid, (a, 1.0), (b, float(alpha)))


def _subtract(grid: Grid, a: Any, b: Any, *, alpha: Number = 1) -> Tensor:
    return weighted_sum(grid, (a, 1.0), (b, -float(alpha)))


def _rsub(grid: Grid, a: Any, b: Any, *, alpha: Number = 1) -> Tensor:
    return weighted_sum(grid, (b, 1.0), (a, -float(alpha)))


def _product(grid: Grid, a: Any, b: Any) -> Tensor:
    (left, left_scale), (right, right_scale) = _operand(a), _operand(b)
    product = left * right
    assert isinstance(product, Tensor)  # noqa: S101 (one of them is an activation)
    return rescale(product, left_scale * right_scale / grid.scale, grid)


def _scale(x: GridTensor, factor: Number) -> GridTensor:
    """Times a Python number: the same codes, negated for a negative one, on another grid."""
    if factor == 0:
        return grid_tensor(torch.full_like(x.payload, x.grid.zero_point), x.grid, x.sites)
    if factor > 0:
        return grid_tensor(x.payload, x.grid.scaled(factor), x.sites)
    if x.grid.zero_point:
        raise AsrCompressError(f"module '{x.sites.module_name}': a grid with a zero point is multiplied by {factor}")
    return grid_tensor(-x.payload, x.grid.scaled(-factor), x.sites)


_products, _scaled = sited("mul", _product), unsited(_scale)


def multiply(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """Times a number changes the grid alone; times a tensor passes a site."""
    a, b = args
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _products(sites, func, args, kwargs)
    return _scaled(sites, torch.mul, (a, b) if isinstance(a, Activation) else (b, a), {})


def divide(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """By a number alone."""
    a, b = args
    if isinstance(b, Tensor) or not isinstance(a, Activation):
        raise AsrCompressError(
            f"module '{sites.module_name}': division by a tensor has no integer version; use level computed"
        )
    return _scaled(sites, torch.mul, (a, 1.0 / b), {})


def negate(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """Symmetric grids negate exactly."""
    return _scaled(sites, torch.mul, (args[0], -1.0), {})


def _code(x: Activation, value: Number) -> Number:
    """The code of a number on x's grid (or the number itself, while observing)."""
    if not isinstance(x, GridTensor):
        return value
    grid = x.grid
    return min(max(round(max(min(value / grid.scale, 1e9), -1e9)) + grid.zero_point, grid.code_min), grid.code_max)


def pad(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """F.pad: a constant becomes its code."""
    x, size, *rest = args
    mode = rest[0] if rest else kwargs.get("mode", "constant")
    value = (rest[1] if len(rest) > 1 else kwargs.get("value")) or 0
    if mode != "constant":
        return x.like(func(x.payload, size, mode))
    return x.like(F.pad(x.payload, size, "constant", _code(x, value)))


def fill(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """masked_fill: the value becomes its code."""
    x, mask, value = args[0], args[1], args[2] if len(args) > 2 else kwargs["value"]
    if isinstance(value, Tensor):
        raise AsrCompressError(f"module '{sites.module_name}': masked_fill with a tensor has no integer version")
    return x.like(x.payload.masked_fill(mask, _code(x, value)))


def assign(sites: Sites, func: Any, args: Any, kwargs: Any) -> None:
    """x[index] = value, in place; a number becomes its code, an activation goes on x's grid."""
    x, index, value = args
    if isinstance(value, GridTensor):
        value = value.on(x.grid)
    x.payload[payloads(index)] = value.payload if isinstance(value, Activation) else _code(x, value)


def _clamp(x: GridTensor, low: Number | None = None, high: Number | None = None, **named: Number | None) -> GridTensor:
    low, high = named.get("min", named.get("min_val", low)), named.get("max", named.get("max_val", high))
    codes = x.payload.clamp(
        None if low is None else _code(x, low), None if high is None else _code(x, high)
    )  # comparisons alone
    return grid_tensor(codes, x.grid, x.sites)


def _relu(x: GridTensor, inplace: bool = False) -> GridTensor:
    return _clamp(x, 0)


def _relu6(x: GridTensor, inplace: bool = False) -> GridTensor:
    return _clamp(x, 0, 6)


def _on(grid: Grid, parts: list[Any]) -> list[Tensor]:
    return [part.on(grid).payload for part in parts]


def _cat(grid: Grid, tensors: list[Any], dim: int = 0) -> Tensor:
    return torch.cat(_on(grid, tensors), dim)


def _stack(grid: Grid, tensors: list[Any], dim: int = 0) -> Tensor:
    return torch.stack(_on(grid, tensors), dim)


T = Tensor
ADDITIONS = (torch.add, T.add, T.add_, T.__add__, T.__radd__, T.__iadd__)
SUBTRACTIONS = (torch.sub, torch.subtract, T.sub, T.sub_, T.__sub__, T.__isub__)
MULTIPLICATIONS = (torch.mul, torch.multiply, T.mul, T.mul_, T.__mul__, T.__rmul__, T.__imul__)
DIVISIONS = (torch.div, torch.true_divide, T.div, T.div_, T.true_divide, T.__truediv__, T.__itruediv__)
VIEWS = (
    T.view, T.view_as, T.reshape, torch.reshape, T.transpose, torch.transpose, T.permute, torch.permute, T.t, torch.t, T.contiguous,
    T.squeeze, torch.squeeze, T.unsqueeze, torch.unsqueeze, T.expand, T.expand_as, T.flatten, torch.flatten, T.unflatten, T.chunk,
    torch.chunk, T.split, torch.split, torch.functional.split, T.narrow, torch.narrow, T.select, T.index_select, torch.index_select,
    T.__getitem__, T.flip, torch.flip, T.roll, torch.roll, T.unbind, torch.unbind, T.movedim, torch.movedim, T.repeat, T.gather,
    torch.gather, T.clone, torch.clone, T.detach, T.unfold, T.swapaxes, torch.swapaxes, T.swapdims, T.tile,
    F.pixel_shuffle, F.channel_shuffle, T.repeat_interleave, torch.repeat_interleave,
)  # fmt: skip
IDENTITIES = (
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.feature_alpha_dropout, F.alpha_dropout, T.float, T.half, T.to, T.type_as,
    torch.dropout, torch.feature_dropout, T.requires_grad_, torch.detach,
)  # fmt: skip
PLAIN = (
    T.new_zeros, T.new_ones, T.new_full, T.new_empty, T.new_tensor, torch.zeros_like, torch.ones_like, torch.empty_like, torch.full_like,
    torch.isnan, torch.isinf, torch.isfinite, T.isnan, T.isfinite,
)  # fmt: skip
QUERIES = frozenset(
    {
        T.size, T.dim, T.numel, T.nelement, T.stride, T.is_contiguous, T.__len__, T.data_ptr, T.is_floating_point, T.is_complex, T.element_size,
        T.get_device, T.storage_offset, T.untyped_storage, T.ndimension, T.__hash__, T.type, torch.numel, torch.is_floating_point,
        torch.is_complex, T.as_subclass,
        *(getattr(T, name).__get__ for name in (
            "shape", "ndim", "dtype", "device", "layout", "is_cuda", "is_cpu", "is_mps", "is_xla", "is_meta", "is_sparse", "is_quantized",
            "requires_grad", "grad_fn", "grad", "is_leaf", "names", "itemsize", "nbytes", "_version", "is_nested", "is_xpu", "_base",
        )),
    }
)  # fmt: skip

FUNCTIONS: dict[Any, Function] = {
    **{getattr(T, name).__get__: view for name in ("T", "mT")},
    **dict.fromkeys(VIEWS, view),
    **dict.fromkeys(IDENTITIES, identity),
    **dict.fromkeys(PLAIN, plain),
    **dict.fromkeys(ADDITIONS, sited("add", _add)),
    **dict.fromkeys(SUBTRACTIONS, sited("sub", _subtract)),
    **dict.fromkeys((torch.rsub, T.__rsub__), sited("sub", _rsub)),
    **dict.fromkeys(MULTIPLICATIONS, multiply),
    **dict.fromkeys(DIVISIONS, divide),
    **dict.fromkeys((torch.neg, T.neg, T.__neg__), negate),
    **dict.fromkeys((torch.cat, torch.concat), sited("cat", _cat)),
    torch.stack: sited("cat", _stack),
    F.pad: pad,
    **dict.fromkeys((torch.masked_fill, T.masked_fill, T.masked_fill_), fill),
    T.__setitem__: assign,
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, T.relu, T.relu_), unsited(_relu)),
    F.relu6: unsited(_relu6),
    **dict.fromkeys((torch.clamp, T.clamp, T.clamp_, T.clamp_min, torch.clamp_min, F.hardtanh), unsited(_clamp)),
    **dict.fromkeys((torch.matmul, torch.bmm, T.matmul, T.bmm, T.__matmul__), matmul),
    **{func: sited("table", lookup.runner(scalar)) for func, scalar in lookup.POINTWISE.items()},
    **dict.fromkeys((F.glu, torch._C._nn.glu), sited("glu", lookup.glu)),
    **dict.fromkeys((F.softmax, torch.softmax, T.softmax), unsited(softmax.softmax)),
    **dict.fromkeys((torch.max_pool1d, F.max_pool1d), unsited(pooling.max_pool1d)),
    **dict.fromkeys((torch.max_pool2d, F.max_pool2d), unsited(pooling.max_pool2d)),
    **dict.fromkeys((F.adaptive_avg_pool2d, F.adaptive_avg_pool1d), sited("mean", pooling.adaptive_average)),
    **dict.fromkeys((F.avg_pool2d, torch._C._nn.avg_pool2d), sited("mean", pooling.average_pool2d)),
    **dict.fromkeys((torch.mean, T.mean), sited("mean", pooling.mean)),
    **dict.fromkeys((torch.sum, T.sum), sited("sum", pooling.total)),
    F.interpolate: sited("resize", pooling.interpolate),
}
