"""How many bytes an artifact takes, before it is written: from names, shapes and types alone.

What is counted is what artifact.py writes and safetensors lays out, so the tensors of packed weights may be on device meta
(but not of unstructured ones, whose zeros are counted).
Floats that are not packed must be real: whether they are stored as float16 depends on their values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

from asrcompress.artifact import FORMAT, JSON_NAME, ArtifactContent, narrow_float, record_text
from asrcompress.grids import QuantizedWeight
from asrcompress.patterns import code_sizes
from asrcompress.sparse import SparseWeight
from asrcompress.stored_weight import data_sizes, weight_entry

# A tensor of the file: safetensors' name of its type, and its shape.
Outline = tuple[str, tuple[int, ...]]
# In the order in which safetensors lays tensors out: the widest first, so that each is aligned; then by name.
TYPES = ("U64", "I64", "F64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "I8", "U8", "BOOL")
WIDTHS = {"U64": 8, "I64": 8, "F64": 8, "F32": 4, "U32": 4, "I32": 4, "BF16": 2, "F16": 2, "U16": 2, "I16": 2}
TYPE_OF = {
    torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.uint32: "U32", torch.int32: "I32",
    torch.bfloat16: "BF16", torch.float16: "F16", torch.uint16: "U16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip


def artifact_size_bytes(content: ArtifactContent) -> int:
    """The size of the file that `save_artifact` writes for this content, to the byte."""
    tensors: dict[str, Outline] = {}
    for name, weight in (content.quantized | content.sparse).items():
        tensors |= weight_outlines(name, weight)
    for name, tensor in content.floats.items():
        tensors[name] = TYPE_OF[narrow_float(tensor).dtype], tuple(tensor.shape)
    tensors[JSON_NAME] = "U8", (len(record_text(content).encode()),)
    return header_size_bytes(tensors) + sum(map(data_size_bytes, tensors.values()))


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
    described = len(_text({name: weight_entry(weight)})) - 1  # with a comma for the braces
    tensors = weight_outlines(name, weight).items()
    return described + sum(tensor_size_bytes(*item, offset_digits=offset_digits) for item in tensors)


def tensor_size_bytes(name: str, outline: Outline, *, offset_digits: int) -> int:
    """What a tensor of its own adds to a file: its elements and its entry in the header; `offset_digits` as above."""
    offset = 10 ** (offset_digits - 1)
    return data_size_bytes(outline) + len(_text({name: _entry(outline, offset, offset)})) - 1


def header_size_bytes(tensors: Mapping[str, Outline]) -> int:
    """A safetensors file without its data: the length, the JSON header, and spaces up to a multiple of 8."""
    header: dict[str, object] = {"__metadata__": {"format": FORMAT}}
    begin = 0
    for name in sorted(tensors, key=lambda name: (TYPES.index(tensors[name][0]), name.encode())):
        end = begin + data_size_bytes(tensors[name])
        header[name] = _entry(tensors[name], begin, end)
        begin = end
    return 8 + -(-len(_text(header)) // 8) * 8


def data_size_bytes(outline: Outline) -> int:
    """Bytes of a tensor's elements."""
    kind, shape = outline
    return WIDTHS.get(kind, 1) * torch.Size(shape).numel()


def _entry(outline: Outline, begin: int, end: int) -> dict[str, object]:
    return {"dtype": outline[0], "shape": outline[1], "data_offsets": [begin, end]}


def _text(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
