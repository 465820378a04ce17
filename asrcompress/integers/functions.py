"""What each torch function does to activations: one table, for observing and for running on integers.

Views keep the grid; what makes numbers of another range passes a site, whose grid comes from calibration.
Plain integer tensors (masks) count as numbers of scale 1; a plain float tensor that meets codes is an error.
Products, norms, softmax and lookups are in files of their own.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.integers import arithmetic, lookup, pooling, softmax
from asrcompress.integers.products import matmul
from asrcompress.integers.sites import Sites
from asrcompress.integers.tensor import (
    Activation,
    GridTensor,
    activations,
    as_floats,
    codes_on,
    grid_tensor,
    map_tensors,
    observed,
    payloads,
    refuse_floats,
)

Function = Callable[[Sites, Any, Any, Any], Any]
Number = int | float


def sited(kind: str, integer: Callable[..., Tensor]) -> Function:
    """A function whose result has a grid of its own; integer(grid, *args, **kwargs) gives the codes."""

    def run(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
        site = sites.next_site(kind)
        if sites.record is not None:
            return observed(sites.observe(site, func(*payloads(args), **payloads(kwargs))), sites)
        if not sites.knows(site):
            return func(*as_floats(args), **as_floats(kwargs))
        grid = sites.grid(site)
        return grid_tensor(integer(grid, *_integers(sites, args), **_integers(sites, kwargs)), grid, sites)

    return run


def on_floats(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """The function itself on floats, its result observed."""
    return observed(func(*payloads(args), **payloads(kwargs)), sites)


def unsited(integer: Callable[..., GridTensor]) -> Function:
    """A function whose result's grid follows from its operand's."""

    def run(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
        if sites.record is not None:
            return on_floats(sites, func, args, kwargs)
        return integer(*_integers(sites, args), **_integers(sites, kwargs))

    return run


def _integers(sites: Sites, value: Any) -> Any:
    """The arguments, refused where a plain float tensor is among them."""
    return map_tensors(value, lambda x: x if isinstance(x, Activation) else refuse_floats(x, sites))


def view(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """Moves elements and computes nothing. A plain tensor that is shaped like an activation stays plain."""
    first = args[0] if args else next(iter(activations(kwargs)))
    moved = func(*payloads(args), **payloads(kwargs))
    return first.like(moved) if isinstance(first, Activation) else moved


def identity(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """Nothing at all (dropout after training, casts between floats); about a plain integer tensor: the function itself."""
    if isinstance(args[0], Activation):
        return args[0]
    return func(*payloads(args if sites.observing else _integers(sites, args)), **payloads(kwargs))


def plain(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """Makes a new plain tensor of whole numbers, or answers a question."""
    if not sites.observing and any(isinstance(x, float) and not x.is_integer() for x in (*args, *kwargs.values())):
        raise AsrCompressError(
            f"module '{sites.module_name}': a new tensor of fractions meets integers; use level computed"
        )
    return func(*payloads(args), **payloads(kwargs))


def kind(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """Tensor.type: a cast, or the name of a type."""
    return identity(sites, func, args, kwargs) if len(args) > 1 or kwargs else func(*payloads(args))


_products = sited("mul", arithmetic.product)


def multiply(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """Times a number changes the grid alone; times a tensor passes a site."""
    a, b = args
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _products(sites, func, args, kwargs)
    if sites.record is not None:
        return on_floats(sites, func, args, kwargs)
    codes, factor = (a, b) if isinstance(a, GridTensor) else (b, a)
    return arithmetic.multiple(codes, factor)


def divide(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """By a number alone."""
    by_number = len(args) == 2 and isinstance(args[0], Activation) and not isinstance(args[1], Tensor) and not kwargs
    if not by_number or not args[1]:
        raise AsrCompressError(
            f"module '{sites.module_name}': division by a tensor or by 0, or to whole numbers, has no integer version; use level computed"
        )
    if sites.record is not None:
        return on_floats(sites, func, args, kwargs)
    return arithmetic.multiple(args[0], 1.0 / args[1])


def negate(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """Symmetric grids negate exactly."""
    return multiply(sites, torch.mul, (args[0], -1.0), {})


def _code(x: Activation, value: Number) -> Number:
    """The code of a number on x's grid (or the number itself, while observing)."""
    if not isinstance(x, GridTensor):
        return value
    grid = x.grid
    return min(max(round(max(min(value / grid.scale, 1e9), -1e9)) + grid.zero_point, grid.code_min), grid.code_max)


def _exact(x: Activation, value: Number) -> Number:
    """The code of a number that has to be on x's grid: what is filled in must not silently become another number."""
    reach = (x.grid.code_max + abs(x.grid.zero_point) + 1) * x.grid.scale if isinstance(x, GridTensor) else math.inf
    if not math.isfinite(value) or abs(value) > reach:
        raise AsrCompressError(
            f"module '{x.sites.module_name}': {value} is filled in and is on no static grid of these numbers; use level computed"
        )
    return _code(x, value)


