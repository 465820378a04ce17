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

import io
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from asrcompress.compact import file as compact
from asrcompress.entropy import ZSTD, CodingSpool, Plain, decode_text, encode_text, read_coded
from asrcompress.errors import AsrCompressError
from asrcompress.files import atomic_write, require_absent
from asrcompress.grids import FP16_LARGEST, FP16_SMALLEST_NORMAL, QuantizedWeight
from asrcompress.integers.grid import Grid
from asrcompress.integers.grid_tree import from_tree, to_tree
from asrcompress.mapped import release
from asrcompress.sparse import SparseWeight
from asrcompress.stored_weight import PARTS, read_weight, weight_entry, weight_tensors
from asrcompress.tensor_file import TYPE_OF, Outline, TensorSpool, spool

FORMAT = "asrcompress.v1"
JSON_NAME = "asrcompress.json"
METADATA = {"format": FORMAT}
# What reading a damaged or hostile file can raise, in safetensors, json, torch and our own checks.
DAMAGE = (
    SafetensorError,
    AsrCompressError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    RuntimeError,
    AttributeError,
    OSError,
)


@dataclass(frozen=True)
class ArtifactContent:
    """What an artifact holds. `quantized`, `sparse` and `floats` are keyed by the names of the float model's
    state dict; `tied` maps an alias to the name under which the tensor is stored; `grids` maps the sites of
    level integer-only to their static grids, and is empty at other levels."""

    family: str
    config: dict[str, Any]
    vocabulary: list[str] | None
    recipe: dict[str, Any]
    parent: dict[str, Any]
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

    Weights and floats are asked for once, one at a time, and let go. `check_size` is given the file's size in bytes before
    anything has its name, and may raise.

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
    is_coded = content.recipe.get("entropy_coding") == ZSTD
    with spool(path) as tensors:
        coding = CodingSpool(tensors)
        into = coding if is_coded else tensors
        for weights in (content.quantized, content.sparse):
            for name in weights:
                entries[name] = _spool_weight(into, name, weights[name])
        for name in content.floats:
            _require_free(path, name, entries)
            tensor = content.floats[name].detach()
            into.add(name, narrow_float(tensor))
            release(tensor)
        text = record_text(content, entries, coding.coded)
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


def _spool_weight(
    tensors: TensorSpool | CodingSpool, name: str, weight: QuantizedWeight | SparseWeight
) -> dict[str, Any]:
    """Spool what is stored of a weight; returns its entry."""
    for part, tensor in weight_tensors(name, weight).items():
        tensors.add(part, tensor)
    return weight_entry(weight)


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
        "parent": content.parent,
        "weights": entries,
        "tied": content.tied,
    }
    if content.grids:
        record["grids"] = to_tree(content.grids)
    if coded:
        record["coded"] = coded
    return dump_record(record)


def dump_record(record: Mapping[str, Any]) -> str:
    """The text of a record, the same for the same values."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)


def is_artifact(path: str | Path) -> bool:
    """Whether a file's header says `format: asrcompress.*`. False for anything unreadable."""
    header = read_header(Path(path))
    metadata = header.get("__metadata__") if header else None
    return isinstance(metadata, dict) and str(metadata.get("format", "")).startswith("asrcompress.")


def is_compact(header: dict[str, Any] | None) -> bool:
    """Whether a header is that of a compact file."""
    metadata = header.get("__metadata__") if header else None
    return isinstance(metadata, dict) and metadata.get("format") == compact.FORMAT


def format_of(content: ArtifactContent | None) -> str:
    """The format of the file that this content is from, or will be. None: some artifact's."""
    return compact.FORMAT if content and content.recipe.get("compact") else FORMAT


def load_artifact(path: str | Path) -> ArtifactContent:
    """Read an artifact back, with every size checked.

    Raises:
        AsrCompressError: not there, not an artifact of this version, or damaged.
    """
    return parse_artifact(read_bytes(path), path)


def read_bytes(path: str | Path) -> bytes:
    """All of a file at once, so that what is hashed is what is used."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise AsrCompressError(f"{path}: could not be read: {error.strerror or error}") from error


def parse_artifact(data: bytes, path: str | Path) -> ArtifactContent:
    """`load_artifact` for bytes that were read already; `path` is for the messages."""
    version = require_format(_parse_header(io.BytesIO(data), len(data)), path)
    try:
        tensors, record = _compact_parts(data) if version == compact.FORMAT else _plain_parts(data)
        weights = {name: read_weight(name, entry, tensors) for name, entry in record["weights"].items()}
        quantized = {name: weight for name, weight in weights.items() if isinstance(weight, QuantizedWeight)}
        sparse = {name: weight for name, weight in weights.items() if isinstance(weight, SparseWeight)}
        return content_of(record, quantized, sparse, tensors)
    except DAMAGE as error:
        raise damaged(path, error) from error


def _plain_parts(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, the record) of a file's bytes."""
    tensors = dict(sorted(load(data).items()))
    record = json.loads(decode_text(JSON_NAME, tensors.pop(JSON_NAME)))
    check_record(record)
    return tensors | read_coded(record.get("coded", {}), tensors), record


