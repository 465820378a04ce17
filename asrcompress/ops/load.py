"""A file on disk -> a model that runs. Checkpoints give float models, artifacts integer ones.

The model is always built fresh and filled from the file alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.artifact import FORMAT, ArtifactContent, is_artifact, load_artifact
from asrcompress.checkpoints import Checkpoint, read_checkpoint
from asrcompress.errors import AsrCompressError
from asrcompress.files import sha256_file
from asrcompress.models import ModelSpec, get_family, recognise
from asrcompress.modules.swap import find_weights, swap
from asrcompress.sidecar import describe_environment


@dataclass(frozen=True)
class Source:
    """A file that was read, before anything is built.

    tensors: float state dict of the model, tied aliases included (artifacts: unpacked only those
    that are stored in float; see `content.quantized` for the rest).
    """

    path: Path
    family: ModuleType
    spec: ModelSpec
    tensors: dict[str, Tensor]
    checkpoint: Checkpoint | None
    content: ArtifactContent | None


@dataclass(frozen=True)
class LoadedModel:
    """A module in eval mode, and where it came from."""

    module: nn.Module
    source: Source


def open_source(path: str | Path, *, data_dir: Path | None = None, trust: bool = False) -> Source:
    """Read a checkpoint or an artifact and recognise its family."""
    path = Path(path)
    if path.is_file() and is_artifact(path):
        content = load_artifact(path)
        spec = ModelSpec(content.family, content.config, content.vocabulary)
        return Source(path, get_family(content.family), spec, content.floats, None, content)
    checkpoint = read_checkpoint(path, trust=trust)
    family = recognise(checkpoint)
    spec = family.read_spec(checkpoint, data_dir)
    return Source(path, family, spec, family.clean_tensors(checkpoint, spec), checkpoint, None)


def require_model_file(path: Path) -> None:
    """Raise when `path` is no file at all, with the reader's own words; cheap, so done before anything else."""
    if not path.is_file():
        read_checkpoint(path)
    if path.name.endswith(".json") and path.with_name(path.name.removesuffix(".json")).is_file():
        raise AsrCompressError(f"{path}: is a sidecar; give the model it describes, {path.with_name(path.name[:-5])}")


def build_model(source: Source, *, device: str = "cpu") -> LoadedModel:
    """Build the source's model fresh and fill it; every tensor must find its place."""
    module = source.family.build(source.spec)
    quantized = source.content.quantized if source.content else {}
    _fill(module, source, set(quantized))
    if source.content:
        try:
            swap(module, quantized, activations=str(source.content.recipe.get("activations", "none")))
        except AsrCompressError as error:
            raise AsrCompressError(f"{source.path}: {error}") from error
    return LoadedModel(module.eval().to(device), source)


def load_model(
    path: str | Path, *, device: str = "cpu", data_dir: Path | None = None, trust: bool = False
) -> LoadedModel:
    """`open_source`, then `build_model`."""
    return build_model(open_source(path, data_dir=data_dir, trust=trust), device=device)


def describe(source: Source, num_params: int) -> dict[str, Any]:
    """The `model` part of every sidecar. Sizes are read from the disk now."""
    size_bytes = source.path.stat().st_size
    ledger = source.checkpoint.ledger if source.checkpoint else {"model": size_bytes, "optimizer": 0}
    return {
        "file": source.path.name,
        "format": source.checkpoint.format if source.checkpoint else FORMAT,
        "family": source.spec.family,
        "sha256": sha256_file(source.path),
        "size_bytes": size_bytes,
        "model_size_bytes": ledger["model"],
        "optimizer_size_bytes": ledger["optimizer"],
        "num_params": num_params,
        "parent_sha256": source.content.parent.get("sha256") if source.content else None,
        "compression": compression(source.content.recipe) if source.content else None,
    }


def set_threads(num_threads: int) -> None:
    """Threads that torch computes with in this process; no more than there are processors."""
    available = os.cpu_count() or 1
    if not 1 <= num_threads <= available:
        raise AsrCompressError(f"--threads {num_threads}: use 1 to {available}, the number of processors here")
    torch.set_num_threads(num_threads)


def environment(device: str) -> dict[str, Any]:
    """The sidecar's environment block for work done in this process."""
    return describe_environment(device=device, num_threads=torch.get_num_threads())


def compression(recipe: dict[str, Any]) -> dict[str, Any]:
    """What was done, in the sidecar's words."""
    keys = ("num_bits", "granularity", "activations", "level", "method", "include", "exclude")
    return {key: recipe.get(key) for key in keys}


def count_params(source: Source) -> int:
    """Parameters of the model; a tied tensor counts once."""
    seen: set[int] = set()
    total = 0
    for tensor in source.tensors.values():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            seen.add(tensor.data_ptr())
            total += tensor.numel()
    if source.content:
        total += sum(weight.codes.numel() for weight in source.content.quantized.values())
    return total


def _fill(module: nn.Module, source: Source, packed: set[str]) -> None:
    """Load the float tensors; exactly the packed weights (and their aliases) may be absent."""
    tied = {site.name: site.tied_to for site in find_weights(module) if site.tied_to}
    absent = packed | {alias for alias, first in tied.items() if first in packed}
    # torch's own loading: Fairseq's takes modules out of the model when it misses a version number.
    try:
        missing, unexpected = nn.Module.load_state_dict(module, source.tensors, strict=False)
    except RuntimeError as error:
        shapes = str(error).splitlines()[-1].strip()
        raise AsrCompressError(f"{source.path}: its tensors do not fit its own configuration: {shapes}") from error
    computed = {name for name in missing if source.family.is_computed(name)}
    lost = sorted(
        set(missing) - absent - computed - {alias for alias in missing if _is_alias(module, alias, source.tensors)}
    )
    for word, names in (("is missing", lost), ("fits no module", sorted(unexpected))):
        if names:
            raise AsrCompressError(
                f"{source.path}: {names[0]} {word} ({len(names)} such tensors); the file is not a whole {source.spec.family}"
            )


def _is_alias(module: nn.Module, name: str, tensors: dict[str, Tensor]) -> bool:
    """Whether a missing name is another name of a parameter that was loaded."""
    state = module.state_dict()
    pointer = state[name].data_ptr()
    return any(other != name and other in tensors and state[other].data_ptr() == pointer for other in state)
