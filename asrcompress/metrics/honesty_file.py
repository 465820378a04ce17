"""What an artifact's bytes prove: sizes, codes, N:M groups, and no float copy of a packed weight hidden anywhere.

Sees tensors and a byte ledger, never the run (honesty.py); weights are counted one by one in honesty_weight.py. A copy is
recognised by its values, whatever its name, type, order of axes or neighbours: a tensor, its bytes read as floats, or bytes
that no tensor claims.
"""

from __future__ import annotations

import itertools
import math
from collections import ChainMap
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from asrcompress.grids import QuantizedWeight
from asrcompress.mapped import outlines, release
from asrcompress.metrics.honesty import Finding
from asrcompress.metrics.honesty_weight import WeightFacts, count_weight
from asrcompress.sparse import SparseWeight

COPY = 0.99  # correlation with a packed weight from which a tensor is a copy of it
PART_NAMES = {"values": "kept values take", "pattern": "group codes take", "bitmask": "bitmask takes"}
# Of values as many as LARGE, some are compared first; all of them where those correlate nearly as a copy's would.
LARGE, SAMPLED, MAYBE_COPY = 1 << 20, 1 << 13, 0.9
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
    sparse: Mapping[str, SparseWeight] | None = None,
    facts: Mapping[str, WeightFacts] | None = None,
) -> list[Finding]:
    """What in the file contradicts level `stored`.

    Args:
        quantized: packed weights by name.
        others: every other tensor of the file but those of sparse weights.
        ledger: the file's bytes by what they are for, as artifact.byte_ledger gives them.
        size_bytes: of the file, by stat.
        gaps: bytes that belong to no tensor, by where they are (empty in an honest file).
        record: the file's JSON, in which a copy could hide as text or numbers.
        sparse: sparse float weights by name.
        facts: of the packed and sparse weights, where they were counted before.
    """
    if facts is None:
        facts = {name: count_weight(name, group[name]) for group in (quantized, sparse or {}) for name in group}
    lines = list(_size_faults(facts, ledger, size_bytes))
    lines += [line for fact in facts.values() for line in fact.faults]
    lines += list(hidden_copies(quantized, others, gaps, sparse))
    lines += [f"{where}: {len(data):,} bytes that belong to no tensor" for where, data in gaps.items() if data]
    lines += [f"asrcompress.json: {what}" for what in _long_values(record, "")]
    lines += [line for fact in facts.values() for line in fact.miscounts]
    return [Finding("stored", line) for line in lines]


def code_table(quantized: Mapping[str, QuantizedWeight]) -> list[dict[str, Any]]:
    """One row per packed weight, as `count_weight` says."""
    return [count_weight(name, quantized[name]).row for name in quantized]


def hidden_copies(
    quantized: Mapping[str, QuantizedWeight],
    others: Mapping[str, Tensor],
    gaps: Mapping[str, bytes],
    sparse: Mapping[str, SparseWeight] | None = None,
) -> Iterator[str]:
    """Name every tensor, and every stretch of unclaimed bytes, that holds a packed or sparse weight's values in float."""
    weights: ChainMap[str, Any] = ChainMap(quantized, sparse or {})  # type: ignore[arg-type]
    by_size: dict[int, list[str]] = {}
    for group in weights.maps:
        for name, weight in outlines(group).items():
            by_size.setdefault(math.prod(weight.shape), []).append(name)

    def what(name: str) -> str:
        return f"the {'packed' if name in quantized else 'sparse'} weight {name}"

    for name in others:
        tensor = others[name]
        found = _copy_in(_readings(tensor), by_size, weights)
        if found:
            dtype = str(tensor.dtype).removeprefix("torch.")
            yield (
                f"{name}: is a {dtype} copy of {what(found[0])} "
                f"({tensor.numel() * tensor.element_size():,} bytes, correlation {found[1]:.4f})"
            )
        release(tensor)
    for where, data in gaps.items():
        values = _readings(torch.frombuffer(bytearray(data), dtype=torch.uint8)) if data else iter(())
        found = _copy_in(values, by_size, weights)
        if found:
            yield f"{where}: hides a float copy of {what(found[0])} (correlation {found[1]:.4f})"


def _size_faults(facts: Mapping[str, WeightFacts], ledger: list[dict[str, Any]], size_bytes: int) -> Iterator[str]:
    total = sum(entry["size_bytes"] for entry in ledger)
    if total != size_bytes:
        yield f"ledger: {total:,} bytes are accounted for, the file has {size_bytes:,}"
    sizes = {entry["name"]: entry["size_bytes"] for entry in ledger}
    for name, fact in facts.items():
        for part, due in fact.due.items():
            found = sizes.get(f"{name}_{part}", 0)
            if found > due and part == "packed":
                yield f"{name}: takes {found:,} bytes where {fact.row['num_bits']} bits each are {due:,}"
            elif found > due:
                yield f"{name}: its {PART_NAMES[part]} {found:,} bytes where {due:,} are due"


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
    readings: Iterator[Tensor], by_size: Mapping[int, list[str]], weights: Mapping[str, Any]
) -> tuple[str, float] | None:
    """The weight that flat values are, begin with or end with, and how well they correlate."""
    for values in readings:
        for size, names in by_size.items():
            if size < SMALLEST_COPY or len(values) < size:
                continue
            parts = [values[:size]] if len(values) == size else [values[:size], values[-size:]]
            for part, name in itertools.product(parts, names):
                if not torch.isfinite(part).all():
                    continue
                best = max(_correlations(part, weights[name].dequantize()), default=0.0)
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
