"""quantize: a checkpoint or an artifact -> an artifact with packed integer weights, and its sidecar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrcompress.artifact import ArtifactContent, byte_ledger, save_artifact
from asrcompress.artifact_size import artifact_size_bytes
from asrcompress.errors import AsrCompressError
from asrcompress.files import check_outputs, sha256_file, write_json
from asrcompress.grids import QuantizedWeight
from asrcompress.modules.swap import WeightSite, find_weights
from asrcompress.ops.audit import audit_artifact
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
from asrcompress.ops.content import assemble, left_in_float, tied_names, whole_recipe
from asrcompress.ops.load import (
    Source,
    build_float,
    build_model,
    count_params,
    describe,
    environment,
    open_source,
    require_model_file,
)
from asrcompress.ops.plan_file import PlanFile
from asrcompress.ops.recipe import QuantizeConfig
from asrcompress.quantizers.statistics import InputStatistics
from asrcompress.sidecar import SUFFIXES, build, sidecar_path

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Calibrate:
    """Speech to calibrate with: a data set as for `eval`; `split` where a keyword set has several."""

    data: Path
    split: str | None = None
    audio_root: Path | None = None


@dataclass(frozen=True)
class QuantizeResult:
    """What was written, the sidecar's record, and the sidecars of a replaced artifact that went with it."""

    path: Path
    sidecar: Path
    record: dict[str, Any]
    removed: tuple[Path, ...] = ()


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
) -> QuantizeResult:
    """Pack the weights of `path` into `output` and describe it in `<output>.json`.

    `calibrate` names the speech that level integer-only and some methods need. `plan` is where the options are from: it
    must be for this file, and what is written never exceeds its budget.

    Raises:
        AsrCompressError: unreadable input, an option that does not fit, an output that exists, a plan that is for
            another file or whose budget would be exceeded. Nothing is written then.
    """
    path, output = Path(path), Path(output)
    require_model_file(path)
    if output.suffix != ".safetensors":
        raise AsrCompressError(
            f"-o {output}: the artifact is a safetensors file; give a name that ends in .safetensors"
        )
    sidecar = sidecar_path(output, "artifact")
    check_outputs([output, sidecar], [path], force=force)
    source = open_source(path, data_dir=data_dir, trust=trust)
    if plan:
        plan.require_model(path, source.sha256)
        config = replace(config, plan=plan.sha256)
    data = _read_data(source, config, calibrate)
    content = quantize_source(source, config, data=data, progress=progress)
    if plan:
        plan.require_size(artifact_size_bytes(content))
    parent = describe(source, num_params=0)
    replaced = sha256_file(output) if output.is_file() else None
    save_artifact(output, content, force=force)
    try:
        record = _record(output, parent, content, whole_recipe(content, config, plan))
        removed = () if record["model"]["sha256"] == replaced or not force else _remove_sidecars(output)
        write_json(sidecar, record, force=force)
    except BaseException:  # an interrupt included: no artifact is left without its sidecar
        output.unlink(missing_ok=True)
        raise
    return QuantizeResult(output, sidecar, record, tuple(path for path in removed if path != sidecar))


