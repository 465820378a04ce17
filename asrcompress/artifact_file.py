"""What the file of an artifact says of itself: format, record, tensors, and what every byte is for.

Reads both layouts, asrcompress.v1 and compact, and gives the same of both. What the tensors mean is artifact.py's matter.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from asrcompress.compact import file as compact
from asrcompress.entropy import decode_text, read_coded
from asrcompress.errors import AsrCompressError
from asrcompress.stored_weight import PARTS
from asrcompress.tensor_file import TYPE_OF, Outline

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


def is_artifact(path: str | Path) -> bool:
    """Whether a file's header says `format: asrcompress.*`. False for anything unreadable."""
    header = read_header(Path(path))
    metadata = header.get("__metadata__") if header else None
    return isinstance(metadata, dict) and str(metadata.get("format", "")).startswith("asrcompress.")


def is_compact(header: dict[str, Any] | None) -> bool:
    """Whether a header is that of a compact file."""
    metadata = header.get("__metadata__") if header else None
    return isinstance(metadata, dict) and metadata.get("format") == compact.FORMAT


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


def read_bytes(path: str | Path) -> bytes:
    """All of a file at once, so that what is hashed is what is used."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise AsrCompressError(f"{path}: could not be read: {error.strerror or error}") from error


def file_parts(data: bytes, path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, as they were before any coding; the checked record) of a file's bytes; `path` is for the messages.

    Raises:
        AsrCompressError: not an artifact of this version, or damaged.
    """
    version = require_format(_parse_header(io.BytesIO(data), len(data)), path)
    try:
        return _compact_parts(data) if version == compact.FORMAT else _plain_parts(data)
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
    tensors, record = file_parts(read_bytes(path), path)
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


def dump_record(record: Mapping[str, Any]) -> str:
    """The text of a record, the same for the same values."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False)


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
