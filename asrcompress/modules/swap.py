"""Putting integer modules in the place of float ones.

`find_weights` says what can be packed in a model; `swap` replaces every module whose weights are packed by its twin;
`make_static` does the rest that level integer-only needs. Tied weights become one integer weight. Reading files is
elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from asrcompress.errors import AsrCompressError
from asrcompress.grids import QuantizedWeight
from asrcompress.integers.sites import Sites
from asrcompress.modules.twins import OPAQUE, Twin, find_static_twin, find_twin, forward_class
from asrcompress.modules.weight import FloatWeight, IntegerWeight, check_activations


@dataclass(frozen=True)
class WeightSite:
    """A weight that can be packed: its name in the state dict and the kind of module it is in."""

    name: str
    kind: str
    tied_to: str | None  # the first name of the same parameter, when this is not it
    module: str = ""  # that is swapped as a whole


def swappable_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, Twin]]:
    """Modules that have a twin, outermost first; nothing inside a module with a twin is listed."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules(remove_duplicate=False):
        if name.startswith(inside) and inside:
            continue
        twin = find_twin(module)
        if forward_class(module) in OPAQUE:
            inside = (*inside, f"{name}.")
        elif twin is not None:
            inside = (*inside, f"{name}.")
            yield name, module, twin


def find_weights(model: nn.Module) -> list[WeightSite]:
    """Every weight that can be packed, in the model's order; tied ones name their first."""
    first_names: dict[int, str] = {}
    sites = []
    for module_name, module, twin in swappable_modules(model):
        for weight_name in twin.weight_names(module):
            name = f"{module_name}.{weight_name}" if module_name else weight_name
            first = first_names.setdefault(id(module.get_parameter(weight_name)), name)
            sites.append(WeightSite(name, twin.kind, None if first == name else first, module_name))
    return sites


def swap(
    model: nn.Module,
    quantized: Mapping[str, QuantizedWeight | FloatWeight],
    *,
    activations: str | Callable[[str], str] = "none",
) -> nn.Module:
    """Replace, in place, every module whose weights are in `quantized` (keyed by state-dict name).

    A FloatWeight instead of a packed weight gives the twin with its weight in float, for calibration. `activations`: none
    or int8, or a function of the module's name. Biases are taken over from the float modules. A name that fits no
    module, or a shape that does not fit, is an error: nothing is left in float silently.
    """
    if not callable(activations):
        check_activations(activations)
    shared: dict[int, IntegerWeight] = {}
    used: set[str] = set()
    first_names = {site.name: site.tied_to or site.name for site in find_weights(model)}
    for module_name, module, twin in list(swappable_modules(model)):
        prefix = f"{module_name}." if module_name else ""
        weights: dict[str, QuantizedWeight | FloatWeight] = {}
        for weight_name in twin.weight_names(module):
            first = first_names[prefix + weight_name]
            if first in quantized:
                _check_shape(first, quantized[first], module.get_parameter(weight_name))
                weights[weight_name] = quantized[first]
                used.add(first)

        def share(weight_name: str, weights: dict[str, QuantizedWeight | FloatWeight] = weights) -> FloatWeight:
            weight = weights[weight_name]
            if isinstance(weight, FloatWeight):
                return weight
            return shared.setdefault(id(weight), IntegerWeight(weight))

        if weights:
            model.set_submodule(
                module_name,
                twin.build(
                    module_name,
                    module,
                    weights,
                    share,
                    activations(module_name) if callable(activations) else activations,
                ),
            )
    unused = sorted(set(quantized) - used)
    if unused:
        raise AsrCompressError(
            f"{unused[0]}: is packed, but no module of the model can use it ({len(unused)} such weights)"
        )
    return model


def make_static(model: nn.Module, sites: Sites, *, keep: frozenset[str] = frozenset()) -> nn.Module:
    """Make a model whose weights are swapped ready for level integer-only, in place, and attach `sites`.

    Norms and positions get their twins, the decoder's future mask is made of booleans. `keep`: modules that
    stay in float on purpose; they become islands. What is still in float and is run raises when it is reached.
    """
    kept = tuple(f"{name}." for name in keep)
    for name, module in list(model.named_modules()):
        twin = find_static_twin(module)
        if twin is not None and name and name not in keep and not name.startswith(kept):
            model.set_submodule(name, twin(module))
    for module in model.modules():
        if hasattr(module, "buffered_future_mask"):
            module.buffered_future_mask = _future_mask  # type: ignore[assignment]
    sites.islands = keep
    return sites.attach(model)


def _future_mask(tensor: torch.Tensor) -> torch.Tensor:
    """(time, time) bool, True above the diagonal: what a decoder must not see of tensor (time, batch, dim)."""
    size = tensor.shape[0]
    return torch.ones(size, size, dtype=torch.bool, device=tensor.device).triu(1)


def _check_shape(name: str, weight: QuantizedWeight | FloatWeight, parameter: torch.Tensor) -> None:
    if tuple(parameter.shape) != tuple(weight.shape):
        raise AsrCompressError(f"{name}: packed as {tuple(weight.shape)}, the model has {tuple(parameter.shape)}")
