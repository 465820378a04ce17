"""What an artifact's bytes prove: sizes, codes, N:M groups, and no float copy of a packed weight hidden anywhere.

Sees tensors and a byte ledger, never the run (honesty.py). A copy is recognised by its values, whatever its name, type,
order of axes or neighbours: a tensor, its bytes read as floats, or bytes that no tensor claims.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asrcompress.grids import QuantizedWeight, code_range
from asrcompress.mapped import outlines, release
from asrcompress.metrics.honesty import Finding
from asrcompress.metrics.honesty_nm import count_pattern, detect_pattern
from asrcompress.packing import packed_size_bytes
from asrcompress.patterns import pattern_name
from asrcompress.stored_weight import data_sizes, kept

COPY = 0.99  # correlation with a packed weight from which a tensor is a copy of it
COUNT_AT_ONCE = 1 << 20  # codes
# Of values as many as LARGE, some are compared first; all of them where those correlate nearly as a copy's would.
LARGE, SAMPLED, MAYBE_COPY = 1 << 20, 1 << 13, 0.9
SMALLEST_COPY = 32  # values; fewer correlate by chance
LONGEST_TEXT = 4096  # characters of one string, or numbers in one list, that a configuration may hold
FLOAT_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class FileVerdict:
    """findings: what contradicts level `stored`. miscounts: claims about zeros that a count does not bear out, whatever the
    level. codes, sparse: a row for every packed and every sparse float weight."""

    findings: list[Finding]
    miscounts: list[str]
    codes: list[dict[str, Any]]
    sparse: list[dict[str, Any]]


@dataclass(frozen=True)
class WeightFacts:
    """What is counted in one packed weight, so that no more than one needs to be in memory.

    row: of the code table. due: bytes of its data by part. symmetric: of its grid. num_codes, num_scales: elements.
    fault: what its pattern claims and a group breaks; "" without.
    """

    row: dict[str, Any]
    due: dict[str, int]
    symmetric: bool
    num_codes: int
    num_scales: int
    fault: str


def judge_file(
    quantized: Mapping[str, QuantizedWeight],
    others: Mapping[str, Tensor],
    ledger: list[dict[str, Any]],
    *,
    size_bytes: int,
    gaps: Mapping[str, bytes],
    record: Mapping[str, Any],
    facts: Mapping[str, WeightFacts] | None = None,
) -> list[Finding]:
    """What in the file contradicts level `stored`.

    Args:
        quantized: packed weights by name.
        others: every other tensor of the file.
        ledger: the file's bytes by what they are for, as artifact.byte_ledger gives them.
        size_bytes: of the file, by stat.
        gaps: bytes that belong to no tensor, by where they are (empty in an honest file).
        record: the file's JSON, in which a copy could hide as text or numbers.
        facts: of the packed weights, where they were counted before.
    """
    if facts is None:
        facts = {name: count_weight(name, quantized[name]) for name in quantized}
    lines = [*_size_faults(facts, ledger, size_bytes), *_code_faults(facts)]
    lines += list(hidden_copies(quantized, others, gaps))
    lines += [f"{where}: {len(data):,} bytes that belong to no tensor" for where, data in gaps.items() if data]
    lines += [f"asrcompress.json: {what}" for what in _long_values(record, "")]
    lines += [fact.fault for fact in facts.values() if fact.fault]
    return [Finding("stored", line) for line in lines]


def code_table(quantized: Mapping[str, QuantizedWeight]) -> list[dict[str, Any]]:
    """One row per packed weight: distinct codes per channel, range, histogram, bits with scales, pattern.

    histogram: codes counted in up to 16 bins of equal width from the smallest code of two's complement. kept_per_group: where
    a pattern is claimed, how many groups have 0, 1, ... values that are not zero. pattern: what every group keeps to.
    """
    return [count_weight(name, quantized[name]).row for name in quantized]


def count_weight(name: str, weight: QuantizedWeight) -> WeightFacts:
    """Count one packed weight's codes, groups and bytes."""
    distinct, total = _count_codes(weight.codes)
    present = total.nonzero()[0] - 128
    width = max(weight.num_bits, 2)
    low, bin_width = -(2 ** (width - 1)), 2 ** max(width - 4, 0)
    bins = np.bincount(
        np.clip((np.arange(-128, 128) - low) // bin_width, 0, None), weights=total, minlength=2 ** min(width, 4)
    ).astype(np.int64)
    bins = bins[: max(int(bins.nonzero()[0][-1]) + 1, 2 ** min(width, 4))]
    extra = weight.scale.numel() * weight.scale.element_size()
    if weight.zero_point is not None:
        extra += packed_size_bytes(weight.zero_point.numel(), weight.num_bits)
    due = data_sizes(weight)
    mask = kept(weight)
    count = count_pattern(mask, *weight.pattern, name) if isinstance(weight.pattern, tuple) else None
    claim_holds = weight.pattern is not None and count is not None and not count.fault
    row = {
        "name": name,
        "num_bits": weight.num_bits,
        "granularity": str(weight.granularity),
        "method": weight.method,
        "distinct_min": int(distinct[0]),
        "distinct_median": int(distinct[(len(distinct) - 1) // 2]),
        "distinct_max": int(distinct[-1]),
        "min": int(present[0]),
        "max": int(present[-1]),
        "histogram": bins.tolist(),
        "bits_per_weight": 8 * (sum(due.values()) + extra) / weight.codes.numel(),
        "pattern": pattern_name(weight.pattern) if claim_holds and weight.pattern else detect_pattern(mask),
        "kept_per_group": list(count.histogram) if count else None,
    }
    fault = count.fault if count else ""
    symmetric = weight.zero_point is None
    return WeightFacts(row, due, symmetric, weight.codes.numel(), weight.scale.numel(), fault)


def _count_codes(codes: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(distinct codes of each row, sorted; how often each of -128 .. 127 occurs) of (rows, columns) int8."""
    rows, columns = codes.shape
    total, distinct = np.zeros(256, dtype=np.int64), []
    values, step = codes.numpy(), max(1, COUNT_AT_ONCE // columns)
    for begin in range(0, rows, step):
        chunk = values[begin : begin + step].astype(np.int64) + 128
        chunk += 256 * np.arange(len(chunk))[:, None]
        counts = np.bincount(chunk.reshape(-1), minlength=256 * len(chunk)).reshape(-1, 256)
        total += counts.sum(axis=0)
        distinct.append((counts > 0).sum(axis=1))
    return np.sort(np.concatenate(distinct)), total


def hidden_copies(
    quantized: Mapping[str, QuantizedWeight],
    others: Mapping[str, Tensor],
    gaps: Mapping[str, bytes],
    sparse: Mapping[str, SparseWeight] | None = None,
) -> Iterator[str]:
    """Name every tensor, and every stretch of unclaimed bytes, that holds a packed or sparse weight's values in float."""
    weights = ChainMap[str, Weight](dict(quantized), dict(sparse or {}))
    by_size: dict[int, list[str]] = {}
    for group in (quantized, sparse or {}):
        for name, weight in outlines(group).items():
            by_size.setdefault(math.prod(weight.shape), []).append(name)
def _readings(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor as flat floats: its own values, or what its bytes are when they are read as floats."""
    if tensor.dtype.is_floating_point:
        yield tensor.detach().flatten()
        return
    if not tensor.dtype.is_complex:
        yield tensor.flatten()
    data = tensor.contiguous().flatten().view(torch.uint8)
    for dtype in FLOAT_TYPES:
        usable = len(data) - len(data) % dtype.itemsize
        if usable:
            yield data[:usable].clone().view(dtype)


def _copy_in(
    readings: Iterator[Tensor], by_size: Mapping[int, list[str]], quantized: Mapping[str, QuantizedWeight]
) -> tuple[str, float] | None:
    """The packed weight that flat values are, begin with or end with, and how well they correlate."""
    for values in readings:
        for size, names in by_size.items():
            if size < SMALLEST_COPY or len(values) < size:
                continue
            parts = [values[:size]] if len(values) == size else [values[:size], values[-size:]]
            for part, name in itertools.product(parts, names):
                if not torch.isfinite(part).all():
                    continue
                best = max(_correlations(part, quantized[name].dequantize()), default=0.0)
                if best > COPY:
                    return name, best
    return None


def _correlations(values: Tensor, weight: Tensor) -> Iterator[float]:
    """|correlation| of flat values with a weight in every order of its axes, and as rows and columns swapped."""
    shapes = [weight, weight.reshape(weight.shape[0], -1)] if weight.dim() > 2 else [weight]
    if values.numel() >= LARGE:
        places = torch.randint(values.numel(), (SAMPLED,), generator=torch.Generator().manual_seed(0))
        if max(_sampled_correlations(values[places], shapes, places), default=0.0) < MAYBE_COPY:
            return
    values = values.double()
    values = values - values.mean()
    norm = float(values.norm())
    for shaped in shapes:
        centered = shaped.double() - shaped.double().mean()
        scale = norm * float(centered.norm())
        if scale > 0:
            for axes in itertools.permutations(range(shaped.dim())):
                yield abs(float(values @ centered.permute(axes).flatten())) / scale


def _sampled_correlations(values: Tensor, shapes: list[Tensor], places: Tensor) -> Iterator[float]:
    """`_correlations` at some flat places of the values alone."""
    values = values.double()
    values = values - values.mean()
    norm = float(values.norm())
    for shaped in shapes:
        for axes in itertools.permutations(range(shaped.dim())):
            permuted = shaped.permute(axes)
            found = permuted[torch.unravel_index(places, permuted.shape)].double()
            found = found - found.mean()
            if norm * float(found.norm()) > 0:
                yield abs(float(values @ found)) / (norm * float(found.norm()))


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
