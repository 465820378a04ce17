"""swap: any torch module -> the same module with packed weights and integer arithmetic, by one recipe.

The module that is given stays as it is. What is swapped is compress.py's and modules/'s; files are quantize.py's and load.py's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.grids import QuantizedWeight
from asrcompress.integers.sites import Sites
from asrcompress.modules.fold import find_folds, fold, plain_weights
from asrcompress.modules.swap import WeightSite, find_weights
from asrcompress.ops.calibrate import Run, recording_sites, weight_statistics
from asrcompress.ops.compress import (
    Progress,
    correct_biases,
    islands,
    make_integer,
    pack_weight,
    require_finite,
    require_patterns,
    require_sites,
    require_twins,
    select,
    wants_statistics,
)
from asrcompress.ops.recipe import QuantizeConfig, override, read_options, read_recipe
from asrcompress.quantizers.statistics import InputStatistics


def swap(
    model: nn.Module,
    recipe: str | Path | QuantizeConfig | None = None,
    *,
    calibrate: Callable[[nn.Module], Any] | None = None,
    progress: Progress = lambda done, total: None,
    **options: Any,
) -> nn.Module:
    """An integer version of `model`, in eval mode; `model` itself is left alone, its tensors are not shared.

    Args:
        model: any torch module.
        recipe: a TOML file, a QuantizeConfig, or None.
        calibrate: runs the module that it is given on representative inputs, and uses all of it; called a few times. Level
            integer-only needs it, and so do methods that look at data and bias correction. With it, BatchNorms are folded into the
            products before them at every level; without it they stay.
        progress: called with how many weights are packed, and of how many.
        options: the recipe's options by name (`bits=4`, `level="integer-only"`, `rules=[{"modules": "head.*", "bits": 8}]`);
            they win over the recipe's.

    Returns:
        A module that takes and gives what `model` does. At level integer-only its float inputs become integers when they enter it,
        and its results floats when they leave it. In memory there are, while this runs, up to three copies of the model; then one
        with a byte a weight.

    Raises:
        AsrCompressError: options that do not fit the model, or a module that multiplies and has no integer twin.
    """
    config = _config(recipe, options)
    _require_data(config, calibrate)
    whole = _copy(model)
    run = _runner(calibrate)
    if run:
        fold(whole, find_folds(whole, lambda module: run(module, progress)))
    sites = _find_sites(whole)
    chosen = {site.name for site in select(sites, config)}
    require_patterns(whole, (site.name for site in sites if site.name in chosen), config)
    require_twins(whole, sites, config)
    tensors = {name: parameter.detach().float() for name, parameter in whole.named_parameters()}
    require_finite(tensors)
    statistics: dict[str, InputStatistics] = {}
    if run and wants_statistics(chosen, config):
        statistics = weight_statistics(copy.deepcopy(whole), sites, run, progress)
    quantized: dict[str, QuantizedWeight] = {}
    for done, name in enumerate(site.name for site in sites if site.name in chosen):
        progress(done, len(chosen))
        quantized[name] = pack_weight(name, tensors[name], config, statistics.get(name))
    progress(len(chosen), len(chosen))
    if config.bias_correction:
        _correct(whole, tensors, quantized, statistics)
    if not config.is_static:
        return _make(whole, quantized, config)
    assert run is not None  # noqa: S101 (asked for above)
    keep = islands(sites, quantized, config)
    recorder, watching = recording_sites()
    run(_make(copy.deepcopy(whole), quantized, config, watching, keep), progress)
    grids = recorder.grids(config)
    require_sites(grids, config)
    return _make(whole, quantized, config, Sites(grids=grids), keep)


def _make(
    module: nn.Module,
    quantized: dict[str, QuantizedWeight],
    config: QuantizeConfig,
    sites: Sites | None = None,
    keep: list[str] | None = None,
) -> nn.Module:
    activations = str(config.activations)
    return make_integer(
        module, quantized, rules=config.rules, activations=activations, sites=sites, keep=keep or ()
    ).eval()


def _config(recipe: str | Path | QuantizeConfig | None, options: dict[str, Any]) -> QuantizeConfig:
    """The options of a recipe, and those by name over them."""
    if isinstance(recipe, QuantizeConfig):
        below = vars(recipe)
    else:
        below = {} if recipe is None else read_recipe(recipe)
    return QuantizeConfig(**override(below, read_options(options, "swap")))


def _require_data(config: QuantizeConfig, calibrate: Callable[[nn.Module], Any] | None) -> None:
    """Ask for data before any work is done."""
    needing = [option.replace("-correction", "_correction") for option in config.data_needed]
    if needing and calibrate is None:
        raise AsrCompressError(
            f"swap: {needing[0]} needs data; give calibrate=, a function that runs the module it is given on representative inputs"
        )


def _runner(calibrate: Callable[[nn.Module], Any] | None) -> Run | None:
    if calibrate is None:
        return None

    def run(module: nn.Module, progress: Progress) -> None:
        with torch.no_grad():
            calibrate(module)

    return run


def _copy(model: nn.Module) -> nn.Module:
    """The model again, in float32 and eval mode, every weight a plain parameter."""
    # Weight norm leaves a tensor with a gradient in its module, which deepcopy refuses; the norm makes it anew.
    stale = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    memo: dict[int, Any] = {id(value): value.detach().clone() for value in stale if not value.is_leaf}
    copied = plain_weights(copy.deepcopy(model, memo)).float().eval()
    for module in copied.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # else a fused kernel takes its layers' float weights
    return copied


def _find_sites(model: nn.Module) -> list[WeightSite]:
    sites = find_weights(model)
    if not sites:
        raise AsrCompressError(
            f"swap: {type(model).__name__} has no weight that can be packed: no Linear, Embedding, convolution over one or two dimensions, "
            "GRU or LSTM in float"
        )
    if not sites[0].module:
        raise AsrCompressError(
            f"swap: the model itself is a {type(model).__name__}; wrap it, torch.nn.Sequential(model)"
        )
    return sites


def _correct(
    model: nn.Module,
    tensors: dict[str, Tensor],
    quantized: dict[str, QuantizedWeight],
    statistics: dict[str, InputStatistics],
) -> None:
    """Bias correction, in place."""
    corrected = dict(tensors)
    correct_biases(corrected, {name: tensors[name] for name in quantized}, quantized, statistics)
    for name, value in corrected.items():
        if value is not tensors[name]:
            model.get_parameter(name).data = value
