"""Activations: tensors that run a model's own forward code, with other arithmetic underneath.

An `ObservedTensor` holds floats and records what passes each site; a `GridTensor` holds integer codes of a
static grid and never turns into floats inside a model. Both hand every torch function to the same table
(functions.py), so both pass the same sites; a function that the table lacks is an error that names it.
Views of codes are views of numbers. Outside of the model's modules, where search and scores begin, a function
without a rule gets floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.integers import crossing
from asrcompress.integers.grid import Grid
from asrcompress.integers.lengths import lengths
from asrcompress.integers.rescale import regrid, rescale
from asrcompress.integers.sites import Sites


class Activation(Tensor):
    """What flows through a model at level integer-only, or while it is observed."""

    sites: Sites

    @property
    def payload(self) -> Tensor:
        """The plain tensor inside: floats or codes."""
        with torch._C.DisableTorchFunctionSubclass():
            return self.as_subclass(Tensor)

    def like(self, payload: Any) -> Any:
        """An activation of the same kind (and grid) around another payload, or a list of them."""
        if isinstance(payload, tuple | list):
            return type(payload)(self.like(part) for part in payload)
        return wrap(payload, self.sites, getattr(self, "grid", None))

    def __deepcopy__(self, memo: dict[int, Any]) -> Activation:
        """Copies stay on the grid."""
        copied: Activation = self.like(self.payload.clone())
        return copied

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        """What `print` shows."""
        return f"{type(self).__name__}({tuple(self.payload.shape)}, {getattr(self, 'grid', 'floats')})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from asrcompress.integers.functions import FUNCTIONS, QUERIES, in_place

        kwargs = kwargs or {}
        if func in QUERIES:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        first = args[0] if args and isinstance(args[0], Activation) else next(iter(activations((args, kwargs))))
        sites = first.sites
        function = FUNCTIONS.get(func)
        if function is None:
            if not sites.stack:
                return func(*as_floats(args), **as_floats(kwargs))
            raise AsrCompressError(
                f"module '{sites.module_name}': {getattr(func, '__qualname__', func)} has no integer version, so the model cannot "
                "reach level integer-only; use level computed, or add it to asrcompress/integers/functions.py"
            )
        result = function(sites, func, args, kwargs)
        if in_place(func, args, kwargs) and isinstance(args[0], GridTensor) and isinstance(result, GridTensor):
            return args[0].become(result)
        return result


class ObservedTensor(Activation):
    """Floats whose values are recorded at each site."""


class GridTensor(Activation):
    """Integer codes of `grid`."""

    grid: Grid

    def on(self, grid: Grid) -> GridTensor:
        """The same numbers as codes of another grid."""
        if grid == self.grid:
            return self
        return grid_tensor(regrid(self.payload, self.grid, grid), grid, self.sites)

    def become(self, other: GridTensor) -> GridTensor:
        """Take over other's numbers, as functions in place do. Views follow where the grid stays: they are views of codes."""
        if other is not self:
            if other.grid == self.grid and other.payload.shape == self.payload.shape:
                self.payload.copy_(other.payload)
            else:
                with torch._C.DisableTorchFunctionSubclass():
                    self.data = other.payload
                self.grid = other.grid
        return self

    def to_floats(self) -> Tensor:
        """Leave the integers: float32."""
        return crossing.leave_integers(self.payload, self.grid.scale, self.grid.zero_point)


def refuse_floats(x: Tensor, sites: Sites) -> Tensor:
    """A tensor of codes, integers or booleans.

    Raises:
        AsrCompressError: it is a plain one of floats.
    """
    if x.is_floating_point():
        raise AsrCompressError(
            f"module '{sites.module_name}': a float tensor of shape {tuple(x.shape)} meets integers, so the model cannot reach "
            "level integer-only; give the module an integer twin, or use level computed"
        )
    return x


def codes_on(x: Tensor, grid: Grid) -> Tensor:
    """Codes of `grid`, for codes of another one or for plain integers, which count as numbers."""
    if isinstance(x, GridTensor):
        return x.on(grid).payload
    return rescale(x.to(torch.int64).clamp(-(2**31), 2**31), 1 / grid.scale, grid)


def grid_tensor(codes: Tensor, grid: Grid, sites: Sites) -> GridTensor:
    """Codes as an activation."""
    tensor = codes.as_subclass(GridTensor)
    tensor.grid, tensor.sites = grid, sites
    return tensor


def observed(values: Tensor, sites: Sites) -> ObservedTensor:
    """Floats as an activation."""
    tensor = values.as_subclass(ObservedTensor)
    tensor.sites = sites
    return tensor


