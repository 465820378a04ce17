"""The artifact: one .safetensors file that is all a machine needs to run the compressed model.

Tensors: `<weight>_packed` and `<weight>_scale` for every packed weight (`fc1.weight_packed`,
`gru.weight_ih_l0_packed`), `<weight>_zero_point` where its grid is asymmetric, `<weight>_pattern` or
`<weight>_bitmask` where only the codes are stored that an N:M pattern or a mask keeps; `<weight>_values` and one of these
for every sparse float weight; the other tensors under their own names in the narrowest float that
costs nothing, and `asrcompress.json`: UTF-8 JSON with family, config, vocabulary, recipe, parent,
shapes and bits of the packed weights, and tied names. The header's one metadata entry is
`format: asrcompress.v1`; everything else is in the tensor, since the order of several header
entries is not fixed and the bytes of an artifact are. Nothing is pickled, no tied weight is stored
twice, no float copy of a packed weight is stored. Integer modules are built from this elsewhere.
With `compact` in its recipe the same tensors and JSON are one coded tensor, `format: asrcompress.c1` (compact/).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrcompress.ahead import AHEAD_BYTES, in_order
from asrcompress.artifact_file import DAMAGE, FORMAT, JSON_NAME, METADATA, damaged, dump_record, file_parts, read_bytes
from asrcompress.compact import file as compact
from asrcompress.entropy import ZSTD, Plain, encode_text, encoded
from asrcompress.errors import AsrCompressError
from asrcompress.files import atomic_write, require_absent
from asrcompress.grids import FP16_LARGEST, FP16_SMALLEST_NORMAL, QuantizedWeight
from asrcompress.integers.grid import Grid
from asrcompress.integers.grid_tree import from_tree, to_tree
from asrcompress.mapped import Made, Outlined, outlines, release
from asrcompress.sparse import SparseWeight
from asrcompress.stored_weight import PARTS, read_weight, weight_entry, weight_tensors
from asrcompress.tensor_file import spool

Parts = dict[str, tuple[Tensor, Plain | None]]  # tensors by name, and what they were where they are coded
BYTES_AT_WORK = 4  # an element of a weight that is read


@dataclass(frozen=True)
class ArtifactContent:
    """What an artifact holds. `quantized`, `sparse` and `floats` are keyed by the names of the float model's
    state dict; `tied` maps an alias to the name under which the tensor is stored; `grids` maps the sites of
    level integer-only to their static grids, and is empty at other levels."""

    family: str
    config: dict[str, Any]
    vocabulary: list[str] | None
    recipe: dict[str, Any]
    parent: Mapping[str, Any]
    quantized: Mapping[str, QuantizedWeight]
    floats: Mapping[str, Tensor]
    tied: dict[str, str] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)
    sparse: Mapping[str, SparseWeight] = field(default_factory=dict)


def narrow_float(tensor: Tensor) -> Tensor:
    """Store a small float tensor (bias, norm) as float16 where that costs no quality.

    Kept when the largest magnitude is a normal float16 (or 0), so that every element's error is at
    most 2^-11 of itself, or 2^-25 absolute; other tensors come back as they are.
    """
    if tensor.dtype != torch.float32 or tensor.dim() > 1 or not torch.isfinite(tensor).all():
        return tensor
    largest = float(tensor.abs().max()) if tensor.numel() else 0.0
    return tensor.half() if largest == 0 or FP16_SMALLEST_NORMAL <= largest <= FP16_LARGEST else tensor


def save_artifact(
    path: str | Path, content: ArtifactContent, *, force: bool = False, check_size: Callable[[int], None] | None = None
) -> dict[str, dict[str, Any]]:
    """Write the artifact, whole or not at all. The same content gives the same bytes.

    Weights and floats are asked for once and in order, in other threads and several at a time where they are small, and let
    go. `check_size` is given the file's size in bytes before anything has its name, and may raise.

    Returns:
        What the file's JSON says about each weight.

    Raises:
        AsrCompressError: as `atomic_write`; or a name is one that the format needs.
    """
    path = Path(path)
    require_absent(path, force=force)
    if content.recipe.get("compact"):
        return _save_compact(path, content, force=force, check_size=check_size)
    entries: dict[str, dict[str, Any]] = {}
    coded: dict[str, Plain] = {}
    is_coded = content.recipe.get("entropy_coding") == ZSTD
    with spool(path) as tensors:
        for name, (parts, entry) in _stored(content, is_coded=is_coded):
            if entry is None:
                _require_free(path, name, entries)
            else:
                entries[name] = entry
            for part, (tensor, plain) in parts.items():
                tensors.add(part, tensor)
                if plain is not None:
                    coded[part] = plain
        text = record_text(content, entries, coded)
        tensors.add(
            JSON_NAME, encode_text(text) if is_coded else torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        )
        if check_size:
            check_size(tensors.file_size_bytes(METADATA))
        with atomic_write(path, force=force) as handle:
            tensors.write_to(handle, METADATA)
    return entries


def _save_compact(
    path: Path, content: ArtifactContent, *, force: bool, check_size: Callable[[int], None] | None
) -> dict[str, dict[str, Any]]:
    """`save_artifact` in the compact layout."""
    entries: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for weights in (content.quantized, content.sparse):
        for name in weights:
            weight = weights[name]
            entries[name] = weight_entry(weight)
            tensors |= weight_tensors(name, weight)
    for name in content.floats:
        _require_free(path, name, entries)
        tensors[name] = narrow_float(content.floats[name].detach())
    try:
        data = compact.file_bytes(json.loads(record_text(content, entries)), tensors)
    except AsrCompressError as error:
        raise AsrCompressError(f"{path}: {error}; leave out --compact, which is for small models") from error
    if check_size:
        check_size(len(data))
    with atomic_write(path, force=force) as handle:
        handle.write(data)
    return entries


def _require_free(path: Path, name: str, entries: Mapping[str, Any]) -> None:
    """Raise where a float tensor has the name of the record, of a weight or of a part of one."""
    is_part = any(name.removesuffix(f"_{part}") in entries for part in PARTS if name.endswith(f"_{part}"))
    if name == JSON_NAME or name in entries or is_part:
        raise AsrCompressError(
            f"{path}: the tensor name '{name}' is taken by the artifact format; rename it in the checkpoint"
        )


def _stored(content: ArtifactContent, *, is_coded: bool) -> Iterator[tuple[str, tuple[Parts, dict[str, Any] | None]]]:
    """(name, (the tensors that are stored of it, its entry; None of a float)): weights, then floats. The next ones are made
    while one is written."""
    groups: tuple[Mapping[str, Any], ...] = (content.quantized, content.sparse, content.floats)
    sizes = [_num_elements(group) for group in groups]

    def make(key: tuple[int, str]) -> tuple[Parts, dict[str, Any] | None]:
        place, name = key
        found = groups[place][name]
        is_float = isinstance(found, Tensor)
        tensors = {name: narrow_float(found.detach())} if is_float else weight_tensors(name, found)
        parts = {part: encoded(part, tensor) if is_coded else (tensor, None) for part, tensor in tensors.items()}
        return parts, None if is_float else weight_entry(found)

    keys = [(place, name) for place, group in enumerate(groups) for name in group]
    for (_, name), made in in_order(keys, make, lambda key: BYTES_AT_WORK * sizes[key[0]](key[1])):
        yield name, made
        if made[1] is None:  # a float may be mapped from a file
            release(made[0][name][0])


def _num_elements(values: Mapping[str, Any]) -> Callable[[str], int]:
    """How many elements a weight or float has, before it is made; what is not known counts as too much to have two of."""
    if isinstance(values, Made) and values.num_elements:
        return values.num_elements
    known = None if isinstance(values, Made) and not isinstance(values, Outlined) else outlines(values)

    def count(name: str) -> int:
        if known is None:
            return AHEAD_BYTES
        weight = known[name]
        return weight.numel() if isinstance(weight, Tensor) else math.prod(weight.shape)

    return count


def record_text(
    content: ArtifactContent,
    entries: Mapping[str, dict[str, Any]] | None = None,
    coded: Mapping[str, Plain] | None = None,
) -> str:
    """What `asrcompress.json` holds. Looks at shapes, bits and names, at no tensor's values.

    Args:
        content: of the artifact.
        entries: of the weights, where they are known.
        coded: tensors that entropy coding made smaller, and what they were.
    """
    if entries is None:
        entries = {n: weight_entry(w) for group in (content.quantized, content.sparse) for n, w in group.items()}
    record: dict[str, Any] = {
        "family": content.family,
        "config": content.config,
        "vocabulary": content.vocabulary,
        "recipe": content.recipe,
        "parent": dict(content.parent),
        "weights": entries,
        "tied": content.tied,
    }
    if content.grids:
        record["grids"] = to_tree(content.grids)
    if coded:
        record["coded"] = coded
    return dump_record(record)


def format_of(content: ArtifactContent | None) -> str:
    """The format of the file that this content is from, or will be. None: some artifact's."""
    return compact.FORMAT if content and content.recipe.get("compact") else FORMAT


