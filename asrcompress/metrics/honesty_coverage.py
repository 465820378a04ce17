"""How much of a model is at which bits: parameters, bytes and MACs by (weight, activation).

A weight is "int4" or "float32" as it is stored, an activation as the products around it read it; "none" stands for
what is not there: the weight of a product of two activations, the activation of a table or a bias, both for bytes of
the file that are no parameters. Rows add up to the model's parameters, the file's bytes and the run's MACs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from asrcompress.metrics.honesty import OPERAND_BITS, Holder
from asrcompress.metrics.trace import OpRecord, Trace

WIDTHS = (8, 16, 32, 64)  # bits that integer operands are rounded up to


@dataclass(frozen=True)
class Stored:
    """A tensor of the model as the file has it; dtype such as "int4" or "float16"; is_matrix: two or more dimensions."""

    name: str
    dtype: str
    num_params: int
    size_bytes: int
    is_matrix: bool


def coverage(tensors: Iterable[Stored], trace: Trace, packed: list[Holder], *, size_bytes: int) -> list[dict[str, Any]]:
    """Rows of (weight, activation) with counts and shares, most MACs first.

    Args:
        tensors: every tensor of the model once, tied ones under one name.
        trace: a run of it.
        packed: the modules with packed weights, as honesty.holders gives them.
        size_bytes: of the file.
    """
    by_holder = {holder.name: holder for holder in packed}
    products = [record for record in trace.ops if record.macs and record.inside]
    rows: dict[tuple[str, str], dict[str, int]] = {}

    def add(weight: str, activation: str, **counts: int) -> None:
        row = rows.setdefault((weight, activation), {"num_params": 0, "size_bytes": 0, "macs": 0})
        for key, count in counts.items():
            row[key] += count

    activations: dict[str, str] = {}
    for record in products:
        holder = by_holder.get(record.module)
        activation = activation_of(record)
        add(_weight_of(record, holder), activation, macs=record.macs)
        for name in (record.module, *(holder.weights if holder else ())):
            activations[name] = max(activations.get(name, ""), activation, key=_bits)
    shared = {id(weight): activations.get(name, "") for h in packed for name, weight in h.weights.items()}
    for holder in packed:  # a tied weight: what its busiest module does with it
        for name, weight in holder.weights.items():
            shared[id(weight)] = max(
                shared[id(weight)], activations.get(name, ""), activations.get(holder.name, ""), key=_bits
            )
    for tensor in tensors:
        activation = _activation_for(tensor, activations, by_holder, shared)
        add(tensor.dtype, activation, num_params=tensor.num_params, size_bytes=tensor.size_bytes)
    rest = size_bytes - sum(row["size_bytes"] for row in rows.values())
    if rest > 0:  # header and names; a file may hold fewer bytes than its tensors have when they are shared
        add("none", "none", size_bytes=rest)
    totals = {key: sum(row[key] for row in rows.values()) for key in ("num_params", "size_bytes", "macs")}
    ordered = sorted(rows.items(), key=lambda item: (-item[1]["macs"], -item[1]["size_bytes"]))
    return [_row(weight, activation, counts, totals) for (weight, activation), counts in ordered]


def activation_of(record: OpRecord) -> str:
    """What the products of a record read: "int8", by the largest value seen and at least 8 bits, or a float type."""
    if record.floats or record.operand_bits is None:
        return record.operand_dtypes[0]
    bits = max(record.operand_bits, OPERAND_BITS)
    return f"int{next((width for width in WIDTHS if width >= bits), WIDTHS[-1])}"


def _weight_of(record: OpRecord, holder: Holder | None) -> str:
    if holder is not None:
        return f"int{holder.num_bits}"
    return record.operand_dtypes[-1] if record.parameter else "none"


def _activation_for(
    tensor: Stored, activations: Mapping[str, str], by_holder: Mapping[str, Holder], shared: Mapping[int, str]
) -> str:
    """What multiplies with a stored tensor: what the innermost module around its name multiplies, if it is a weight.

    A float tensor in a module whose products are of integers is none (a table that is added, say).
    """
    if not tensor.is_matrix:
        return "none"
    module = tensor.name.rpartition(".")[0]
    while module and module not in by_holder and module not in activations:
        module = module.rpartition(".")[0]
    if module in by_holder:
        found = max((shared[id(weight)] for weight in by_holder[module].weights.values()), key=_bits)
    else:
        found = activations.get(module, "")
    return "none" if not found or ("float" in tensor.dtype and "float" not in found) else found


def _bits(dtype: str) -> int:
    digits = re.search(r"\d+$", dtype)
    return int(digits.group()) + (1 if "float" in dtype else 0) if digits else 0


def _row(weight: str, activation: str, counts: Mapping[str, int], totals: Mapping[str, int]) -> dict[str, Any]:
    shares = {f"{key}_share": counts[key] / totals[key] if totals[key] else None for key in totals}
    return {
        "weight_dtype": weight,
        "weight_bits": _number(weight),
        "activation_dtype": activation,
        "activation_bits": _number(activation),
        **counts,
        **shares,
    }


def _number(dtype: str) -> int | None:
    digits = re.search(r"\d+$", dtype)
    return int(digits.group()) if digits else None
