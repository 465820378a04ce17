"""A packed weight as the tensors and the JSON entry that an artifact holds of it, and back, with every size checked.

Knows one weight at a time and no file; artifact.py puts them together, docs/artifact-format.md says what the bytes mean.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from asrcompress.grids import Granularity, QuantizedWeight, code_range, zero_codes
from asrcompress.packing import SUPPORTED_BITS, pack, packed_size_bytes, unpack
from asrcompress.patterns import join, parse_pattern, pattern_name, split


def weight_tensors(name: str, weight: QuantizedWeight) -> dict[str, Tensor]:
    """The tensors that are stored of a packed weight, by their names in the file."""
    tensors: dict[str, Tensor] = {}
    stored = weight.codes
    if weight.pattern is not None:
        zeros = zero_codes(weight.zero_point, *weight.codes.shape)
        stored, tensors[f"{name}_pattern"] = split(weight.codes, zeros, weight.pattern)
    tensors[f"{name}_packed"] = pack(stored, weight.num_bits)
    tensors[f"{name}_scale"] = weight.scale.contiguous()
    if weight.zero_point is not None:
        tensors[f"{name}_zero_point"] = pack(weight.zero_point, weight.num_bits)
    return tensors


def weight_entry(weight: QuantizedWeight) -> dict[str, Any]:
    """What `weights` says about a packed weight."""
    entry: dict[str, Any] = {
        "num_bits": weight.num_bits,
        "granularity": str(weight.granularity),
        "shape": list(weight.shape),
    }
    if weight.zero_point is not None:
        entry["symmetric"] = False
    if weight.method is not None:
        entry["method"] = weight.method
    if weight.pattern is not None:
        entry["pattern"] = pattern_name(weight.pattern)
    return entry


def read_weight(name: str, entry: dict[str, Any], tensors: dict[str, Tensor]) -> QuantizedWeight:
    """Take a weight's packed tensor, scale, zero point and group codes out of `tensors` and check them against its entry.

    Raises:
        KeyError, TypeError, ValueError, AsrCompressError: something is missing, of another type, or does not fit.
    """
    num_bits, shape = int(entry["num_bits"]), tuple(int(size) for size in entry["shape"])
    granularity = Granularity.parse(str(entry["granularity"]))
    packed, scale = tensors.pop(f"{name}_packed"), tensors.pop(f"{name}_scale")
    if num_bits not in SUPPORTED_BITS or len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"{name}: {num_bits} bits, shape {list(shape)}")
    count = torch.Size(shape).numel()
    rows, columns = shape[0], count // shape[0]
    expected = (1 if granularity.kind == "per_tensor" else rows, granularity.num_groups(columns, name))
    if scale.dtype not in (torch.float16, torch.float32):
        raise ValueError(f"{name}: scale of {scale.dtype}")
    if tuple(scale.shape) != expected or not torch.isfinite(scale).all():
        raise ValueError(f"{name}: scale of shape {list(scale.shape)} where {list(expected)} is due")
    symmetric, method = entry.get("symmetric", True), entry.get("method")
    if not isinstance(symmetric, bool) or not isinstance(method, str | None):
        raise TypeError(f"{name}: its 'symmetric' is not true or false, or its 'method' is not a name")
    zero_point = None
    if symmetric and f"{name}_zero_point" in tensors:
        raise ValueError(f"{name}: is symmetric and has zero points")
    if not symmetric:
        if num_bits == 1:
            raise ValueError(f"{name}: 1 bit has no zero point")
        zero_point = _unpack_checked(tensors.pop(f"{name}_zero_point"), num_bits, expected, f"{name}_zero_point")
    pattern = None if "pattern" not in entry else parse_pattern(str(entry["pattern"]))
    if pattern is None:
        if f"{name}_pattern" in tensors:
            raise ValueError(f"{name}: has group codes and no pattern")
        codes = _unpack_checked(packed, num_bits, (rows, columns), name)
    else:
        keep_n, group_m = pattern
        if columns % group_m:
            raise ValueError(f"{name}: {columns} inputs do not divide into groups of {group_m}")
        kept = _unpack_checked(packed, num_bits, (rows, columns // group_m * keep_n), name)
        codes = join(kept, tensors.pop(f"{name}_pattern"), zero_codes(zero_point, rows, columns), pattern, name)
    if int(codes.min()) < code_range(num_bits, symmetric=symmetric)[0]:
        raise ValueError(
            f"{name}: holds the code {int(codes.min())}, which symmetric grids of {num_bits} bits do not have"
        )
    return QuantizedWeight(codes, scale, num_bits, granularity, shape, zero_point, method, pattern)


def _unpack_checked(packed: Tensor, num_bits: int, shape: tuple[int, ...], name: str) -> Tensor:
    """The codes of a packed tensor, after a look at its type and size."""
    count = torch.Size(shape).numel()
    if packed.dtype not in (torch.int8, torch.uint8) or packed.numel() != packed_size_bytes(count, num_bits):
        raise ValueError(f"{name}: {packed.numel()} packed bytes where {packed_size_bytes(count, num_bits)} are due")
    return unpack(packed, num_bits, count).reshape(shape)