def wrap(payload: Tensor, sites: Sites, grid: Grid | None) -> Activation:
    """An activation of the kind that `grid` says: codes, or floats without one."""
    return observed(payload, sites) if grid is None else grid_tensor(payload, grid, sites)


def activations(value: Any) -> Iterator[Activation]:
    """Every activation in nested arguments."""
    if isinstance(value, Activation):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from activations(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from activations(item)


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Nested arguments with every tensor replaced by `change` of it. What holds nothing to replace stays the same object:
    a decoder's incremental state is one that it writes to."""
    if isinstance(value, Tensor):
        return change(value)
    if value is None or isinstance(value, int | float | str):
        return value
    if isinstance(value, dict):
        changed = {key: map_tensors(item, change) for key, item in value.items()}
        return value if all(changed[key] is item for key, item in value.items()) else changed
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        parts = [map_tensors(item, change) for item in value]
        return value if all(new is old for new, old in zip(parts, value, strict=True)) else type(value)(parts)
    return value


def payloads(value: Any) -> Any:
    """Nested arguments with every activation as its plain tensor."""
    return map_tensors(value, lambda x: x.payload if isinstance(x, Activation) else x)


def as_floats(value: Any) -> Any:
    """Nested arguments with every activation as plain floats."""
    return map_tensors(value, lambda x: as_float(x) if isinstance(x, Activation) else x)


def as_float(x: Tensor) -> Tensor:
    """Plain floats."""
    if isinstance(x, GridTensor):
        return x.to_floats()
    return x.payload if isinstance(x, Activation) else x


def same_grid(join: Callable[..., Tensor], tensors: Sequence[Tensor], dim: int) -> Tensor:
    """torch.cat or torch.stack of plain tensors, or of activations: on their grid, or on the coarsest where these differ."""
    first = tensors[0]
    if not isinstance(first, Activation):
        return join(tensors, dim)
    if isinstance(first, GridTensor):
        grid = max((x.grid for x in tensors), key=lambda grid: grid.scale)  # type: ignore[attr-defined]
        return grid_tensor(join([codes_on(x, grid) for x in tensors], dim), grid, first.sites)
    joined: Tensor = first.like(join(payloads(list(tensors)), dim))
    return joined


def point(x: Tensor, kind: str) -> Tensor:
    """Pass a site: record floats, or put codes on the site's grid. Plain tensors come back as they are."""
    if isinstance(x, GridTensor):
        sites = x.sites
        return x.on(sites.grid(sites.next_site(kind)))
    if isinstance(x, ObservedTensor):
        sites = x.sites
        return observed(sites.observe(sites.next_site(kind), x.payload), sites)
    return x


def from_floats(sites: Sites, value: Any) -> Any:
    """What an island gives back, with every float tensor as an activation that passes a site `out`."""

    def change(x: Tensor) -> Tensor:
        if isinstance(x, Activation) or not x.is_floating_point():
            return x
        return from_float(sites, x, "out")

    return map_tensors(value, change)


def from_float(sites: Sites, x: Tensor, kind: str) -> Activation:
    """Floats as an activation that passes a site: recorded, or rounded to its grid."""
    site = sites.next_site(kind)
    if sites.record is not None:
        return observed(sites.observe(site, x), sites)
    grid = sites.grid(site)
    return grid_tensor(crossing.enter_integers(x, grid.scale, grid.zero_point, grid.num_bits), grid, sites)


def enter(sites: Sites, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The outermost module's arguments with every plain float tensor as an activation, at the sites `:input<n>`,
    and every one-dimensional integer tensor as lengths."""
    here, sites.stack = sites.stack, []

    def change(x: Tensor) -> Tensor:
        if isinstance(x, Activation):
            return x
        if x.is_floating_point():
            return from_float(sites, x, "input")
        return lengths(x) if x.dim() == 1 and x.dtype in (torch.int64, torch.int32) else x

    try:
        return map_tensors(args, change), map_tensors(kwargs, change)
    finally:
        sites.stack = here


def leave_output(output: Any) -> Any:
    """The outermost module's result as floats: the tensor, or the tensors of a tuple, list or dict."""
    if isinstance(output, Activation):
        return as_float(output)
    if isinstance(output, tuple | list):
        parts = [as_float(x) if isinstance(x, Activation) else x for x in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    if isinstance(output, dict):
        return type(output)((key, as_float(x) if isinstance(x, Tensor) else x) for key, x in output.items())
    return None
