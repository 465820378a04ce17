"""An artifact whose weights are unpacked each time that one is asked for: for files that do not fit in memory unpacked.

The file is mapped and must not change while it is used. A weight's sizes and codes are checked when it is read, floats and
the record at once. artifact.py reads files whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from asrcompress.artifact import ArtifactContent, content_of, load_artifact
from asrcompress.artifact_file import DAMAGE, JSON_NAME, check_record, damaged, is_compact, read_header, require_format
from asrcompress.entropy import decode_text, outline_of_coded, read_coded
from asrcompress.grids import Granularity, QuantizedWeight
from asrcompress.mapped import Outlined, release
from asrcompress.patterns import UNSTRUCTURED, parse_pattern
from asrcompress.sparse import SparseWeight
from asrcompress.stored_weight import PARTS, VALUE_TYPES, read_weight

Weight = QuantizedWeight | SparseWeight


def map_artifact(path: str | Path) -> ArtifactContent:
    """Read an artifact's header and record; weights and floats follow when they are asked for.

    Raises:
        AsrCompressError: not there, not an artifact of this version, or damaged. Reading a weight raises it, too.
    """
    path = Path(path)
    header = read_header(path)
    require_format(header, path)
    if is_compact(header):  # one stream, and small
        return load_artifact(path)

    def read(name: str) -> Weight:
        found = parts[name]
        try:
            plain = found | read_coded({key: coded[key] for key in found if key in coded}, found)
            weight = read_weight(name, record["weights"][name], plain)
        except DAMAGE as error:
            raise damaged(path, error) from error
        mapped = {tensor.untyped_storage().data_ptr() for tensor in found.values()}
        own: dict[str, Any] = {
            key: tensor.clone() for key, tensor in _tensors(weight).items() if _pointer(tensor) in mapped
        }
        weight = replace(weight, **own)
        for tensor in found.values():
            release(tensor)
        return weight

    def read_float(name: str) -> Tensor:
        try:
            return read_coded({name: coded[name]}, tensors)[name] if name in coded else tensors[name]
        except DAMAGE as error:
            raise damaged(path, error) from error

    try:
        with safe_open(path, framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in sorted(handle.keys())}
        record = json.loads(decode_text(JSON_NAME, tensors.pop(JSON_NAME)))
        check_record(record)
        coded = record.get("coded", {})
        if not isinstance(coded, dict) or not coded.keys() <= tensors.keys():
            raise TypeError("what it says of coded tensors is not about its tensors")
        parts = {name: _take_parts(name, tensors) for name in record["weights"]}
        floats = {name: outline_of_coded(name, coded[name]) if name in coded else tensors[name] for name in tensors}
        outlines = {name: outline(name, entry) for name, entry in record["weights"].items()}
        quantized = {name: weight for name, weight in outlines.items() if isinstance(weight, QuantizedWeight)}
        sparse = {name: weight for name, weight in outlines.items() if isinstance(weight, SparseWeight)}
        return content_of(record, Outlined(quantized, read), Outlined(sparse, read), Outlined(floats, read_float))  # type: ignore[arg-type]
    except DAMAGE as error:
        raise damaged(path, error) from error


def outline(name: str, entry: Mapping[str, Any]) -> Weight:
    """A weight as far as its entry tells, on device meta; its numbers may still turn out to be damaged.

    Raises:
        LookupError, TypeError, ValueError, AsrCompressError: the entry is none.
    """
    shape = tuple(int(size) for size in entry["shape"])
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"{name}: shape {list(shape)}")
    rows, columns = shape[0], torch.Size(shape).numel() // shape[0]
    text = entry.get("pattern")
    pattern = text if text is None or text == UNSTRUCTURED else parse_pattern(str(text))
    with torch.device("meta"):
        if "dtype" in entry:
            values = torch.empty(rows, columns, dtype=VALUE_TYPES[entry["dtype"]])
            mask = torch.empty(rows, columns, dtype=torch.bool)
            return SparseWeight(
                values, mask, shape, pattern if isinstance(pattern, tuple) else None, entry.get("method")
            )
        granularity = Granularity.parse(str(entry["granularity"]))
        groups = granularity.num_groups(columns, name)
        scale = torch.empty(1 if granularity.kind == "per_tensor" else rows, groups, dtype=torch.float16)
        zero_point = None if entry.get("symmetric", True) else torch.empty(scale.shape, dtype=torch.int8)
        codes = torch.empty(rows, columns, dtype=torch.int8)
        return QuantizedWeight(
            codes, scale, int(entry["num_bits"]), granularity, shape, zero_point, entry.get("method"), pattern
        )


def _take_parts(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensors.pop(key) for part in PARTS if (key := f"{name}_{part}") in tensors}


def _tensors(weight: Weight) -> dict[str, Tensor]:
    values = {field.name: getattr(weight, field.name) for field in fields(weight)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _pointer(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
