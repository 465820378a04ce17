"""What can be compressed in a model, unit by unit, and what can be done to each: the rows and columns of a sensitivity table.

A unit is a weight, or the activations of one kind in one module. Knows modules and sites; neither data nor methods.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from asrcompress.modules.swap import find_weights, swappable_modules

FEED_FORWARD = re.compile(r"(^|\.)(fc[12]|w_[12]|ffn?\d?|feed_forward)(\.|$)")
MIN_ACTIVATION_BITS = 2
# Kinds of sites, as integers/sites.py names them, and what reports call them.
ACTIVATION_KINDS = {
    "softmax": ("softmax",),
    "layer norm": ("norm",),
    "attention products": ("q", "k", "v", "p"),
}


@dataclass(frozen=True)
class Option:
    """What may be done to a unit: a weight gets codes of `num_bits` and keeps keep_n of every group_m, activations get a grid."""

    num_bits: int
    pattern: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"int{self.num_bits}" + (f"+{self.pattern[0]}:{self.pattern[1]}" if self.pattern else "")


@dataclass(frozen=True)
class Unit:
    """A row of the table.

    name: of the weight in the state dict, or `<module>:<kind>` of activations.
    kind: what it is to a person: feed-forward, attention, ..., softmax, layer norm, attention products.
    block: the layer it is in, such as encoder.layers.3.
    target: "weight" or "activations".
    shape: of the weight; () for activations.
    sites: of activations, by name.
    """

    name: str
    kind: str
    block: str
    target: str
    shape: tuple[int, ...] = ()
    sites: tuple[str, ...] = ()

    @property
    def num_params(self) -> int:
        """Elements of the weight; 0 for activations."""
        count = 1 if self.shape else 0
        for size in self.shape:
            count *= size
        return count

    def allows(self, option: Option) -> bool:
        """Whether the option can be had at all: a weight's columns must divide into groups, activations have no pattern.

        Nor have they one bit, which is no grid.
        """
        if self.target != "weight":
            return option.pattern is None and option.num_bits >= MIN_ACTIVATION_BITS
        return option.pattern is None or (self.num_params // self.shape[0]) % option.pattern[1] == 0


def weight_units(model: nn.Module) -> list[Unit]:
    """The untied weights that can be packed, in the model's order."""
    kinds = {name: twin.kind for name, _, twin in swappable_modules(model)}
    return [
        Unit(
            site.name,
            _weight_kind(kinds[site.module], site.name),
            block_of(site.module, model),
            "weight",
            tuple(model.get_parameter(site.name).shape),
        )
        for site in find_weights(model)
        if not site.tied_to
    ]


def activation_units(sites: Iterable[str], model: nn.Module, norms: Iterable[str]) -> list[Unit]:
    """Softmax weights, outputs of layer norms and operands of attention products, one unit per module and kind.

    Args:
        sites: that a run passes, in order.
        model: whose modules the sites are named after.
        norms: names of the modules that normalise.
    """
    norms = set(norms)
    found: dict[tuple[str, str], list[str]] = {}
    for site in sites:
        module, _, kind = site.rpartition(":")
        kind = kind.rstrip("0123456789").partition("_")[0]
        if module in norms:
            kind = "norm"
        for name, members in ACTIVATION_KINDS.items():
            if kind in members:
                found.setdefault((module, name), []).append(site)
    return [
        Unit(f"{module}:{kind}", kind, block_of(module, model), "activations", (), tuple(members))
        for (module, kind), members in found.items()
    ]


def block_of(module: str, model: nn.Module) -> str:
    """The layer that a module is in: the outermost member of a ModuleList around it, else its outermost two names."""
    parts = module.split(".")
    for depth in range(1, len(parts)):
        if isinstance(model.get_submodule(".".join(parts[:depth])), nn.ModuleList):
            return ".".join(parts[: depth + 1])
    return ".".join(parts[:2]) if len(parts) > 2 else ".".join(parts)


def group_units(units: Sequence[Unit], by: str) -> Mapping[str, list[Unit]]:
    """Units by `kind` or by `block`, in the order in which each is met first."""
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(getattr(unit, by), []).append(unit)
    return groups


def _weight_kind(twin_kind: str, name: str) -> str:
    if twin_kind in ("linear", "conv"):
        if twin_kind == "conv":
            return "convolution"
        return "feed-forward" if FEED_FORWARD.search(name) else "projection"
    return {"gru": "GRU", "lstm": "LSTM"}.get(twin_kind, twin_kind)
