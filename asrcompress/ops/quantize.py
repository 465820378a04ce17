"""quantize: a checkpoint or an artifact -> an artifact with packed integer weights, and its sidecar."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from asrcompress.ahead import Counter
from asrcompress.artifact import ArtifactContent
from asrcompress.errors import AsrCompressError
from asrcompress.grids import QuantizedWeight
from asrcompress.mapped import Made, release
from asrcompress.modules.swap import WeightSite
from asrcompress.ops.calibrate import CalibrationData, read_calibration, recording_sites, runner, weight_statistics
from asrcompress.ops.compress import (
    correct_biases,
    pack_weight,
    require_finite,
    require_patterns,
    require_sites,
    require_twins,
    select,
    wants_statistics,
)
from asrcompress.ops.content import (
    assemble,
    carried_sparse,
    float_tensors,
    left_in_float,
    tied_names,
    whole_recipe,
)
from asrcompress.ops.finetune_job import FinetuneJob, Training
from asrcompress.ops.load import Source, build_float, build_model, open_source
from asrcompress.ops.masks import kept_of
from asrcompress.ops.memory import MEMORY_BUDGET_BYTES, as_float, check_model, fits_in_memory, shapes
from asrcompress.ops.plan_file import PlanFile
from asrcompress.ops.ranks import Ranks
from asrcompress.ops.recipe import QuantizeConfig
from asrcompress.ops.sites import about, find_sites
from asrcompress.ops.write import WrittenArtifact, check_artifact_output, check_compact, write_artifact
from asrcompress.quantizers.statistics import InputStatistics

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Calibrate:
    """Speech to calibrate with: a data set as for `eval`; `split` where a keyword set has several."""

    data: Path
    split: str | None = None
    audio_root: Path | None = None


def quantize(
    path: str | Path,
    output: str | Path,
    config: QuantizeConfig,
    *,
    calibrate: Calibrate | None = None,
    plan: PlanFile | None = None,
    data_dir: Path | None = None,
    trust: bool = False,
    force: bool = False,
    progress: Progress = lambda done, total: None,
    memory_budget_bytes: int = MEMORY_BUDGET_BYTES,
    finetune: FinetuneJob | None = None,
    ranks: Ranks | None = None,
) -> WrittenArtifact:
    """Pack the weights of `path` into `output` and describe it in `<output>.json`.

    `calibrate` names the speech that level integer-only and some methods need. `plan` is where the options are from: it
    must be for this file, and what is written never exceeds its budget. A model that needs more than
    `memory_budget_bytes` to run is packed weight by weight where nothing is calibrated, and its file is audited without a run.
    `finetune` trains what is packed before it is written; `ranks` are those that train together, and the first one writes.

    Raises:
        AsrCompressError: unreadable input, an option that does not fit, an output that exists, a plan that is for
            another file or whose budget would be exceeded. Nothing is written then.
    """
    path, output = Path(path), Path(output)
    check_artifact_output(path, output, force=force)
    source = open_source(path, data_dir=data_dir, trust=trust, mapped=True)
    check_compact(source, is_compact=config.compact)
    if plan:
        plan.require_model(path, source.sha256)
        config = replace(config, plan=plan.sha256)
    training = None
    if finetune:
        training = Training(finetune, source, output, ranks or Ranks(), data_dir=data_dir, trust=trust)
    data = _read_data(source, config, calibrate, finetune)
    content = quantize_source(
        source, config, data=data, progress=progress, memory_budget_bytes=memory_budget_bytes, train=training
    )

    def write() -> WrittenArtifact:
        return write_artifact(
            output,
            content,
            source,
            whole_recipe(content, config, plan),
            force=force,
            check_size=plan.require_size if plan else None,
            memory_budget_bytes=memory_budget_bytes,
            training=training.describe if training else None,
        )

    return training.finish(write) if training else write()


def plan(
    path: str | Path,
    config: QuantizeConfig,
    *,
    plan: PlanFile | None = None,
    data_dir: Path | None = None,
    trust: bool = False,
) -> tuple[list[str], list[str]]:
    """What `quantize` would pack, and what it would keep as it is (in float, or packed earlier), by name; packs and writes nothing."""
    source = open_source(path, data_dir=data_dir, trust=trust, mapped=True)
    if plan:
        plan.require_model(Path(path), source.sha256)
    before = source.content.quantized if source.content else {}
    sites = find_sites(source)
    chosen = {site.name for site in select(sites, config)}
    with torch.device("meta"), about(source.path):
        require_patterns(build_float(source), (site.name for site in sites if site.name in chosen), config)
    aliases = {site.name for site in sites if site.tied_to}
    packed = [site.name for site in sites if site.name in chosen]
    return packed, [name for name in [*before, *source.tensors] if name not in chosen and name not in aliases]


def quantize_source(
    source: Source,
    config: QuantizeConfig,
    *,
    data: CalibrationData | None = None,
    progress: Progress = lambda done, total: None,
    memory_budget_bytes: int = MEMORY_BUDGET_BYTES,
    train: Training | None = None,
) -> ArtifactContent:
    """The content of the artifact; writes nothing. Weights that are packed already and not chosen are carried over.

    Where nothing is calibrated and the model does not fit in the memory budget, weights are packed, and floats read, each
    time that one is asked for, and the model is checked by names and shapes; else all of it is in memory, and was built.
    """
    before = source.content.quantized if source.content else {}
    sites = find_sites(source)
    chosen = {site.name for site in select(sites, config)}
    first = [site.name for site in sites if not site.tied_to]
    with torch.device("meta"):
        module = build_float(source)
    with about(source.path):
        require_patterns(module, (name for name in first if name in chosen), config)
        require_twins(module, sites, config)
    if data is None:
        # What is trained is in memory anyway.
        budget = sys.maxsize if train else memory_budget_bytes
        content = _stream(source, config, sites, chosen, progress, budget)
        return train(content, {}) if train else content
    tensors = {name: as_float(tensor) for name, tensor in source.tensors.items()}
    tied = tied_names(sites)
    floating = tensors | {name: weight.dequantize() for name, weight in before.items()}
    floating |= {alias: floating[name] for alias, name in tied.items() if name in floating}
    run = runner(source.family, source.spec, data)
    statistics: dict[str, InputStatistics] = {}
    if wants_statistics(chosen, config):
        whole = build_model(replace(source, tensors=floating, content=None))
        statistics = weight_statistics(whole.module, sites, run, progress)
    quantized: dict[str, QuantizedWeight] = {}
    for name in first:
        if name in chosen:
            progress(len(quantized.keys() & chosen), len(chosen))
            with about(source.path):
                quantized[name] = _pack(source, name, floating.get(name), config, statistics.get(name))
        elif name in before:
            quantized[name] = before[name]
    progress(len(chosen), len(chosen))
    sparse = carried_sparse(source, chosen)
    floats = left_in_float(tensors, {*quantized, *sparse}, sites)
    if config.bias_correction:
        correct_biases(floats, {name: floating[name] for name in chosen}, quantized, statistics)
    with about(source.path):
        require_finite(floats)
    content = assemble(source, config, sites, quantized, floats, data.describe(), sparse)
    if train:
        content = train(content, statistics)
        floats = dict(content.floats)
    if config.is_static:
        recorder, watching = recording_sites()
        filled = replace(source, tensors=float_tensors(content), checkpoint=None, content=content)
        observed = build_model(filled, observe=watching)
        run(observed.module, progress)
        content = replace(content, grids=recorder.grids(config))
        require_sites(content.grids, config)
    # Building the integer model now finds whatever does not fit before anything is on disk.
    build_model(replace(source, tensors=float_tensors(content), checkpoint=None, content=content))
    return content


def _stream(
    source: Source,
    config: QuantizeConfig,
    sites: Sequence[WeightSite],
    chosen: set[str],
    progress: Progress,
    memory_budget_bytes: int,
) -> ArtifactContent:
    """The content where each weight is packed from its own values alone."""
    before: Mapping[str, QuantizedWeight] = source.content.quantized if source.content else {}
    packed = [site.name for site in sites if not site.tied_to and (site.name in chosen or site.name in before)]
    counter = Counter(progress, len(chosen))

    def weight_of(name: str) -> QuantizedWeight:
        if name not in chosen:
            return before[name]
        with about(source.path), counter.count(name):
            weight = source.tensors.get(name)
            floating = before[name].dequantize() if weight is None and name in before else weight
            found = _pack(source, name, floating, config, None)
            if weight is not None:
                release(weight)
        return found

    def float_of(name: str) -> Tensor:
        tensor = as_float(source.tensors[name])
        with about(source.path):
            require_finite({name: tensor})
        return tensor

    sizes = shapes(source)
    quantized: Mapping[str, QuantizedWeight] = Made(packed, weight_of, lambda name: math.prod(sizes.get(name, ())))
    sparse = carried_sparse(source, chosen)
    left = {*packed, *sparse} | tied_names(sites).keys()
    unpacked = (name for name in source.tensors if name not in left)
    floats: Mapping[str, Tensor] = Made(unpacked, float_of, lambda name: math.prod(sizes.get(name, ())))
    if not fits_in_memory(source, memory_budget_bytes):
        check_model(source, [*quantized, *floats, *sparse], tied_names(sites))
        return assemble(source, config, sites, quantized, floats, sparse=sparse)
    content = assemble(source, config, sites, dict(quantized), dict(floats), sparse=dict(sparse))
    # Building the integer model now finds whatever does not fit before anything is on disk.
    build_model(replace(source, tensors=float_tensors(content), checkpoint=None, content=content))
    return content


def _read_data(
    source: Source, config: QuantizeConfig, calibrate: Calibrate | None, finetune: FinetuneJob | None = None
) -> CalibrationData | None:
    """The calibration data that the options need; asked for before any work is done."""
    needing = [f"--{option}" for option in config.data_needed]
    if calibrate is None:
        if needing and finetune:
            return finetune.calibration(source, config.calibration_limit)
        if needing:
            raise AsrCompressError(
                f"{needing[0]} needs speech to calibrate with; add --calibrate DATA, such as the dev set"
            )
        return None
    if not needing:
        raise AsrCompressError(
            f"--calibrate {calibrate.data}: nothing is calibrated at level {config.level} with --method {config.method}; leave it out, or add "
            "--level integer-only or --method auto"
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


def _pack(
    source: Source, name: str, weight: Tensor | None, config: QuantizeConfig, statistics: InputStatistics | None
) -> QuantizedWeight:
    if weight is None:
        raise AsrCompressError(f"{name} is missing; the file is not a whole {source.spec.family}")
    return pack_weight(name, weight, config, statistics, kept_of(source.content, name))
