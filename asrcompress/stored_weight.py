"""A weight as the tensors and the JSON entry that an artifact holds of it, and back, with every size checked.

Knows one weight at a time, of integers or of sparse floats, and no file; artifact.py puts them together,
docs/artifact-format.md says what the bytes mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from asrcompress.gather import put_masked, take_masked
from asrcompress.grids import (
    Granularity,
    QuantizedWeight,
    all_finite,
    code_range,
    nonzero_codes,
    row_blocks,
    zero_codes,
)
from asrcompress.group_codes import join, join_values, split, split_values
from asrcompress.packing import SUPPORTED_BITS, count_true, pack, pack_mask, packed_size_bytes, unpack, unpack_mask
from asrcompress.patterns import (
    UNSTRUCTURED,
    Pattern,
    Unstructured,
    code_sizes,
    group_code_bits,
    parse_pattern,
    pattern_name,
    takes_bitmask,
)
from asrcompress.sparse import SparseWeight

# What tensors beside a weight's name end in; no other tensor of the file may be named so.
PACKED_PARTS = ("packed", "pattern", "bitmask", "scale", "zero_point")
SPARSE_PARTS = ("values", "pattern", "bitmask")
PARTS = tuple(dict.fromkeys((*PACKED_PARTS, *SPARSE_PARTS)))
VALUE_TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def weight_tensors(name: str, weight: QuantizedWeight | SparseWeight) -> dict[str, Tensor]:
    """The tensors that are stored of a weight, by their names in the file."""
    if isinstance(weight, SparseWeight):
        return _sparse_tensors(name, weight)
    tensors: dict[str, Tensor] = {}
    stored = weight.codes
    if weight.pattern is not None:
        if isinstance(weight.pattern, tuple):
            zeros = zero_codes(weight.zero_point, *weight.codes.shape)
            stored, tensors[f"{name}_pattern"] = split(weight.codes, zeros, weight.pattern)
        else:
            mask = kept(weight)
            if takes_bitmask(mask.numel(), count_true(mask), weight.num_bits):
                stored, tensors[f"{name}_bitmask"] = take_masked(weight.codes, mask), pack_mask(mask)
    tensors[f"{name}_packed"] = pack(stored, weight.num_bits)
    tensors[f"{name}_scale"] = weight.scale.contiguous()
    if weight.zero_point is not None:
        tensors[f"{name}_zero_point"] = pack(weight.zero_point, weight.num_bits)
    return tensors


def data_sizes(weight: QuantizedWeight | SparseWeight) -> dict[str, int]:
    """Bytes of the weight's own data by part, scales and zero points apart: its codes or values, and which ones they are.

    Looks at values only where it is unstructured.
    """
    if isinstance(weight, QuantizedWeight):
        num_kept = count_true(kept(weight)) if weight.pattern == UNSTRUCTURED else None
        return code_sizes(weight.codes.numel(), weight.num_bits, weight.pattern, num_kept)
    count, width = weight.values.numel(), weight.values.element_size()
    if weight.pattern is None:
        return {"values": count_true(weight.mask) * width, "bitmask": packed_size_bytes(count, 1)}
    groups = count // weight.pattern[1]
    group_codes = packed_size_bytes(groups, group_code_bits(weight.pattern))
    return {"values": groups * weight.pattern[0] * width, "pattern": group_codes}


def kept(weight: QuantizedWeight | SparseWeight) -> Tensor:
    """(rows, columns), True where a code stands for something else than 0, or where a float is kept."""
    if isinstance(weight, SparseWeight):
        return weight.mask
    return nonzero_codes(weight.codes, weight.zero_point)


def weight_entry(weight: QuantizedWeight | SparseWeight) -> dict[str, Any]:
    """What `weights` says about a weight. Looks at no values."""
    if isinstance(weight, SparseWeight):
        entry: dict[str, Any] = {
            "dtype": str(weight.values.dtype).removeprefix("torch."),
            "shape": list(weight.shape),
            "pattern": pattern_name(weight.pattern or UNSTRUCTURED),
        }
    else:
        entry = {
            "num_bits": weight.num_bits,
            "granularity": str(weight.granularity),
            "shape": list(weight.shape),
        }
        if weight.zero_point is not None:
            entry["symmetric"] = False
        if weight.pattern is not None:
            entry["pattern"] = pattern_name(weight.pattern)
    if weight.method is not None:
        entry["method"] = weight.method
    return entry


def read_weight(name: str, entry: dict[str, Any], tensors: dict[str, Tensor]) -> QuantizedWeight | SparseWeight:
    """Take a weight's tensors out of `tensors` and check them against its entry.

    Raises:
        KeyError, TypeError, ValueError, AsrCompressError: something is missing, of another type, or does not fit.
    """
    shape = tuple(int(size) for size in entry["shape"])
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"{name}: shape {list(shape)}")
    if not isinstance(entry.get("method"), str | None):
        raise TypeError(f"{name}: its 'method' is not a name")
    return _read_sparse(name, entry, shape, tensors) if "dtype" in entry else _read_packed(name, entry, shape, tensors)


def _read_packed(
    name: str, entry: dict[str, Any], shape: tuple[int, ...], tensors: dict[str, Tensor]
) -> QuantizedWeight:
    num_bits, granularity = int(entry["num_bits"]), Granularity.parse(str(entry["granularity"]))
    packed, scale = tensors.pop(f"{name}_packed"), tensors.pop(f"{name}_scale")
    if num_bits not in SUPPORTED_BITS:
        raise ValueError(f"{name}: {num_bits} bits")
    rows, columns = _rows_and_columns(shape)
    expected = (1 if granularity.kind == "per_tensor" else rows, granularity.num_groups(columns, name))
    if scale.dtype not in (torch.float16, torch.float32):
        raise ValueError(f"{name}: scale of {scale.dtype}")
    if tuple(scale.shape) != expected or not torch.isfinite(scale).all():
        raise ValueError(f"{name}: scale of shape {list(scale.shape)} where {list(expected)} is due")
    symmetric = entry.get("symmetric", True)
    if not isinstance(symmetric, bool):
        raise TypeError(f"{name}: its 'symmetric' is not true or false")
    zero_point = None
    if symmetric and f"{name}_zero_point" in tensors:
        raise ValueError(f"{name}: is symmetric and has zero points")
    if not symmetric:
        if num_bits == 1:
            raise ValueError(f"{name}: 1 bit has no zero point")
        zero_point = _unpack_checked(tensors.pop(f"{name}_zero_point"), num_bits, expected, f"{name}_zero_point")
    pattern = _read_pattern(name, entry, columns, tensors)
    if isinstance(pattern, tuple):
        some = _unpack_checked(packed, num_bits, (rows, columns // pattern[1] * pattern[0]), name)
        zeros = zero_codes(zero_point, rows, columns)
        codes = join(some, tensors.pop(f"{name}_pattern"), zeros, pattern, name)
    elif f"{name}_bitmask" in tensors:
        mask = _unpack_mask(tensors.pop(f"{name}_bitmask"), rows * columns, name).reshape(rows, columns)
        some = _unpack_checked(packed, num_bits, (count_true(mask),), name)
        codes = _join_bitmask(some, mask, zero_codes(zero_point, rows, columns), name)
    else:
        codes = _unpack_checked(packed, num_bits, (rows, columns), name)
    if int(codes.min()) < code_range(num_bits, symmetric=symmetric)[0]:
        raise ValueError(
            f"{name}: holds the code {int(codes.min())}, which symmetric grids of {num_bits} bits do not have"
        )
    return QuantizedWeight(codes, scale, num_bits, granularity, shape, zero_point, entry.get("method"), pattern)


def _join_bitmask(some: Tensor, mask: Tensor, zeros: Tensor, name: str) -> Tensor:
    """Codes (rows, columns) from the kept ones: those that stand for something else than 0, and only those."""
    codes = zeros.clone(memory_format=torch.contiguous_format)
    put_masked(some, mask, codes)
    if not torch.equal(codes != zeros, mask):
        raise ValueError(f"{name}: its bitmask keeps a code that stands for 0")
    return codes


def _sparse_tensors(name: str, weight: SparseWeight) -> dict[str, Tensor]:
    if weight.pattern is None:
        _require_zeros(name, weight)
        return {f"{name}_values": take_masked(weight.values, weight.mask), f"{name}_bitmask": pack_mask(weight.mask)}
    try:
        values, group_codes = split_values(weight.values, weight.mask, weight.pattern)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    _require_zeros(name, weight)
    return {f"{name}_values": values, f"{name}_pattern": group_codes}


def _require_zeros(name: str, weight: SparseWeight) -> None:
    """Raise where something that is dropped is not 0."""
    for here in row_blocks(weight.values):
        nonzero = torch.ne(weight.values[here], 0).numpy()
        if np.greater(nonzero, weight.mask[here].numpy(), out=nonzero).any():
            raise ValueError(f"{name}: a dropped value is not 0")


def _read_sparse(name: str, entry: dict[str, Any], shape: tuple[int, ...], tensors: dict[str, Tensor]) -> SparseWeight:
    rows, columns = _rows_and_columns(shape)
    some = tensors.pop(f"{name}_values")
    if entry["dtype"] not in VALUE_TYPES or some.dtype != VALUE_TYPES[entry["dtype"]]:
        raise ValueError(f"{name}: values of {some.dtype} where its entry says {str(entry['dtype'])[:40]}")
    pattern = _read_pattern(name, entry, columns, tensors)
    if pattern is None:
        raise ValueError(f"{name}: is sparse and has no pattern")
    if isinstance(pattern, tuple):
        _check_values(name, some, (rows, columns // pattern[1] * pattern[0]))
        values, mask = join_values(some, tensors.pop(f"{name}_pattern"), pattern, name)
    else:
        mask = _unpack_mask(tensors.pop(f"{name}_bitmask"), rows * columns, name).reshape(rows, columns)
        _check_values(name, some, (count_true(mask),))
        values = torch.zeros(rows, columns, dtype=some.dtype)
        put_masked(some, mask, values)
    return SparseWeight(values, mask, shape, pattern if isinstance(pattern, tuple) else None, entry.get("method"))


def _check_values(name: str, some: Tensor, due: tuple[int, ...]) -> None:
    if tuple(some.shape) != due:
        raise ValueError(f"{name}: values of shape {list(some.shape)} where {list(due)} are kept")
    if not all_finite(some):
        raise ValueError(f"{name}: holds NaN or infinity")


def _read_pattern(
    name: str, entry: dict[str, Any], columns: int, tensors: dict[str, Tensor]
) -> Pattern | Unstructured | None:
    """The pattern that an entry names. Group codes and bitmasks that it has no use for are an error."""
    text = entry.get("pattern")
    pattern = text if text is None or text == UNSTRUCTURED else parse_pattern(str(text))
    if isinstance(pattern, tuple) and columns % pattern[1]:
        raise ValueError(f"{name}: {columns} inputs do not divide into groups of {pattern[1]}")
    if not isinstance(pattern, tuple) and f"{name}_pattern" in tensors:
        raise ValueError(f"{name}: has group codes and no pattern")
    if pattern != UNSTRUCTURED and f"{name}_bitmask" in tensors:
        raise ValueError(f"{name}: has a bitmask and is not unstructured")
    return pattern


def _rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], torch.Size(shape).numel() // shape[0]


def _unpack_mask(bitmask: Tensor, count: int, name: str) -> Tensor:
    try:
        return unpack_mask(bitmask, count)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _unpack_checked(packed: Tensor, num_bits: int, shape: tuple[int, ...], name: str) -> Tensor:
    """The codes of a packed tensor, after a look at its type and size."""
    count = torch.Size(shape).numel()
    if packed.dtype != torch.uint8 and (packed.dtype != torch.int8 or num_bits < 8):
        raise ValueError(f"{name}: packed as {packed.dtype}, not as unsigned bytes")
    if packed.numel() != packed_size_bytes(count, num_bits):
        raise ValueError(f"{name}: {packed.numel()} packed bytes where {packed_size_bytes(count, num_bits)} are due")
    return unpack(packed, num_bits, count).reshape(shape)
