"""How many bytes an artifact takes, before it is written: from names, shapes and types alone.

What is counted is what artifact.py writes and safetensors lays out, so the tensors of packed weights may be on device meta
(but not of unstructured ones, whose zeros are counted).
Floats that are not packed must be real: whether they are stored as float16 depends on their values.
"""

from __future__ import annotations

from pathlib import Path

from asrcompress.artifact import ArtifactContent, narrow_float, record_text
from asrcompress.artifact_file import (
    JSON_NAME,
    METADATA,
    compact_outlines,
    dump_record,
    is_compact,
    read_header,
    read_record,
)
from asrcompress.grids import QuantizedWeight
from asrcompress.patterns import code_sizes
from asrcompress.sparse import SparseWeight
from asrcompress.stored_weight import data_sizes, weight_entry
from asrcompress.tensor_file import TYPE_OF, Outline, compact_json, data_size_bytes, header, header_entry


def artifact_size_bytes(content: ArtifactContent) -> int:
    """The size of the file that `save_artifact` writes for this content, to the byte, where it is not coded: neither by
    zstd nor as a compact file, whose sizes depend on all values."""
    tensors: dict[str, Outline] = {}
    for weights in (content.quantized, content.sparse):
        for name, weight in weights.items():
            tensors |= weight_outlines(name, weight)
    for name, tensor in content.floats.items():
        tensors[name] = TYPE_OF[narrow_float(tensor).dtype], tuple(tensor.shape)
    tensors[JSON_NAME] = "U8", (len(record_text(content).encode()),)
    return len(header(tensors, METADATA)) + sum(map(data_size_bytes, tensors.values()))


def size_bytes_without_coding(path: Path) -> int:
    """The size of an artifact if its tensors were not entropy coded, nor it compact, to the byte: of the file that the
    same options but that one give. Of a file that is not compact no tensor is decoded.

    Raises:
        AsrCompressError: it is no artifact, or damaged.
    """
    if is_compact(read_header(path)):
        stored, record = compact_outlines(path)
    else:
        entries, record = read_record(path)
        stored = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
    tensors = stored | {name: (dtype, tuple(shape)) for name, (dtype, shape) in record.pop("coded", {}).items()}
    for option in ("entropy_coding", "compact"):
        record["recipe"].pop(option, None)
    tensors[JSON_NAME] = "U8", (len(dump_record(record).encode()),)
    return len(header(tensors, METADATA)) + sum(map(data_size_bytes, tensors.values()))


def weight_outlines(name: str, weight: QuantizedWeight | SparseWeight) -> dict[str, Outline]:
    """The tensors that a weight becomes. One that is unstructured must have its values: they say how much is kept."""
    sizes = data_sizes(weight)
    found: dict[str, Outline] = {f"{name}_{part}": ("U8", (size,)) for part, size in sizes.items()}
    if isinstance(weight, SparseWeight):
        count, rows = sizes["values"] // weight.values.element_size(), len(weight.values)
        shape = (count,) if weight.pattern is None else (rows, count // rows)
        return found | {f"{name}_values": (TYPE_OF[weight.values.dtype], shape)}
    if weight.num_bits == 8:  # a byte a code: keeps its rows
        rows, size = len(weight.codes), sizes["packed"]
        found[f"{name}_packed"] = "I8", (size,) if "bitmask" in sizes else (rows, size // rows)
    found[f"{name}_scale"] = TYPE_OF[weight.scale.dtype], tuple(weight.scale.shape)
    if weight.zero_point is not None:
        zero_points = code_sizes(weight.scale.numel(), weight.num_bits)["packed"]
        found[f"{name}_zero_point"] = (
            ("I8", tuple(weight.scale.shape)) if weight.num_bits == 8 else ("U8", (zero_points,))
        )
    return found


def weight_size_bytes(name: str, weight: QuantizedWeight | SparseWeight, *, offset_digits: int) -> int:
    """What a weight adds to a file: its tensors, and what the header and `asrcompress.json` say about them.

    Args:
        name: of the weight.
        weight: may be on device meta, unless it is unstructured.
        offset_digits: length of a number that says where a tensor lies, which depends on what else is in the file.
    """
    described = len(compact_json({name: weight_entry(weight)})) - 1  # with a comma for the braces
    tensors = weight_outlines(name, weight).items()
    return described + sum(tensor_size_bytes(*item, offset_digits=offset_digits) for item in tensors)


def tensor_size_bytes(name: str, outline: Outline, *, offset_digits: int) -> int:
    """What a tensor of its own adds to a file: its elements and its entry in the header; `offset_digits` as above."""
    offset = 10 ** (offset_digits - 1)
    return data_size_bytes(outline) + len(compact_json({name: header_entry(outline, offset, offset)})) - 1