def _compact_parts(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """`_plain_parts` of a compact file."""
    found = compact.read_file(data)
    check_record(found.record)
    if found.record["recipe"].get("compact") is not True:
        raise ValueError("its recipe does not say that it is compact")
    return dict(sorted(found.tensors.items())), found.record


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


def require_format(header: dict[str, Any] | None, path: str | Path) -> str:
    """The format that a header names; raises where it is none of this version, or there is no header (None)."""
    if header is None:
        raise AsrCompressError(
            f"{path}: is not a safetensors file, or is damaged; write it again with asrcompress quantize"
        )
    metadata = header.get("__metadata__")
    version = metadata.get("format") if isinstance(metadata, dict) else None
    if version not in (FORMAT, compact.FORMAT):
        raise AsrCompressError(f"{path}: format '{version}' is not {FORMAT}; use the asrcompress that wrote it")
    return str(version)


def damaged(path: str | Path, error: Exception) -> AsrCompressError:
    """The one line for what went wrong while reading an artifact."""
    cause = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else error
    return AsrCompressError(f"{path}: is damaged ({cause}); write it again with asrcompress quantize")


def read_record(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the header's entries, by tensor; what `asrcompress.json` holds) of an artifact; reads nothing else of it.

    Raises:
        AsrCompressError: it is none, or damaged.
    """
    path = Path(path)
    header = read_header(path)
    if is_compact(header):
        return {name: entry for name, entry in (header or {}).items() if name != "__metadata__"}, compact_outlines(
            path
        )[1]
    try:
        tensors = {name: entry for name, entry in (header or {}).items() if name != "__metadata__"}
        begin, end = tensors[JSON_NAME]["data_offsets"]
        with open(path, "rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            handle.seek(8 + length + begin)
            data = handle.read(min(end - begin, path.stat().st_size))
        record = json.loads(decode_text(JSON_NAME, torch.frombuffer(bytearray(data), dtype=torch.uint8)))
        check_record(record)
    except DAMAGE as error:
        raise AsrCompressError(f"{path}: is damaged ({error}); write it again with asrcompress quantize") from error
    return tensors, record


def compact_outlines(path: str | Path) -> tuple[dict[str, Outline], dict[str, Any]]:
    """(types and shapes of the tensors of a compact file, its record).

    Raises:
        AsrCompressError: it is damaged.
    """
    try:
        tensors, record = _compact_parts(read_bytes(path))
    except DAMAGE as error:
        raise damaged(path, error) from error
    return {name: (TYPE_OF[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}, record


def byte_ledger(path: str | Path) -> list[dict[str, Any]]:
    """Every byte of an artifact by what it is for; the entries' `size_bytes` sum to the file's size.

    Kinds: header, weight_packed, weight_pattern, weight_bitmask, weight_scale, weight_zero_point, weight_values, float, json,
    gap (bytes no tensor claims). In a compact file tensors take what they are coded in; there is no gap, but coding (where
    that is longer than the tensor, and the end of the stream).

    Raises:
        AsrCompressError: no safetensors header. A file that `load_artifact` accepts always has one.
    """
    path = Path(path)
    header = read_header(path)
    if header is None:
        raise AsrCompressError(
            f"{path}: is not a safetensors file, or is damaged; write it again with asrcompress quantize"
        )
    if is_compact(header):
        return _compact_ledger(path)
    with open(path, "rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
    entries = [{"name": "header", "kind": "header", "size_bytes": 8 + length}]
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    covered = 0
    for name, entry in sorted(tensors.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        if begin > covered:
            entries.append({"name": "gap", "kind": "gap", "size_bytes": begin - covered})
        entries.append({"name": name, "kind": _kind(name, tensors), "size_bytes": end - begin})
        covered = max(covered, end)
    rest = path.stat().st_size - 8 - length - covered
    if rest:
        entries.append({"name": "gap", "kind": "gap", "size_bytes": rest})
    return entries


def _compact_ledger(path: Path) -> list[dict[str, Any]]:
    try:
        rows = compact.ledger(read_bytes(path))
    except DAMAGE as error:
        raise damaged(path, error) from error
    named = {name or JSON_NAME: size for name, size in rows}
    own = {"header", "coding"}
    return [
        {"name": name, "kind": name if name in own else _kind(name, named), "size_bytes": size}
        for name, size in named.items()
    ]


def _kind(name: str, tensors: Mapping[str, Any]) -> str:
    if name == JSON_NAME:
        return "json"
    beside = {"packed": ("scale",), "values": ("pattern", "bitmask"), "scale": ("packed",), "zero_point": ("packed",)}
    for part in PARTS:
        base, others = name.removesuffix(f"_{part}"), beside.get(part, ("packed", "values"))
        if base != name and any(f"{base}_{other}" in tensors for other in others):
            return f"weight_{part}"
    return "float"


def check_record(record: dict[str, Any]) -> None:
    """Raise when a part of the record is missing (KeyError) or not of its type (TypeError)."""
    for key in ("config", "recipe", "parent", "weights", "tied"):
        if not isinstance(record[key], dict):
            raise TypeError(f"its '{key}' is not an object")
    vocabulary = [] if record["vocabulary"] is None else record["vocabulary"]
    if not isinstance(vocabulary, list):
        raise TypeError("its 'vocabulary' is not a list")
    if not all(isinstance(text, str) for text in (record["family"], *vocabulary, *record["tied"].values())):
        raise TypeError("a name in its record is not a string")
    recipe = record["recipe"]
    if recipe.get("activations", "none") not in ("none", "int8"):
        raise ValueError("the activations of its 'recipe' are neither none nor int8")
    previous = recipe.get("previous", [])
    if not isinstance(previous, list) or not all(isinstance(step, dict) for step in previous):
        raise TypeError("the 'previous' of its 'recipe' is not a list of objects")


def read_header(path: Path) -> dict[str, Any] | None:
    """The JSON header of a safetensors file, or None when there is none."""
    try:
        with open(path, "rb") as handle:
            return _parse_header(handle, path.stat().st_size)
    except OSError:
        return None


def _parse_header(handle: BinaryIO, size_bytes: int) -> dict[str, Any] | None:
    try:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(100_000_000, size_bytes - 8):
            return None
        header = json.loads(handle.read(length))
    except (ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None
