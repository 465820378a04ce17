"""quantize: a checkpoint or an artifact -> an artifact with packed integer weights, and its sidecar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrcompress.artifact import ArtifactContent, byte_ledger, save_artifact
from asrcompress.errors import AsrCompressError
from asrcompress.files import require_absent, sha256_file, write_json
from asrcompress.grids import Granularity
from asrcompress.modules.swap import WeightSite, find_weights
from asrcompress.ops.load import (
    Source,
    build_model,
    count_params,
    describe,
    environment,
    open_source,
    require_model_file,
)
from asrcompress.packing import SUPPORTED_BITS
from asrcompress.quantizers import get_quantizer
from asrcompress.sidecar import build, sidecar_path

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class QuantizeConfig:
    """Options of `quantize`, as the recipe in the artifact records them.

    include/exclude: shell globs over weight names; a weight is packed if some include fits and no
    exclude does.
    """

    num_bits: int = 8
    granularity: str = "per_channel"
    activations: str = "none"
    method: str = "rtn"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    level: str = field(init=False)

    def __post_init__(self) -> None:
        if self.num_bits not in SUPPORTED_BITS:
            raise AsrCompressError(f"--bits {self.num_bits}: use one of {', '.join(map(str, SUPPORTED_BITS))}")
        if self.activations not in ("none", "int8"):
            raise AsrCompressError(f"--activations {self.activations}: use none or int8")
        Granularity.parse(self.granularity)
        get_quantizer(self.method)
        object.__setattr__(self, "level", "computed" if self.activations == "int8" else "stored")


@dataclass(frozen=True)
class QuantizeResult:
    """What was written, and the sidecar's record."""

    path: Path
    sidecar: Path
    record: dict[str, Any]


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
    output = Path(output)
    require_model_file(Path(path))
    require_absent(output, force=force)
    if output.suffix != ".safetensors":
        raise AsrCompressError(
            f"-o {output}: the artifact is a safetensors file; give a name that ends in .safetensors"
        )
    sidecar = sidecar_path(output, "artifact")
    require_absent(sidecar, force=force)
    if output.exists() and output.samefile(path):
        raise AsrCompressError(f"{output}: is the input, too; give -o another name")
    source = open_source(path, data_dir=data_dir, trust=trust)
    content = quantize_source(source, config, progress=progress)
    save_artifact(output, content, force=force)
    record = _record(output, source, content)
    write_json(sidecar, record, force=force)
    return QuantizeResult(output, sidecar, record)


def plan(
    path: str | Path, config: QuantizeConfig, *, data_dir: Path | None = None, trust: bool = False
) -> tuple[list[str], list[str]]:
    """What `quantize` would pack and what it would keep in float, by name; writes nothing."""
    source = open_source(path, data_dir=data_dir, trust=trust)
    content = quantize_source(source, config)
    return list(content.quantized), list(content.floats)


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
    """The content of the artifact; writes nothing."""
    tensors = float_tensors(source)
    with torch.device("meta"):  # names and shapes only; nothing is allocated
        sites = find_weights(source.family.build(source.spec))
    chosen = select(sites, config)
    quantizer = get_quantizer(config.method)
    granularity = Granularity.parse(config.granularity)
    quantized = {}
    for number, site in enumerate(chosen):
        progress(number, len(chosen))
        if site.name not in tensors:
            raise AsrCompressError(
                f"{source.path}: {site.name} is missing; the file is not a whole {source.spec.family}"
            )
        quantized[site.name] = quantizer(
            tensors[site.name], num_bits=config.num_bits, granularity=granularity, name=site.name
        )
    progress(len(chosen), len(chosen))
    tied = {site.name: site.tied_to for site in sites if site.tied_to}
    floats = {name: tensor for name, tensor in tensors.items() if name not in quantized and name not in tied}
    content = ArtifactContent(
        family=source.spec.family,
        config=source.spec.config,
        vocabulary=source.spec.vocabulary,
        recipe={key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()},
        parent={"sha256": sha256_file(source.path)},  # sizes stand in the sidecar: these bytes count
        quantized=quantized,
        floats=floats,
        tied=tied,
    )
    # Building the integer model now finds whatever does not fit before anything is on disk.
    build_model(Source(source.path, source.family, source.spec, floats, None, content))
    return content


def float_tensors(source: Source) -> dict[str, Tensor]:
    """The source's float state dict; an artifact's packed weights are unpacked."""
    tensors = {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in source.tensors.items()
    }
    if source.content:
        tensors |= {name: weight.dequantize() for name, weight in source.content.quantized.items()}
    return tensors


def _record(output: Path, source: Source, content: ArtifactContent) -> dict[str, Any]:
    written = open_source(output)  # what is on disk is what is described
    model = describe(written, count_params(written))
    entries = byte_ledger(output)
    before = describe(source, num_params=0)
    parent = {key: before[key] for key in ("file", "sha256", "size_bytes", "model_size_bytes", "optimizer_size_bytes")}
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
