"""From a float module to packed weights and integer modules: what `quantize` (files) and `swap` (any torch module) share.

Knows modules, options and how to run them on data; neither files nor families.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Protocol

import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity, QuantizedWeight, all_finite
from asrcompress.integers.sites import Sites
from asrcompress.modules.swap import WeightSite, make_static, swap, swappable_modules
from asrcompress.ops.choice import wants_inputs
from asrcompress.ops.masks import Kept, pruned_by
from asrcompress.ops.recipe import QuantizeConfig, Rule, bits_of_site
from asrcompress.patterns import require_whole_groups
from asrcompress.quantizers import get_quantizer, needs_statistics
from asrcompress.quantizers.bias_correction import bias_shift
from asrcompress.quantizers.statistics import InputStatistics
from asrcompress.sparsifiers import prune
from asrcompress.sparsifiers.ranking import Choice

Progress = Callable[[int, int], None]


class Selection(Protocol):
    """What the options of `quantize` and of `sparsify` say about which weights are meant, and what is kept of them."""

    @property
    def include(self) -> tuple[str, ...]:
        """Globs over the names of weights."""

    @property
    def exclude(self) -> tuple[str, ...]:
        """Globs over the names of weights."""

    @property
    def rules(self) -> tuple[Rule, ...]:
        """What holds for parts of the model."""

    @property
    def level(self) -> str | None:
        """How far integers go."""

    @property
    def is_static(self) -> bool:
        """Whether activations get grids."""

    def level_of(self, name: str) -> str:
        """The level of a module or weight; `float` leaves it alone."""

    def sparsity_of(self, name: str) -> tuple[Choice | None, str]:
        """What is kept of a weight, and the sparsifier."""


def select(sites: Sequence[WeightSite], config: Selection, verb: str = "quantize") -> list[WeightSite]:
    """The untied weights that include and exclude leave. A glob that fits nothing is an error; `verb` is for it."""
    for option, globs in (("--include", config.include), ("--exclude", config.exclude)):
        for glob in globs:
            if not any(fnmatchcase(site.name, glob) for site in sites):
                raise AsrCompressError(
                    f"{option} '{glob}' fits no weight; the first are {', '.join(site.name for site in sites[:3])}"
                )
    # A tied weight is left out when any of its names is.
    excluded = {
        site.tied_to or site.name for site in sites if any(fnmatchcase(site.name, glob) for glob in config.exclude)
    }
    included = {
        site.tied_to or site.name for site in sites if any(fnmatchcase(site.name, glob) for glob in config.include)
    }
    excluded |= {site.tied_to or site.name for site in sites if config.level_of(site.name) == "float"}
    for rule in config.rules:
        for word, wanted in (("activations", rule.activations), ("level integer-only", rule.level == "integer-only")):
            if wanted and not config.is_static:
                raise AsrCompressError(
                    f"{rule}: {word} needs the grids of --level integer-only; this is level {config.level}"
                )
        if rule.activations is None and (unfitting := rule.unfitting(site.name for site in sites)):
            raise AsrCompressError(
                f"rule '{unfitting[0]}' fits no module with weights; the first are {', '.join(site.module for site in sites[:3])}"
            )
    chosen = [site for site in sites if not site.tied_to and site.name in included - excluded]
    if not chosen:
        raise AsrCompressError(f"no weight is left to {verb}; widen --include or narrow --exclude")
    return chosen


def require_twins(module: nn.Module, sites: Iterable[WeightSite], config: QuantizeConfig) -> None:
    """At level computed and integer-only, whatever multiplies and has no integer twin is an error, never a silent float."""
    if config.activations != "int8":
        return
    packable = {site.name for site in sites}
    inside = tuple(f"{name}." if name else "" for name, _, _ in swappable_modules(module))
    for name, parameter in module.named_parameters():
        owner = name.rpartition(".")[0]
        if parameter.dim() < 2 or name in packable or (inside and f"{owner}.".startswith(inside)):
            continue
        if any(fnmatchcase(name, glob) for glob in config.exclude):
            continue
        kind = type(module.get_submodule(owner)).__name__
        raise AsrCompressError(
            f"module '{owner}' ({kind}) has no integer twin, so level {config.level} is out of reach; --exclude '{name}' "
            "leaves it in float, --level stored packs the rest"
        )


def require_sites(grids: Iterable[str], config: QuantizeConfig) -> None:
    """A rule about activations that fits no site is an error."""
    sites = list(grids)
    # Softmax's weights are operands without a grid of their own: their largest is always the largest code.
    sites += [site.replace(":scores", ":softmax") for site in sites if ":scores" in site]
    for rule in config.rules:
        if rule.activations is not None and (unfitting := rule.unfitting(sites)):
            raise AsrCompressError(
                f"rule '{unfitting[0]}' fits no module or site with activations; the first are {', '.join(sites[:3])}"
            )


def wants_statistics(chosen: Iterable[str], config: QuantizeConfig) -> bool:
    """Whether some weight is packed by looking at what it is multiplied by."""
    return config.bias_correction or any(
        needs_statistics(config.of_weight(name)[2]) or wants_inputs(*config.sparsity_of(name)) for name in chosen
    )


def require_patterns(module: nn.Module, chosen: Iterable[str], config: Selection) -> None:
    """Raise where a weight's inputs do not divide into the groups of its pattern, before any work is done."""
    failed: list[tuple[str, AsrCompressError]] = []
    for name in chosen:
        choice, _ = config.sparsity_of(name)
        if isinstance(choice, tuple):
            try:
                require_whole_groups(module.get_parameter(name)[0].numel(), choice, name)
            except AsrCompressError as error:
                failed.append((name, error))
    if len(failed) > 1:
        names = ", ".join(name for name, _ in failed[1:4]) + (", ..." if len(failed) > 4 else "")
        raise AsrCompressError(f"{failed[0][1]}; nor do those of {len(failed) - 1} more: {names}") from failed[0][1]
    if failed:
        raise failed[0][1]


