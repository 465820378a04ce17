"""Record and tensors of an artifact as one stream of bytes, and back.

First the record, with what it needs to tell every tensor's type and size; then the tensors, weights before floats, by name:
one stream of numbers each, whose probabilities are shared by all tensors that hold the same kind of thing. Sizes are checked
before anything is decoded. What a weight's parts are is in docs/artifact-format.md; whether they fit is checked by who reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asrcompress.compact.range_coder import Decoder, Encoder
from asrcompress.compact.record import put_record, take_record
from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity
from asrcompress.packing import SUPPORTED_BITS, packed_size_bytes
from asrcompress.patterns import group_code_bits, parse_pattern
from asrcompress.tensor_file import DTYPE_OF, TYPE_OF, WIDTHS

MOST_PARAMS = 1 << 18  # of a model; 262,144 take 3 s to read
MOST_ELEMENTS = 4 * MOST_PARAMS  # of all tensors: codes, group codes, scales, zero points
# The first bits of a number have probabilities: all of a code of up to 5 bits; of a float its sign, exponent and what follows.
CODE_DEPTH, FLOAT_DEPTH = 5, 8
VALUES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
USUAL = "F16"  # type of scales and floats where none is said


@dataclass(frozen=True)
class Part:
    """A tensor: `count` numbers of `width` bits, of a kind. Packed ones fill whole bytes, as in packing.py."""

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    width: int
    count: int


@dataclass(frozen=True)
class Unpacked:
    """What a stream holds; `sizes`: bytes of it by what is in them, in order, the record first (under "")."""

    record: dict[str, Any]
    tensors: dict[str, Tensor]
    sizes: dict[str, int]


def pack(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """The stream of a record, as artifact.py makes it, and of the tensors that it is about.

    Raises:
        AsrCompressError: they are too many or too long for this layout.
    """
    encoder = Encoder()
    record = _with_types(record, tensors)
    put_record(encoder, record)

    def code(part: Part) -> Tensor:
        tensor = tensors[part.name]
        encoder.put((part.kind, part.width), _numbers(tensor, part), width=part.width, depth=_depth(part))
        return tensor

    walk(record, code)
    return encoder.finish()


def unpack(data: bytes) -> Unpacked:
    """The inverse of `pack`.

    Raises:
        AsrCompressError, LookupError, TypeError, ValueError, RecursionError: the bytes are none that `pack` gives.
    """
    decoder, ends, tensors = Decoder(data), [0], {}
    record = take_record(decoder)
    ends.append(decoder.num_bits // 8)

    def code(part: Part) -> Tensor:
        found = decoder.take((part.kind, part.width), part.count, width=part.width, depth=_depth(part))
        tensors[part.name] = tensor = _tensor(found, part)
        ends.append(decoder.num_bits // 8)
        return tensor

    walk(record, code)
    decoder.finish()
    ends = [min(end, len(data)) for end in ends]
    ends[-1] = len(data)  # some bits that end the stream
    sizes = {name: end - begin for name, begin, end in zip(["", *tensors], ends[:-1], ends[1:], strict=True)}
    return Unpacked(_without_types(record), tensors, sizes)


def walk(record: Mapping[str, Any], code: Callable[[Part], Tensor]) -> None:
    """Call `code` for each tensor, in order; it gives the tensor, since a bitmask says how many numbers follow.

    Raises:
        AsrCompressError, LookupError, TypeError, ValueError: the record does not say what the tensors are.
    """
    total = 0

    def visit(part: Part) -> Tensor:
        nonlocal total
        total += part.count
        if total > MOST_ELEMENTS:
            raise AsrCompressError(
                f"{part.name}: would be more than {MOST_ELEMENTS:,} numbers together with the others"
            )
        return code(part)

    for name, entry in sorted(record["weights"].items()):
        _walk_weight(name, entry, visit)
    for name, about in sorted(record["floats"].items()):
        dtype, shape = about if about and isinstance(about[0], str) else (USUAL, about)
        visit(_typed(name, "float", dtype, _sizes(name, shape)))


def _walk_weight(name: str, entry: Mapping[str, Any], visit: Callable[[Part], Tensor]) -> None:
    shape = _sizes(name, entry["shape"])
    rows, count = shape[0], math.prod(shape)
    if not count:
        raise AsrCompressError(f"{name}: shape {list(shape)}")
    columns = count // rows
    pattern = parse_pattern(str(entry["pattern"])) if ":" in entry.get("pattern", "") else None
    kept: tuple[int, ...] = (rows, columns)
    if pattern:
        groups = count // pattern[1]
        visit(_packed(f"{name}_pattern", "pattern", groups, group_code_bits(pattern)))
        kept = (rows, columns // pattern[1] * pattern[0])
    elif entry.get("bitmask") or "dtype" in entry:
        mask = visit(_packed(f"{name}_bitmask", "bitmask", count, 1))
        kept = (int(np.unpackbits(mask.numpy()).sum()),)
    if "dtype" in entry:
        visit(_typed(f"{name}_values", "values", VALUES[entry["dtype"]], kept))
        return
    num_bits, granularity = entry["num_bits"], Granularity.parse(str(entry["granularity"]))
    if num_bits not in SUPPORTED_BITS:
        raise AsrCompressError(f"{name}: {str(num_bits)[:40]} bits")
    scales = (1 if granularity.kind == "per_tensor" else rows, granularity.num_groups(columns, name))
    visit(_codes(f"{name}_packed", "packed", kept, num_bits))
    visit(_typed(f"{name}_scale", "scale", entry.get("scale", USUAL), scales))
    if not entry.get("symmetric", True):
        visit(_codes(f"{name}_zero_point", "zero_point", scales, num_bits))


def _codes(name: str, kind: str, shape: tuple[int, ...], num_bits: int) -> Part:
    return _typed(name, kind, "I8", shape) if num_bits == 8 else _packed(name, kind, math.prod(shape), num_bits)


def _packed(name: str, kind: str, count: int, width: int) -> Part:
    return Part(name, kind, "U8", (packed_size_bytes(count, width),), width, count)


def _typed(name: str, kind: str, dtype: str, shape: tuple[int, ...]) -> Part:
    if dtype not in DTYPE_OF:
        raise AsrCompressError(f"{name}: there is no type '{str(dtype)[:40]}'")
    return Part(name, kind, dtype, shape, 8 * WIDTHS[dtype], math.prod(shape))


def _sizes(name: str, shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, list | tuple) or not all(
        type(size) is int and 0 <= size <= MOST_ELEMENTS for size in shape
    ):
        raise AsrCompressError(f"{name}: {str(shape)[:80]} is no shape of a small model")
    return tuple(shape)


def _depth(part: Part) -> int:
    is_float = DTYPE_OF[part.dtype].is_floating_point
    return min(part.width, FLOAT_DEPTH if is_float else CODE_DEPTH)


def _numbers(tensor: Tensor, part: Part) -> list[int]:
    """A tensor's bits, the least significant of a byte first, `width` at a time."""
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    bits = np.unpackbits(data, bitorder="little")[: part.count * part.width].reshape(part.count, part.width)
    numbers: list[int] = (bits @ (np.uint64(1) << np.arange(part.width, dtype=np.uint64))).tolist()
    return numbers


