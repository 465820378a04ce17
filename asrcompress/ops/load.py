"""A file on disk -> a model that runs. Checkpoints give float models, artifacts integer ones.

The model is always built fresh and filled from the file alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from asrcompress.artifact import ArtifactContent, format_of, parse_artifact
from asrcompress.artifact_file import is_artifact, read_bytes
from asrcompress.checkpoints import Checkpoint, read_checkpoint
from asrcompress.errors import AsrCompressError
from asrcompress.file_hash import FileHash, changed, identity_of
from asrcompress.integers.sites import Sites
from asrcompress.kernels import state
from asrcompress.mapped import Outlined, outlines
from asrcompress.mapped_artifact import map_artifact
from asrcompress.models import ModelSpec, get_family, recognise
from asrcompress.modules.fused import fuse
from asrcompress.modules.fused_decoder import fuse_decoder
from asrcompress.modules.swap import find_weights
from asrcompress.ops.compress import make_integer
from asrcompress.ops.recipe import recorded_rules
from asrcompress.patterns import UNSTRUCTURED, parse_pattern, pattern_name
from asrcompress.sidecar import describe_environment

# From here on an artifact's weights may be unpacked one at a time; below, all of them take little enough.
MAP_FROM_BYTES = 1 << 26
# What building from a configuration that is not one can raise, in torch, in Fairseq and in our families.
MISFIT = (LookupError, AttributeError, TypeError, ValueError, AssertionError, ArithmeticError, RuntimeError)


@dataclass(frozen=True)
class Source:
    """A file that was read, before anything is built.

    tensors: float state dict of the model, tied aliases included (artifacts: only what is stored in float, sparse
    weights with their zeros; see `content.quantized` for the rest, `content.sparse` for the masks).
    hashed, size_bytes: of the file as it was read, which may not be what lies at `path` later. A large file's sha256 may still
    be on its way; `sha256` waits for it.
    """

    path: Path
    family: ModuleType
    spec: ModelSpec
    tensors: Mapping[str, Tensor]
    checkpoint: Checkpoint | None
    content: ArtifactContent | None
    hashed: FileHash
    size_bytes: int

    @property
    def sha256(self) -> str:
        """Of the file, hex."""
        return self.hashed.sha256


@dataclass(frozen=True)
class LoadedModel:
    """A module in eval mode, and where it came from."""

    module: nn.Module
    source: Source


def open_source(path: str | Path, *, data_dir: Path | None = None, trust: bool = False, mapped: bool = False) -> Source:
    """Read a checkpoint or an artifact and recognise its family.

    `mapped`: an artifact of MAP_FROM_BYTES or more gives its weights when they are asked for, each time anew; smaller ones
    are read whole. Checkpoints are mapped in any case (but for files of torch.save before 1.6, which are read whole).
    """
    path = Path(path)
    if path.is_file() and is_artifact(path):
        if mapped and path.stat().st_size >= MAP_FROM_BYTES:
            return _map_source(path)
        before = identity_of(path)
        data = read_bytes(path)
        content = parse_artifact(data, path)
        spec = ModelSpec(content.family, content.config, content.vocabulary)
        hashed = FileHash(path, hashlib.sha256(data).hexdigest(), before)
        tensors = {**content.floats, **{name: weight.dequantize() for name, weight in content.sparse.items()}}
        return Source(path, get_family(content.family), spec, tensors, None, content, hashed, len(data))
    before = identity_of(path)
    checkpoint = read_checkpoint(path, trust=trust)
    if identity_of(path) != before:
        raise changed(path)
    family = recognise(checkpoint)
    spec = family.read_spec(checkpoint, data_dir)
    tensors = family.clean_tensors(checkpoint, spec)
    return Source(path, family, spec, tensors, checkpoint, None, checkpoint.hashed, checkpoint.size_bytes)


def _map_source(path: Path) -> Source:
    hashed = FileHash(path)
    content, size_bytes = map_artifact(path), path.stat().st_size
    spec = ModelSpec(content.family, content.config, content.vocabulary)

    def tensor_of(name: str) -> Tensor:
        return content.sparse[name].dequantize() if name in content.sparse else content.floats[name]

    shapes = {name: torch.empty(weight.shape, device="meta") for name, weight in outlines(content.sparse).items()}
    tensors = Outlined({**outlines(content.floats), **shapes}, tensor_of)
    return Source(path, get_family(content.family), spec, tensors, None, content, hashed, size_bytes)


def require_model_file(path: Path) -> None:
    """Raise when `path` is no file at all, with the reader's own words; cheap, so done before anything else."""
    if not path.is_file():
        read_checkpoint(path)
    described = path.with_name(path.name.removesuffix(".json"))
    if described != path and described.is_file():
        raise AsrCompressError(f"{path}: is a sidecar; give the model it describes, {described}")
    if described != path and described.is_dir():
        raise AsrCompressError(f"{path}: is the sidecar of an export; give the model that was exported")


def build_float(source: Source) -> nn.Module:
    """The source's float model, freshly built and not filled.

    Raises:
        AsrCompressError: what the file says of its model does not build one.
    """
    try:
        module: nn.Module = source.family.build(source.spec)
    except AsrCompressError:
        raise
    except MISFIT as error:
        cause = next(iter(str(error).strip().splitlines()), "")
        raise AsrCompressError(
            f"{source.path}: its configuration does not build a {source.spec.family} "
            f"({type(error).__name__}{f': {cause}' if cause else ''}); use the file that asrcompress or training wrote"
        ) from error
    return module