def pack_weight(
    name: str, weight: Tensor, config: QuantizeConfig, statistics: InputStatistics | None, kept: Kept | None = None
) -> QuantizedWeight:
    """One weight, as the options and rules say for its name: pruned first, then what is left is quantized.

    `kept`: the zeros that it has already, which stay where the options say nothing of it.
    """
    num_bits, granularity, method = config.of_weight(name)
    choice, sparsifier = config.sparsity_of(name)
    pruned = None
    if choice is not None:
        pruned = prune(weight, choice, sparsifier=sparsifier, name=name, statistics=statistics)
    elif kept is not None and config.keeps_mask_of(name):
        pruned = pruned_by(kept, weight, name)
    packed: QuantizedWeight = get_quantizer(method)(
        weight,
        num_bits=num_bits,
        granularity=Granularity.parse(granularity),
        name=name,
        statistics=statistics,
        pruned=pruned,
    )
    return packed


def correct_biases(
    floats: dict[str, Tensor],
    weights: Mapping[str, Tensor],
    quantized: Mapping[str, QuantizedWeight],
    statistics: Mapping[str, InputStatistics],
) -> None:
    """Let the biases beside packed weights take up the mean error of rounding; a weight without a bias keeps its error."""
    for name, weight in weights.items():
        owner, _, kind = name.rpartition(".")
        kind = kind.replace("weight", "bias", 1)
        bias = f"{owner}.{kind}" if owner else kind
        if bias in floats and name in statistics:
            floats[bias] = floats[bias] + bias_shift(weight, quantized[name], statistics[name])


def require_finite(floats: Mapping[str, Tensor]) -> None:
    """Raise where a tensor that stays in float is broken."""
    for name, tensor in floats.items():
        if not all_finite(tensor):
            raise AsrCompressError(f"{name}: holds NaN or infinity; the checkpoint is broken, use an earlier one")


def islands(sites: Iterable[WeightSite], packed: Iterable[str], config: QuantizeConfig) -> list[str]:
    """Modules that stay in float in a model of static grids, since an option or a rule says so."""
    packed = set(packed)
    names: dict[str, None] = {}
    for site in sites:
        if (site.tied_to or site.name) not in packed or config.level_of(site.name) != "integer-only":
            names[site.module] = None
    return list(names)


def make_integer(
    module: nn.Module,
    quantized: Mapping[str, QuantizedWeight],
    *,
    rules: Sequence[Rule] = (),
    activations: str = "none",
    sites: Sites | None = None,
    keep: Iterable[str] = (),
    device: str | torch.device | None = None,
) -> nn.Module:
    """Swap, in place, what is packed and, with `sites`, all that level integer-only needs.

    activations: none or int8, where no rule says otherwise. sites: with grids, or recording. keep: the islands. device: where
    the constants of static grids are made.
    """
    default = activations if sites is None else "none"

    def activations_of(name: str) -> str:
        levels = [rule.level for rule in rules if rule.level is not None and rule.fits(name)]
        return default if not levels else {"computed": "int8", "integer-only": default}.get(levels[-1], "none")

    swap(module, quantized, activations=activations_of)
    if sites is not None:
        sites.operand_bits = lambda site: bits_of_site(rules, site, 8)
        make_static(module if device is None else module.to(device), sites, keep=frozenset(keep))
    return module