def _tensor(numbers: list[int], part: Part) -> Tensor:
    places = np.arange(part.width, dtype=np.uint64)
    bits = np.array(numbers, dtype=np.uint64)[:, None] >> places & np.uint64(1)
    data = bytearray(np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little").tobytes())
    dtype = DTYPE_OF[part.dtype]
    return torch.frombuffer(data, dtype=dtype).reshape(part.shape) if data else torch.empty(part.shape, dtype=dtype)


def _with_types(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The record with what a v1 file's header says: types and shapes, where they do not follow from it anyway."""
    weights, parts = {}, set()
    for name, entry in record["weights"].items():
        weights[name] = dict(entry)
        own = {f"{name}_{part}" for part in ("packed", "values", "pattern", "bitmask", "scale", "zero_point")}
        parts |= own
        scale = tensors.get(f"{name}_scale")
        if scale is not None and TYPE_OF[scale.dtype] != USUAL:
            weights[name]["scale"] = TYPE_OF[scale.dtype]
        if f"{name}_bitmask" in tensors and "dtype" not in entry:
            weights[name]["bitmask"] = True
    floats: dict[str, Any] = {}
    for name in tensors.keys() - parts:
        shape, dtype = list(tensors[name].shape), TYPE_OF[tensors[name].dtype]
        floats[name] = shape if dtype == USUAL else [dtype, shape]
    return {**record, "weights": weights, "floats": floats}


def _without_types(record: Mapping[str, Any]) -> dict[str, Any]:
    own = ("scale", "bitmask")
    weights = {name: {k: v for k, v in entry.items() if k not in own} for name, entry in record["weights"].items()}
    return {key: value for key, value in record.items() if key != "floats"} | {"weights": weights}