def plan(
    path: str | Path,
    config: QuantizeConfig,
    *,
    plan: PlanFile | None = None,
    data_dir: Path | None = None,
    trust: bool = False,
) -> tuple[list[str], list[str]]:
    """What `quantize` would pack, and what it would keep as it is (in float, or packed earlier), by name; packs and writes nothing."""
    source = open_source(path, data_dir=data_dir, trust=trust)
    if plan:
        plan.require_model(Path(path), source.sha256)
    before = source.content.quantized if source.content else {}
    sites = _sites(source)
    chosen = {site.name for site in select(sites, config)}
    with torch.device("meta"), _about(source.path):
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
) -> ArtifactContent:
    """The content of the artifact; writes nothing. Weights that are packed already and not chosen are carried over."""
    before = source.content.quantized if source.content else {}
    tensors = {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in source.tensors.items()
    }
    sites = _sites(source)
    chosen = {site.name for site in select(sites, config)}
    first = [site.name for site in sites if not site.tied_to]
    with torch.device("meta"):
        module = build_float(source)
    with _about(source.path):
        require_patterns(module, (name for name in first if name in chosen), config)
        require_twins(module, sites, config)
    tied = tied_names(sites)
    floating = tensors | {name: weight.dequantize() for name, weight in before.items()}
    floating |= {alias: floating[name] for alias, name in tied.items() if name in floating}
    run = runner(source.family, source.spec, data) if data else None
    statistics: dict[str, InputStatistics] = {}
    if run and wants_statistics(chosen, config):
        whole = build_model(replace(source, tensors=floating, content=None))
        statistics = weight_statistics(whole.module, sites, run, progress)
    quantized: dict[str, QuantizedWeight] = {}
    for name in first:
        if name in chosen:
            progress(len(quantized.keys() & chosen), len(chosen))
            with _about(source.path):
                quantized[name] = _pack(source, name, floating.get(name), config, statistics.get(name))
        elif name in before:
            quantized[name] = before[name]
    progress(len(chosen), len(chosen))
    floats = left_in_float(tensors, quantized, sites)
    if config.bias_correction:
        correct_biases(floats, {name: floating[name] for name in chosen}, quantized, statistics)
    with _about(source.path):
        require_finite(floats)
    content = assemble(source, config, sites, quantized, floats, data.describe() if data else None)
    if config.is_static and run:
        recorder, watching = recording_sites()
        observed = build_model(replace(source, tensors=floats, checkpoint=None, content=content), observe=watching)
        run(observed.module, progress)
        content = replace(content, grids=recorder.grids(config))
        require_sites(content.grids, config)
    # Building the integer model now finds whatever does not fit before anything is on disk.
    build_model(replace(source, tensors=floats, checkpoint=None, content=content))
    return content


def _sites(source: Source) -> list[WeightSite]:
    with torch.device("meta"):  # names and shapes only; nothing is allocated
        return find_weights(build_float(source))


def _read_data(source: Source, config: QuantizeConfig, calibrate: Calibrate | None) -> CalibrationData | None:
    """The calibration data that the options need; asked for before any work is done."""
    needing = [f"--{option}" for option in config.data_needed]
    if calibrate is None:
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
    return pack_weight(name, weight, config, statistics)


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Errors say which file they are about."""
    try:
        yield
    except AsrCompressError as error:
        raise AsrCompressError(f"{path}: {error}") from error


def _remove_sidecars(output: Path) -> tuple[Path, ...]:
    """Remove what was measured on the file that lay at `output` before."""
    names = [*(output.name + suffix for suffix in SUFFIXES.values()), f"{output.name}.eval.utterances.jsonl"]
    stale = tuple(path for name in names if (path := output.with_name(name)).is_file())
    for path in stale:
        try:
            path.unlink()
        except OSError as error:
            raise AsrCompressError(
                f"{path}: describes the file that was replaced and could not be removed: {error.strerror or error}"
            ) from error
    return stale


def _record(output: Path, parent: dict[str, Any], content: ArtifactContent, recipe: dict[str, Any]) -> dict[str, Any]:
    written = open_source(output)  # what is on disk is what is described
    model = describe(written, count_params(written))
    entries = byte_ledger(output)
    parent = {key: parent[key] for key in ("file", "sha256", "size_bytes", "model_size_bytes", "optimizer_size_bytes")}
    metrics = {
        "size_bytes": model["size_bytes"],
        "model_size_bytes": model["model_size_bytes"],
        "num_params": model["num_params"],
        "size_ratio": model["size_bytes"] / parent["size_bytes"],
        "model_size_ratio": model["model_size_bytes"] / parent["model_size_bytes"],
    }
    ledger = {"entries": entries, "size_bytes": sum(entry["size_bytes"] for entry in entries)}
    return build(
        "artifact",
        model=model,
        metrics=metrics,
        environment=environment("cpu"),
        recipe=recipe,
        parent=parent,
        ledger=ledger,
        honesty=audit_artifact(written, build_model(written)),
    )