def load_artifact(path: str | Path) -> ArtifactContent:
    """Read an artifact back, with every size checked.

    Raises:
        AsrCompressError: not there, not an artifact of this version, or damaged.
    """
    return parse_artifact(read_bytes(path), path)


def parse_artifact(data: bytes, path: str | Path) -> ArtifactContent:
    """`load_artifact` for bytes that were read already; `path` is for the messages."""
    tensors, record = file_parts(data, path)
    try:
        weights = {name: read_weight(name, entry, tensors) for name, entry in record["weights"].items()}
        quantized = {name: weight for name, weight in weights.items() if isinstance(weight, QuantizedWeight)}
        sparse = {name: weight for name, weight in weights.items() if isinstance(weight, SparseWeight)}
        return content_of(record, quantized, sparse, tensors)
    except DAMAGE as error:
        raise damaged(path, error) from error


def content_of(
    record: Mapping[str, Any],
    quantized: Mapping[str, QuantizedWeight],
    sparse: Mapping[str, SparseWeight],
    floats: Mapping[str, Tensor],
) -> ArtifactContent:
    """The content that a checked record and the tensors beside it make.

    Raises:
        LookupError, TypeError, ValueError, AsrCompressError: a part is missing or damaged, or a tied name leads nowhere.
    """
    parts = {key: record[key] for key in ("family", "config", "vocabulary", "recipe", "parent", "tied")}
    grids = from_tree(record.get("grids", {}))
    known = quantized.keys() | sparse.keys() | floats.keys()
    if not set(parts["tied"].values()) <= known:
        raise ValueError("a tied name leads nowhere")
    return ArtifactContent(quantized=quantized, floats=floats, grids=grids, sparse=sparse, **parts)
