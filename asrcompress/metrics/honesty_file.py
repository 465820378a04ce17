"""What an artifact's bytes prove: sizes, codes, N:M groups, and no float copy of a packed weight hidden anywhere.

Sees tensors and a byte ledger, never the run (honesty.py). A copy is recognised by its values, whatever its name, type,
order of axes or neighbours: a tensor, its bytes read as floats, or bytes that no tensor claims.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from asrcompress.grids import QuantizedWeight, code_range
from asrcompress.metrics.honesty import Finding
from asrcompress.metrics.honesty_nm import count_pattern, detect_pattern
from asrcompress.packing import packed_size_bytes
from asrcompress.patterns import pattern_name
from asrcompress.stored_weight import data_sizes, kept

COPY = 0.99  # correlation with a packed weight from which a tensor is a copy of it
SMALLEST_COPY = 32  # values; fewer correlate by chance
LONGEST_TEXT = 4096  # characters of one string, or numbers in one list, that a configuration may hold
FLOAT_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def judge_file(
    quantized: Mapping[str, QuantizedWeight],
    others: Mapping[str, Tensor],
    ledger: list[dict[str, Any]],
    *,
    size_bytes: int,
    gaps: Mapping[str, bytes],
    record: Mapping[str, Any],
) -> list[Finding]:
    """What in the file contradicts level `stored`.

    Args:
        quantized: packed weights by name.
        others: every other tensor of the file.
        ledger: the file's bytes by what they are for, as artifact.byte_ledger gives them.
        size_bytes: of the file, by stat.
        gaps: bytes that belong to no tensor, by where they are (empty in an honest file).
        record: the file's JSON, in which a copy could hide as text or numbers.
    """
    lines = [*_size_faults(quantized, ledger, size_bytes), *_code_faults(quantized)]
    lines += list(hidden_copies(quantized, others, gaps))
    lines += [f"{where}: {len(data):,} bytes that belong to no tensor" for where, data in gaps.items() if data]
    lines += [f"asrcompress.json: {what}" for what in _long_values(record, "")]
    for name, weight in quantized.items():
        if isinstance(weight.pattern, tuple) and (fault := count_pattern(kept(weight), *weight.pattern, name).fault):
            lines.append(fault)
    return [Finding("stored", line) for line in lines]


def code_table(quantized: Mapping[str, QuantizedWeight]) -> list[dict[str, Any]]:
    """One row per packed weight: distinct codes per channel, range, histogram, bits with scales, pattern.

    histogram: codes counted in up to 16 bins of equal width from the smallest code of two's complement. kept_per_group: where
    a pattern is claimed, how many groups have 0, 1, ... values that are not zero. pattern: what every group keeps to.
    """
    rows = []
    for name, weight in quantized.items():
        codes = weight.codes.long()
        present = torch.zeros(codes.shape[0], 256, dtype=torch.bool).scatter_(1, codes + 128, True)
        distinct = present.sum(dim=1).sort().values
        width = max(weight.num_bits, 2)
        low, bin_width = -(2 ** (width - 1)), 2 ** max(width - 4, 0)
        bins = torch.bincount(((codes - low) // bin_width).flatten().clamp(0), minlength=2 ** min(width, 4))
        extra = weight.scale.numel() * weight.scale.element_size()
        if weight.zero_point is not None:
            extra += packed_size_bytes(weight.zero_point.numel(), weight.num_bits)
        stored = sum(data_sizes(weight).values()) + extra
        count = count_pattern(kept(weight), *weight.pattern, name) if isinstance(weight.pattern, tuple) else None
        claim_holds = weight.pattern is not None and count is not None and not count.fault
        rows.append(
            {
                "name": name,
                "num_bits": weight.num_bits,
                "granularity": str(weight.granularity),
                "method": weight.method,
                "distinct_min": int(distinct[0]),
                "distinct_median": int(distinct[(len(distinct) - 1) // 2]),
                "distinct_max": int(distinct[-1]),
                "min": int(codes.min()),
                "max": int(codes.max()),
                "histogram": bins.tolist(),
                "bits_per_weight": 8 * stored / codes.numel(),
                "pattern": pattern_name(weight.pattern)
                if claim_holds and weight.pattern
                else detect_pattern(kept(weight)),
                "kept_per_group": list(count.histogram) if count else None,
            }
        )
    return rows


def hidden_copies(
    quantized: Mapping[str, QuantizedWeight], others: Mapping[str, Tensor], gaps: Mapping[str, bytes]
) -> Iterator[str]:
    """Name every tensor, and every stretch of unclaimed bytes, that holds a packed weight's values in float."""
    by_size: dict[int, list[tuple[str, QuantizedWeight]]] = {}
    for name, weight in quantized.items():
        by_size.setdefault(weight.codes.numel(), []).append((name, weight))
    for name, tensor in others.items():
        found = _copy_in(_readings(tensor), by_size)
        if found:
            dtype = str(tensor.dtype).removeprefix("torch.")
            yield (
                f"{name}: is a {dtype} copy of the packed weight {found[0]} "
                f"({tensor.numel() * tensor.element_size():,} bytes, correlation {found[1]:.4f})"
            )
    for where, data in gaps.items():
        found = _copy_in(_readings(torch.frombuffer(bytearray(data), dtype=torch.uint8)) if data else [], by_size)
        if found:
            yield f"{where}: hides a float copy of the packed weight {found[0]} (correlation {found[1]:.4f})"


