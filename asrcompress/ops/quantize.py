"""quantize: a checkpoint or an artifact -> an artifact with packed integer weights, and its sidecar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrcompress.artifact import ArtifactContent, byte_ledger, save_artifact
from asrcompress.errors import AsrCompressError
from asrcompress.files import check_outputs, sha256_file, write_json
from asrcompress.grids import Granularity, QuantizedWeight
from asrcompress.modules.swap import WeightSite, find_weights
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
from asrcompress.packing import SUPPORTED_BITS
from asrcompress.quantizers import get_quantizer
from asrcompress.sidecar import SUFFIXES, build, sidecar_path

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class QuantizeConfig:
    """Options of `quantize`, as the recipe in the artifact records them.

    include/exclude: shell globs over weight names; a weight is packed if some include fits and no
    exclude does. What an artifact holds packed already and is not chosen stays as it is.
    """

    num_bits: int = 8
    granularity: str = "per_channel"
    activations: str = "none"
    method: str = "rtn"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.num_bits not in SUPPORTED_BITS:
            raise AsrCompressError(f"--bits {self.num_bits}: use one of {', '.join(map(str, SUPPORTED_BITS))}")
        if self.activations not in ("none", "int8"):
            raise AsrCompressError(f"--activations {self.activations}: use none or int8")
        Granularity.parse(self.granularity)
        get_quantizer(self.method)


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
    data_dir: Path | None = None,
    trust: bool = False,
    force: bool = False,
    progress: Progress = lambda done, total: None,
) -> QuantizeResult:
    """Pack the weights of `path` into `output` and describe it in `<output>.json`.

    Raises:
        AsrCompressError: unreadable input, an option that does not fit, an output that exists.
            Nothing is written then.
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
    content = quantize_source(source, config, progress=progress)
    parent = describe(source, num_params=0)
    replaced = sha256_file(output) if output.is_file() else None
    save_artifact(output, content, force=force)
    try:
        record = _record(output, parent, content)
        removed = () if record["model"]["sha256"] == replaced or not force else _remove_sidecars(output)
        write_json(sidecar, record, force=force)
    except BaseException:  # an interrupt included: no artifact is left without its sidecar
        output.unlink(missing_ok=True)
        raise
    return QuantizeResult(output, sidecar, record, tuple(path for path in removed if path != sidecar))


def plan(
    path: str | Path, config: QuantizeConfig, *, data_dir: Path | None = None, trust: bool = False
) -> tuple[list[str], list[str]]:
    """What `quantize` would pack, and what it would keep as it is (in float, or packed earlier), by name; writes nothing."""
    source = open_source(path, data_dir=data_dir, trust=trust)
    content = quantize_source(source, config)
    before = source.content.quantized if source.content else {}
    packed = [name for name, weight in content.quantized.items() if weight is not before.get(name)]
    return packed, [name for name in [*content.quantized, *content.floats] if name not in packed]


def select(sites: list[WeightSite], config: QuantizeConfig) -> list[WeightSite]:
    """The untied weights that include and exclude leave. A glob that fits nothing is an error."""
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
    chosen = [site for site in sites if not site.tied_to and site.name in included - excluded]
    if not chosen:
        raise AsrCompressError("no weight is left to quantize; widen --include or narrow --exclude")
    return chosen


def quantize_source(
    source: Source, config: QuantizeConfig, *, progress: Progress = lambda done, total: None
) -> ArtifactContent:
    """The content of the artifact; writes nothing. Weights that are packed already and not chosen are carried over."""
    before = source.content.quantized if source.content else {}
    tensors = {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in source.tensors.items()
    }
    with torch.device("meta"):  # names and shapes only; nothing is allocated
        sites = find_weights(build_float(source))
    chosen = {site.name for site in select(sites, config)}
    first = [site.name for site in sites if not site.tied_to]
    quantized: dict[str, QuantizedWeight] = {}
    for name in first:
        if name in chosen:
            progress(len(quantized.keys() & chosen), len(chosen))
            weight = before[name].dequantize() if name in before else tensors.get(name)
            quantized[name] = _pack(source, name, weight, config)
        elif name in before:
            quantized[name] = before[name]
    progress(len(chosen), len(chosen))
    tied = {site.name: site.tied_to for site in sites if site.tied_to}
    floats = {name: tensor for name, tensor in tensors.items() if name not in quantized and name not in tied}
    _require_finite(source, floats)
    content = ArtifactContent(
        family=source.spec.family,
        config=source.spec.config,
        vocabulary=source.spec.vocabulary,
        recipe=_recipe(source, config, is_whole=quantized.keys() >= set(first)),
        parent={"sha256": source.sha256},  # sizes stand in the sidecar: these bytes count
        quantized=quantized,
        floats=floats,
        tied=tied,
    )
    # Building the integer model now finds whatever does not fit before anything is on disk.
    build_model(replace(source, tensors=floats, checkpoint=None, content=content))
    return content


def _pack(source: Source, name: str, weight: Tensor | None, config: QuantizeConfig) -> QuantizedWeight:
    if weight is None:
        raise AsrCompressError(f"{source.path}: {name} is missing; the file is not a whole {source.spec.family}")
    quantizer, granularity = get_quantizer(config.method), Granularity.parse(config.granularity)
    try:
        packed: QuantizedWeight = quantizer(weight, num_bits=config.num_bits, granularity=granularity, name=name)
    except AsrCompressError as error:
        raise AsrCompressError(f"{source.path}: {error}") from error
    return packed


def _require_finite(source: Source, floats: dict[str, Tensor]) -> None:
    for name, tensor in floats.items():
        if not torch.isfinite(tensor).all():
            raise AsrCompressError(
                f"{source.path}: {name}: holds NaN or infinity; the checkpoint is broken, use an earlier one"
            )


def _recipe(source: Source, config: QuantizeConfig, *, is_whole: bool) -> dict[str, Any]:
    """This step's options, the level that the file reaches by them, and the recipes of earlier steps, oldest first.

    Level partial: some weight that could be packed is in float; else computed with int8 activations, stored without.
    """
    recipe = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
    reached = "computed" if config.activations == "int8" else "stored"
    recipe["level"] = reached if is_whole else "partial"
    if source.content:
        earlier = dict(source.content.recipe)
        recipe["previous"] = [*earlier.pop("previous", []), earlier]
    return recipe


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


def _record(output: Path, parent: dict[str, Any], content: ArtifactContent) -> dict[str, Any]:
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
        recipe=content.recipe,
        parent=parent,
        ledger=ledger,
    )
