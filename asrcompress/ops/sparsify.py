"""sparsify: a checkpoint or an artifact -> an artifact whose weights keep some of their values, and its sidecar.

Weights in float stay in float, and only the kept values are stored. Packed weights keep bits, grid and scales: of their
codes, the dropped ones become the code of 0 and are not stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrcompress.ahead import Counter
from asrcompress.artifact import ArtifactContent
from asrcompress.errors import AsrCompressError
from asrcompress.gather import zero_where_dropped
from asrcompress.grids import Granularity, QuantizedWeight, all_finite, as_rows, zero_codes
from asrcompress.mapped import Made, release
from asrcompress.modules.swap import WeightSite
from asrcompress.ops.calibrate import CalibrationData, read_calibration, runner, weight_statistics
from asrcompress.ops.choice import wants_inputs
from asrcompress.ops.compress import require_finite, require_patterns, select
from asrcompress.ops.content import assemble_step, carried_sparse, float_tensors, tied_names
from asrcompress.ops.finetune_job import FinetuneJob, Training
from asrcompress.ops.load import Source, build_float, build_model, open_source
from asrcompress.ops.memory import MEMORY_BUDGET_BYTES, as_float, check_model, fits_in_memory, shapes
from asrcompress.ops.quantize import Calibrate
from asrcompress.ops.ranks import Ranks
from asrcompress.ops.recipe import LOADING_KEYS, recorded_rules
from asrcompress.ops.sites import about, find_sites
from asrcompress.ops.sparsify_config import SparsifyConfig
from asrcompress.ops.write import WrittenArtifact, check_artifact_output, check_compact, write_artifact
from asrcompress.quantizers.gptq import best_rows, compensate
from asrcompress.quantizers.statistics import InputStatistics
from asrcompress.sparse import SparseWeight
from asrcompress.sparsifiers import prune
from asrcompress.stored_weight import VALUE_TYPES

Progress = Callable[[int, int], None]
# What an earlier step said of how the file computes; pruning changes none of it.
CARRIED_KEYS = ("activations", "level", "islands")


def sparsify(
    path: str | Path,
    output: str | Path,
    config: SparsifyConfig,
    *,
    calibrate: Calibrate | None = None,
    data_dir: Path | None = None,
    trust: bool = False,
    force: bool = False,
    progress: Progress = lambda done, total: None,
    memory_budget_bytes: int = MEMORY_BUDGET_BYTES,
    finetune: FinetuneJob | None = None,
    ranks: Ranks | None = None,
) -> WrittenArtifact:
    """Prune the weights of `path` into `output` and describe it in `<output>.json`.

    `calibrate` names the speech that wanda and sparsegpt look at. A model that needs more than `memory_budget_bytes` to run
    is pruned weight by weight where nothing is calibrated, and its file is audited without a run. `finetune` trains what is
    left before it is written; `ranks` are those that train together, and the first one writes.

    Raises:
        AsrCompressError: unreadable input, an option that does not fit, or an output that exists. Nothing is written then.
    """
    path, output = Path(path), Path(output)
    check_artifact_output(path, output, force=force)
    source = open_source(path, data_dir=data_dir, trust=trust, mapped=True)
    check_compact(source, is_compact=config.compact)
    training = None
    if finetune:
        training = Training(finetune, source, output, ranks or Ranks(), data_dir=data_dir, trust=trust)
    data = _read_data(source, config, calibrate, finetune)
    content = sparsify_source(
        source, config, data=data, progress=progress, memory_budget_bytes=memory_budget_bytes, train=training
    )

    def write() -> WrittenArtifact:
        return write_artifact(
            output,
            content,
            source,
            dict(content.recipe),
            force=force,
            memory_budget_bytes=memory_budget_bytes,
            training=training.describe if training else None,
        )

    return training.finish(write) if training else write()


def plan(
    path: str | Path, config: SparsifyConfig, *, data_dir: Path | None = None, trust: bool = False
) -> tuple[list[str], list[str]]:
    """What `sparsify` would prune, and what it would leave as it is, by name; prunes and writes nothing."""
    source = open_source(path, data_dir=data_dir, trust=trust, mapped=True)
    sites = find_sites(source)
    chosen = _choose(source, sites, config)
    packed = source.content.quantized if source.content else {}
    aliases = tied_names(sites)
    return chosen, [name for name in [*packed, *source.tensors] if name not in chosen and name not in aliases]


def sparsify_source(
    source: Source,
    config: SparsifyConfig,
    *,
    data: CalibrationData | None = None,
    progress: Progress = lambda done, total: None,
    memory_budget_bytes: int = MEMORY_BUDGET_BYTES,
    train: Training | None = None,
) -> ArtifactContent:
    """The content of the artifact; writes nothing. What is not chosen is carried over as it is.

    Where nothing is calibrated and the model does not fit in the memory budget, weights are pruned, and floats read, each
    time that one is asked for, and the model is checked by names and shapes; else all of it is in memory, and was built.
    """
    sites = find_sites(source)
    chosen = _choose(source, sites, config)
    statistics = _statistics(source, config, sites, chosen, data, progress)
    before: Mapping[str, QuantizedWeight] = source.content.quantized if source.content else {}
    carried = carried_sparse(source, chosen)
    counter = Counter(progress, len(chosen))

    def packed_of(name: str) -> QuantizedWeight:
        if name not in chosen:
            return before[name]
        with about(source.path), counter.count(name):
            return prune_codes(name, before[name], config, statistics.get(name))

    def sparse_of(name: str) -> SparseWeight:
        if name in carried:
            return carried[name]
        with about(source.path), counter.count(name):
            return _prune_floats(source, name, config, statistics.get(name))

    def float_of(name: str) -> Tensor:
        tensor = _storable(source.tensors[name])
        with about(source.path):
            require_finite({name: tensor})
        return tensor

    first = [site.name for site in sites if not site.tied_to]
    sizes = shapes(source)

    def num_elements(name: str) -> int:
        return math.prod(sizes.get(name, ()))

    quantized: Mapping[str, QuantizedWeight] = Made((name for name in first if name in before), packed_of, num_elements)
    pruned = (name for name in first if name not in before and (name in chosen or name in carried))
    sparse: Mapping[str, SparseWeight] = Made(pruned, sparse_of, num_elements)
    left = {*quantized, *sparse} | tied_names(sites).keys()
    floats: Mapping[str, Tensor] = Made((name for name in source.tensors if name not in left), float_of, num_elements)
    recipe = _recipe(source, config, data)
    tied = tied_names(sites)
    if data is None and train is None and not fits_in_memory(source, memory_budget_bytes):
        check_model(source, [*quantized, *sparse, *floats], tied)
        return _with_grids(source, assemble_step(source, recipe, tied, quantized, floats, sparse))
    content = _with_grids(source, assemble_step(source, recipe, tied, dict(quantized), dict(floats), dict(sparse)))
    # Building the model now finds whatever does not fit before anything is on disk.
    build_model(replace(source, tensors=float_tensors(content), checkpoint=None, content=content))
    return train(content, statistics) if train else content


def prune_codes(
    name: str, weight: QuantizedWeight, config: SparsifyConfig, statistics: InputStatistics | None
) -> QuantizedWeight:
    """A packed weight with fewer codes, on the grid that it has.

    What is kept is chosen by what the codes stand for. Kept codes stay as they are; by sparsegpt, those of later columns make
    up for dropped ones where that makes a row's output error smaller (1 bit has no codes between to make up with).
    """
    choice, sparsifier = config.sparsity_of(name)
    if choice is None:
        raise ValueError(f"{name}: nothing is dropped of it")
    floating = weight.dequantize()
    pruned = prune(floating, choice, sparsifier=sparsifier, name=name, statistics=statistics)
    zeros = zero_codes(weight.zero_point, *weight.codes.shape)
    found = replace(weight, codes=torch.where(pruned.mask, weight.codes, zeros), pattern=pruned.pattern)
    if sparsifier != "sparsegpt" or statistics is None or statistics.is_diagonal or weight.num_bits == 1:
        return found
    rows = as_rows(floating, name)
    fixed = replace(found, granularity=Granularity("per_channel"))  # else the scales of groups would be found anew
    changed = compensate(
        rows,
        fixed,
        statistics.second_moment,
        name=name,
        mask=None if isinstance(choice, tuple) else pruned.mask,
        pattern=choice if isinstance(choice, tuple) else None,
    )
    return best_rows(rows, [found, replace(changed, granularity=weight.granularity)], statistics)


def _prune_floats(
    source: Source, name: str, config: SparsifyConfig, statistics: InputStatistics | None
) -> SparseWeight:
    """A weight in float with fewer values, of the type that it has in the file."""
    tensor = source.tensors.get(name)
    choice, sparsifier = config.sparsity_of(name)
    if tensor is None:
        raise AsrCompressError(f"{name} is missing; the file is not a whole {source.spec.family}")
    if choice is None:
        raise ValueError(f"{name}: nothing is dropped of it")
    stored = (
        source.content.sparse[name].values.dtype if source.content and name in source.content.sparse else tensor.dtype
    )
    pruned = prune(tensor, choice, sparsifier=sparsifier, name=name, statistics=statistics)
    kept_type = stored if stored in VALUE_TYPES.values() else torch.float32
    values = zero_where_dropped(pruned.whole.to(kept_type), pruned.mask)
    if not all_finite(values):
        raise AsrCompressError(
            f"{name}: what makes up for dropped weights is too large for {stored}; use --method wanda"
        )
    shape = tuple(tensor.shape)
    release(tensor)
    return SparseWeight(values, pruned.mask, shape, choice if isinstance(choice, tuple) else None)


def _choose(source: Source, sites: Sequence[WeightSite], config: SparsifyConfig) -> list[str]:
    """The weights that lose something, checked to divide into groups where they have to."""
    names = {site.name for site in select(sites, config, verb="prune")}
    chosen = [site.name for site in sites if site.name in names and config.sparsity_of(site.name)[0] is not None]
    if not chosen:
        raise AsrCompressError("no weight is left to prune; widen --include, narrow --exclude, or change the rules")
    with torch.device("meta"):
        module = build_float(source)
    with about(source.path):
        require_patterns(module, chosen, config)
    return chosen


def _statistics(
    source: Source,
    config: SparsifyConfig,
    sites: Sequence[WeightSite],
    chosen: Sequence[str],
    data: CalibrationData | None,
    progress: Progress,
) -> dict[str, InputStatistics]:
    """What the float model multiplies its weights by, where some method asks for it."""
    if data is None or not any(wants_inputs(*config.sparsity_of(name)) for name in chosen):
        return {}
    floating = {name: as_float(tensor) for name, tensor in source.tensors.items()}
    if source.content:
        floating |= {name: weight.dequantize() for name, weight in source.content.quantized.items()}
    floating |= {alias: floating[name] for alias, name in tied_names(sites).items() if name in floating}
    model = build_model(replace(source, tensors=floating, content=None))
    return weight_statistics(model.module, sites, runner(source.family, source.spec, data), progress)


def _recipe(source: Source, config: SparsifyConfig, data: CalibrationData | None) -> dict[str, Any]:
    """This step's options, what earlier steps said of how the file computes, and their recipes, oldest first."""
    recipe = {"level": "float"} | config.to_json()
    if source.content:
        earlier = dict(source.content.recipe)
        recipe |= {key: earlier[key] for key in CARRIED_KEYS if key in earlier}
        said = [rule.to_json(("modules", *LOADING_KEYS)) for rule in recorded_rules(earlier)]
        if loading := [rule for rule in said if len(rule) > 1]:
            recipe["rules"] = [*loading, *recipe.get("rules", [])]
        recipe["previous"] = [*earlier.pop("previous", []), earlier]
    if data:
        recipe["calibration"] = data.describe()
    return recipe