def build_model(
    source: Source, *, device: str = "cpu", observe: Sites | None = None, fused: bool = False
) -> LoadedModel:
    """Build the source's model fresh and fill it; every tensor must find its place.

    `observe`: sites that record; the model then computes in float, as the twins of level integer-only would on integers.
    `fused`: layers of int8 products run whole where kernels/ can, as is fastest; hooks on modules inside of them are not
    called then.
    """
    module = build_float(source)
    content = source.content
    if content:  # a tied weight is one object for all that share it
        content = replace(content, quantized=dict(content.quantized))
    _fill(module, source, set(content.quantized) if content else set())
    if content:
        try:
            _make_integer(module.eval(), content, device, observe)
        except AsrCompressError as error:
            raise AsrCompressError(f"{source.path}: {error}") from error
    module = module.eval().to(device)
    if fused and device == "cpu":
        fuse(module)
        fuse_decoder(module)
    return LoadedModel(module, source)


def _make_integer(module: nn.Module, content: ArtifactContent, device: str, observe: Sites | None) -> None:
    """Swap what is packed and, where the content has grids or is observed, all that level integer-only needs."""
    recipe, rules = content.recipe, recorded_rules(content.recipe)
    make_integer(
        module,
        content.quantized,
        rules=rules,
        activations=str(recipe.get("activations", "none")),
        sites=observe or (Sites(grids=content.grids) if content.grids else None),
        keep=recipe.get("islands", ()),
        device=device,
    )


def load_model(
    path: str | Path, *, device: str = "cpu", data_dir: Path | None = None, trust: bool = False, fused: bool = False
) -> LoadedModel:
    """`open_source`, then `build_model`."""
    return build_model(open_source(path, data_dir=data_dir, trust=trust), device=device, fused=fused)


def describe(source: Source, num_params: int) -> dict[str, Any]:
    """The `model` part of every sidecar: of the file as it was read, which must still be the file on disk.

    Raises:
        AsrCompressError: it is not: another file lies there by now, or none.
    """
    require_unchanged(source)
    ledger = source.checkpoint.ledger if source.checkpoint else {"model": source.size_bytes, "optimizer": 0}
    return {
        "file": source.path.name,
        "format": source.checkpoint.format if source.checkpoint else format_of(source.content),
        "family": source.spec.family,
        "sha256": source.sha256,
        "size_bytes": source.size_bytes,
        "model_size_bytes": ledger["model"],
        "optimizer_size_bytes": ledger["optimizer"],
        "num_params": num_params,
        "parent_sha256": source.content.parent.get("sha256") if source.content else None,
        "compression": compression(source.content, num_params) if _is_compressed(source.content) else None,
    }


def require_unchanged(source: Source) -> None:
    """Raise when the file on disk is not, byte for byte, the one that `source` was read from."""
    if not source.hashed.still_holds():
        raise changed(source.path)


def set_threads(num_threads: int) -> None:
    """Threads that torch computes with in this process; no more than there are processors."""
    available = os.cpu_count() or 1
    if not 1 <= num_threads <= available:
        raise AsrCompressError(f"--threads {num_threads}: use 1 to {available}, the number of processors here")
    torch.set_num_threads(num_threads)


def environment(device: str, *, multiplied: bool = False) -> dict[str, Any]:
    """The sidecar's environment block for work done in this process. `multiplied`: int8 products were; then by what, too."""
    described = describe_environment(device=device, num_threads=torch.get_num_threads())
    return described | ({"integer_kernels": state()} if multiplied else {})


def _is_compressed(content: ArtifactContent | None) -> TypeGuard[ArtifactContent]:
    """Of an artifact; a distilled student has nothing packed until it is quantized or sparsified."""
    return content is not None and bool(len(content.quantized) or len(content.sparse))


def compression(content: ArtifactContent, num_params: int) -> dict[str, Any]:
    """What is packed, read from the weights, and the last step's options, in the sidecar's words.

    num_bits and granularity are None where the packed weights differ; `bits` lists what they have, `patterns` the N:M
    patterns that some of them have.
    """
    weights = outlines(content.quantized).values()
    bits = sorted({weight.num_bits for weight in weights})
    granularities = {str(weight.granularity) for weight in weights}
    packed_params = sum(weight.codes.numel() for weight in weights)
    patterns = {pattern_name(weight.pattern) for weight in weights if weight.pattern}
    patterns |= {pattern_name(weight.pattern or UNSTRUCTURED) for weight in outlines(content.sparse).values()}
    return {
        "num_bits": bits[0] if len(bits) == 1 else None,
        "bits": bits,
        "granularity": granularities.pop() if len(granularities) == 1 else None,
        "packed_params_share": packed_params / num_params if num_params else None,
        "patterns": sorted(patterns, key=_pattern_order),
        "sparsifier": content.recipe.get("sparsifier"),
    } | {key: content.recipe.get(key) for key in ("activations", "level", "method", "include", "exclude")}


def _pattern_order(name: str) -> tuple[int, ...]:
    """1:4 before 2:4 before 10:16; unstructured last."""
    return (99,) if name == UNSTRUCTURED else parse_pattern(name)


def count_params(source: Source) -> int:
    """Parameters of the model; a tied tensor counts once."""
    seen: set[int] = set()
    total = 0
    for tensor in outlines(source.tensors).values():
        if tensor.is_meta or tensor.data_ptr() not in seen or tensor.numel() == 0:
            seen.add(tensor.data_ptr())
            total += tensor.numel()
    if source.content:
        total += sum(weight.codes.numel() for weight in outlines(source.content.quantized).values())
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


def _is_alias(module: nn.Module, name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a missing name is another name of a parameter that was loaded."""
    state = module.state_dict()
    pointer = state[name].data_ptr()
    return any(other != name and other in tensors and state[other].data_ptr() == pointer for other in state)