def _readings(tensor: Tensor) -> list[Tensor]:
    """A tensor as flat floats: its own values, or what its bytes are when they are read as floats."""
    if tensor.dtype.is_floating_point:
        return [tensor.detach().flatten().double()]
    own = [tensor.flatten().double()] if not tensor.dtype.is_complex else []
    data = tensor.contiguous().flatten().view(torch.uint8)
    for dtype in FLOAT_TYPES:
        usable = len(data) - len(data) % dtype.itemsize
        if usable:
            own.append(data[:usable].clone().view(dtype).double())
    return own


def _copy_in(
    readings: list[Tensor], by_size: Mapping[int, list[tuple[str, QuantizedWeight]]]
) -> tuple[str, float] | None:
    """The packed weight that flat values are, begin with or end with, and how well they correlate."""
    for values in readings:
        for size, weights in by_size.items():
            if size < SMALLEST_COPY or len(values) < size:
                continue
            parts = [values[:size]] if len(values) == size else [values[:size], values[-size:]]
            for part, (name, weight) in itertools.product(parts, weights):
                if not torch.isfinite(part).all():
                    continue
                best = max(_correlations(part, weight.dequantize()), default=0.0)
                if best > COPY:
                    return name, best
    return None


def _correlations(values: Tensor, weight: Tensor) -> Iterator[float]:
    """|correlation| of flat values with a weight in every order of its axes, and as rows and columns swapped."""
    shapes = [weight, weight.reshape(weight.shape[0], -1)] if weight.dim() > 2 else [weight]
    values = values - values.mean()
    norm = float(values.norm())
    for shaped in shapes:
        centered = shaped.double() - shaped.double().mean()
        scale = norm * float(centered.norm())
        if scale > 0:
            for axes in itertools.permutations(range(shaped.dim())):
                yield abs(float(values @ centered.permute(axes).flatten())) / scale


def _size_faults(
    quantized: Mapping[str, QuantizedWeight], ledger: list[dict[str, Any]], size_bytes: int
) -> Iterator[str]:
    total = sum(entry["size_bytes"] for entry in ledger)
    if total != size_bytes:
        yield f"ledger: {total:,} bytes are accounted for, the file has {size_bytes:,}"
    sizes = {entry["name"]: entry["size_bytes"] for entry in ledger}
    for name, weight in quantized.items():
        for part, due in data_sizes(weight).items():
            found = sizes.get(f"{name}_{part}", 0)
            if found > due and part == "packed":
                yield f"{name}: takes {found:,} bytes where {weight.num_bits} bits each are {due:,}"
            elif found > due:
                yield f"{name}: its {'group codes take' if part == 'pattern' else 'bitmask takes'} {found:,} bytes where {due:,} are due"
        if weight.scale.numel() >= weight.codes.numel() > 1:
            yield f"{name}: has a scale for every weight, which is a float copy in all but name"


def _code_faults(quantized: Mapping[str, QuantizedWeight]) -> Iterator[str]:
    for name, weight in quantized.items():
        low, high = code_range(weight.num_bits, symmetric=weight.zero_point is None)
        least, most = int(weight.codes.min()), int(weight.codes.max())
        if least < low or most > high:
            yield f"{name}: claims {weight.num_bits} bits and holds codes {least}..{most}; they end at {low}..{high}"


def _long_values(value: Any, where: str) -> Iterator[str]:
    """Strings and lists of numbers that are too long for a configuration."""
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        yield f"{where}: holds {len(value):,} characters, in which a weight could hide"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _long_values(str(key), f"{where}{'.' if where else ''}(name)")
            yield from _long_values(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        if len(value) > LONGEST_TEXT and all(isinstance(item, int | float) for item in value):
            yield f"{where}: holds {len(value):,} numbers, in which a weight could hide"
        for index, inner in enumerate(value):
            if isinstance(inner, str | Mapping | list):
                yield from _long_values(inner, f"{where}[{index}]")