def _with_grids(source: Source, content: ArtifactContent) -> ArtifactContent:
    """Grids of activations stay what calibration made them."""
    return replace(content, grids=source.content.grids) if source.content else content


def _read_data(
    source: Source, config: SparsifyConfig, calibrate: Calibrate | None, finetune: FinetuneJob | None
) -> CalibrationData | None:
    """The calibration data that the methods need; asked for before any work is done."""
    needing = config.data_needed
    if calibrate is None:
        if needing and finetune:
            return finetune.calibration(source, config.calibration_limit)
        if needing:
            raise AsrCompressError(
                f"--method {needing[0]} needs speech to calibrate with; add --calibrate DATA, such as the dev set"
            )
        return None
    if not needing:
        raise AsrCompressError(
            f"--calibrate {calibrate.data}: --method {config.method} looks at no data; leave it out, or add --method wanda or sparsegpt"
        )
    if not calibrate.data.exists():
        raise AsrCompressError(f"{calibrate.data}: no such file or folder; --calibrate names a data set")
    return read_calibration(
        source.family,
        source.spec,
        calibrate.data,
        config.calibration_limit,
        split=calibrate.split,
        audio_root=calibrate.audio_root,
    )


def _storable(tensor: Tensor) -> Tensor:
    """Doubles as float32; anything else as it is."""
    return tensor.float() if tensor.dtype == torch.float64 else tensor
