"""Putting integer modules in the place of float ones.

`find_weights` says what can be packed in a model; `swap` replaces every module whose weights are
packed by its twin. Tied weights become one integer weight. Reading files is elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from asrcompress.errors import AsrCompressError
from asrcompress.grids import QuantizedWeight
from asrcompress.modules.twins import Twin, find_twin
from asrcompress.modules.weight import IntegerWeight, check_activations


@dataclass(frozen=True)
class WeightSite:
    """A weight that can be packed: its name in the state dict and the kind of module it is in."""

    name: str
    kind: str
    tied_to: str | None  # the first name of the same parameter, when this is not it


def swappable_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, Twin]]:
    """Modules that have a twin, outermost first; nothing inside a module with a twin is listed."""
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules(remove_duplicate=False):
        if name.startswith(inside) and inside:
            continue
        twin = find_twin(module)
        if twin is not None:
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
            sites.append(WeightSite(name, twin.kind, None if first == name else first))
    return sites


def swap(model: nn.Module, quantized: Mapping[str, QuantizedWeight], *, activations: str = "none") -> nn.Module:
    """Replace, in place, every module whose weights are in `quantized` (keyed by state-dict name).

    Biases are taken over from the float modules. A name that fits no module, or a shape that does
    not fit, is an error: nothing is left in float silently.
    """
    check_activations(activations)
    shared: dict[int, IntegerWeight] = {}
    used: set[str] = set()
    first_names = {site.name: site.tied_to or site.name for site in find_weights(model)}
    for module_name, module, twin in list(swappable_modules(model)):
        prefix = f"{module_name}." if module_name else ""
        weights = {}
        for weight_name in twin.weight_names(module):
            first = first_names[prefix + weight_name]
            if first in quantized:
                _check_shape(first, quantized[first], module.get_parameter(weight_name))
                weights[weight_name] = quantized[first]
                used.add(first)

        def share(weight_name: str, weights: dict[str, QuantizedWeight] = weights) -> IntegerWeight:
            weight = weights[weight_name]
            return shared.setdefault(id(weight), IntegerWeight(weight))

        if weights:
            model.set_submodule(module_name, twin.build(module_name, module, weights, share, activations))
    unused = sorted(set(quantized) - used)
    if unused:
        raise AsrCompressError(
            f"{unused[0]}: is packed, but no module of the model can use it ({len(unused)} such weights)"
        )
    return model


def _check_shape(name: str, weight: QuantizedWeight, parameter: torch.Tensor) -> None:
    if tuple(parameter.shape) != weight.shape:
        raise AsrCompressError(f"{name}: packed as {weight.shape}, the model has {tuple(parameter.shape)}")