def pad(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """F.pad: a constant becomes its code."""
    x, size, mode, value = _pad_arguments(*args, **kwargs)
    if mode != "constant":
        return x.like(F.pad(x.payload, size, mode))
    return x.like(F.pad(x.payload, size, "constant", _exact(x, value or 0)))


def _pad_arguments(input: Any, pad: Any, mode: str = "constant", value: Number | None = None) -> Any:
    return input, pad, mode, value


def fill(sites: Sites, func: Any, args: Any, kwargs: Any) -> Any:
    """masked_fill: the value becomes its code."""
    x, mask, value = _fill_arguments(*args, **kwargs)
    if isinstance(value, Tensor) or not isinstance(x, Activation):
        raise AsrCompressError(f"module '{sites.module_name}': masked_fill with a tensor has no integer version")
    return x.like(func(x.payload, mask, _exact(x, value)))


def _fill_arguments(input: Any, mask: Any, value: Any) -> Any:
    return input, mask, value


def assign(sites: Sites, func: Any, args: Any, kwargs: Any) -> None:
    """x[index] = value, in place: a number becomes its code, numbers go on x's grid."""
    x, index, value = args
    if not isinstance(x, Activation):
        raise AsrCompressError(
            f"module '{sites.module_name}': numbers of a grid are written into a plain tensor; use torch.cat, or level computed"
        )
    if isinstance(value, Tensor):
        value = codes_on(refuse_floats(value, sites), x.grid) if isinstance(x, GridTensor) else payloads(value)
    else:
        value = _exact(x, value)
    x.payload[payloads(index)] = value


def _clamp(
    x: GridTensor, low: Number | None = None, high: Number | None = None, inplace: bool = False, **named: Any
) -> GridTensor:
    low, high = named.get("min", named.get("min_val", low)), named.get("max", named.get("max_val", high))
    low_code, high_code = (None if value is None else _code(x, value) for value in (low, high))
    return grid_tensor(x.payload.clamp(low_code, high_code), x.grid, x.sites)  # comparisons alone


def _hardtanh(x: GridTensor, min_val: Number = -1.0, max_val: Number = 1.0, inplace: bool = False) -> GridTensor:
    return _clamp(x, min_val, max_val)


def _relu(x: GridTensor, inplace: bool = False) -> GridTensor:
    return _clamp(x, 0)


def _relu6(x: GridTensor, inplace: bool = False) -> GridTensor:
    return _clamp(x, 0, 6)


AUGMENTED = frozenset({"__iadd__", "__isub__", "__imul__", "__itruediv__"})
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
        T.get_device, T.storage_offset, T.untyped_storage, T.ndimension, T.__hash__, torch.numel, torch.is_floating_point,
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
    **dict.fromkeys(ADDITIONS, sited("add", arithmetic.add)),
    **dict.fromkeys(SUBTRACTIONS, sited("sub", arithmetic.subtract)),
    **dict.fromkeys((torch.rsub, T.__rsub__), sited("sub", arithmetic.rsub)),
    **dict.fromkeys(MULTIPLICATIONS, multiply),
    **dict.fromkeys(DIVISIONS, divide),
    **dict.fromkeys((torch.neg, T.neg, T.__neg__), negate),
    **dict.fromkeys((torch.cat, torch.concat), sited("cat", arithmetic.cat)),
    torch.stack: sited("cat", arithmetic.stack),
    F.pad: pad,
    **dict.fromkeys((torch.masked_fill, T.masked_fill, T.masked_fill_), fill),
    T.__setitem__: assign,
    T.type: kind,
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_, T.relu, T.relu_), unsited(_relu)),
    F.relu6: unsited(_relu6),
    **dict.fromkeys((torch.clamp, T.clamp, T.clamp_, T.clamp_min, torch.clamp_min), unsited(_clamp)),
    F.hardtanh: unsited(_hardtanh),
    **dict.fromkeys((torch.matmul, torch.bmm, T.matmul, T.bmm, T.__matmul__), matmul),
    **{func: sited("table", lookup.runner(scalar)) for func, scalar in lookup.POINTWISE.items()},
    **dict.fromkeys((F.glu, torch._C._nn.glu), sited("glu", lookup.glu)),
    **dict.fromkeys((F.softmax, torch.softmax, T.softmax), unsited(softmax.softmax)),
    **dict.fromkeys((torch.max_pool1d, F.max_pool1d), unsited(pooling.max_pool1d)),
    **dict.fromkeys((torch.max_pool2d, F.max_pool2d), unsited(pooling.max_pool2d)),
    **dict.fromkeys((F.adaptive_avg_pool1d, torch.adaptive_avg_pool1d), sited("mean", pooling.adaptive_average(1))),
    F.adaptive_avg_pool2d: sited("mean", pooling.adaptive_average(2)),
    **dict.fromkeys((F.avg_pool1d, torch.avg_pool1d), sited("mean", pooling.average_pool(1))),
    **dict.fromkeys((F.avg_pool2d, torch._C._nn.avg_pool2d), sited("mean", pooling.average_pool(2))),
    **dict.fromkeys((torch.mean, T.mean), sited("mean", pooling.mean)),
    **dict.fromkeys((torch.sum, T.sum), sited("sum", pooling.total)),
    F.interpolate: sited("resize", pooling.interpolate),
}
# In place by their name, and where the argument `inplace` of others stands.
BY_NAME = frozenset(
    func
    for func in FUNCTIONS
    if func.__name__ in AUGMENTED or (func.__name__.endswith("_") and not func.__name__.endswith("__"))
)
BY_ARGUMENT = {
    func: list(inspect.signature(func).parameters).index("inplace")
    for func in FUNCTIONS
    if inspect.isfunction(func) and "inplace" in inspect.signature(func).parameters
}


def in_place(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a call replaces its first argument's numbers: x += y, x.relu_(), F.relu(x, inplace=True)."""
    if func in BY_NAME:
        return True
    position = BY_ARGUMENT.get(func)
    return position is not None and bool(args[position] if len(args) > position else kwargs.get("inplace"))
