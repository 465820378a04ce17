"""Which honesty level a run proves, and what stands in the way of the next one.

Levels, each including the ones before: float, partial (some weights are packed), stored (all that can be are, and
the bytes say so), computed (every MAC on integer operands with int32 sums), integer-only (no float operation between
features and logits). A finding is one line that names a tensor, module or operation and the level it rules out.
The run is judged here; the file is in honesty_file.py, shares are in honesty_coverage.py.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from asrcompress.grids import code_range
from asrcompress.metrics.trace import LEAVE, OpRecord, Trace, codes_pointer

LEVELS = ("float", "partial", "stored", "computed", "integer-only")
SUM_DTYPES = ("int32", "int64")
OPERAND_BITS = 8  # what products may multiply
SUM_BITS = 32
CONTAINERS = (nn.ModuleDict, nn.ModuleList)  # never called: what they hold belongs to the module around them


@dataclass(frozen=True)
class Finding:
    """text: one line, naming what and where. level: the lowest level that this rules out."""

    level: str
    text: str


@dataclass(frozen=True)
class Holder:
    """A module that computes with packed weights: its name, and the weights by their names as modules."""

    name: str
    kind: str
    weights: dict[str, nn.Module]

    @property
    def num_bits(self) -> int:
        """Bits of its weights; the widest where they differ."""
        return max(_claimed_bits(weight) for weight in self.weights.values())


def holders(model: nn.Module) -> list[Holder]:
    """Every module that holds packed weights: `codes` of its own, or of a child (in ModuleDicts and lists, too).

    A tied weight is listed under each of the modules that hold it.
    """
    found = []
    for name, module in model.named_modules():
        if isinstance(module, CONTAINERS):
            continue
        weights = dict(_packed_children(name, module))
        if weights:
            found.append(Holder(name, type(module).__name__, weights))
    inner = {weight for holder in found for weight in holder.weights if weight != holder.name}
    return [holder for holder in found if holder.name not in inner]


def _claimed_bits(weight: nn.Module) -> int:
    return int(weight.num_bits)  # type: ignore[arg-type]


def _packed_children(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if codes_pointer(module):
        yield name, module
    for child_name, child in module.named_children():
        full = f"{name}.{child_name}" if name else child_name
        if codes_pointer(child):
            yield full, child
        elif isinstance(child, CONTAINERS):
            yield from _packed_children(full, child)


def reached(findings: Iterable[Finding], *, any_packed: bool) -> str:
    """The highest level that no finding rules out. Without a packed weight, a model is float."""
    if not any_packed:
        return "float"
    return LEVELS[min([LEVELS.index(finding.level) for finding in findings], default=len(LEVELS)) - 1]


def judge_run(model: nn.Module, trace: Trace, *, is_whole: bool = True, unused: Container[str] = ()) -> list[Finding]:
    """What the run shows, in its order.

    Args:
        model: what was run.
        trace: its run.
        is_whole: whether the run was meant to reach every module.
        unused: modules that need not run, since the float model's do not either.
    """
    packed = holders(model)
    findings = [Finding("stored", text) for text in codes_out_of_range(packed)]
    idle = [holder for holder in never_ran(packed, trace) if is_whole and holder.name not in unused]
    for holder in idle:
        text = f"{holder.name} ({holder.kind}): is packed but never ran: no MAC and no lookup happened in it"
        findings.append(Finding("stored", text))
    for record in trace.ops:
        if record.macs and record.inside:
            findings += [Finding("computed", text) for text in _product_faults(record)]
    findings += [Finding("integer-only", line) for line in float_lines(trace)]
    for crossing in trace.crossings:
        if crossing.fault:
            way = "leaves the integers" if crossing.op == LEAVE else "enters integers"
            where = _where(crossing.module, "")
            findings.append(Finding("integer-only", f"{where}: {way} inside of the model: {crossing.fault}"))
    return findings


def codes_out_of_range(packed: list[Holder]) -> Iterator[str]:
    """Packed weights whose codes do not fit the bits that they claim."""
    for name, weight in {name: weight for holder in packed for name, weight in holder.weights.items()}.items():
        codes: Tensor = weight._buffers["codes"]  # type: ignore[assignment]
        num_bits = _claimed_bits(weight)
        low, high = code_range(num_bits, symmetric=weight._buffers.get("zero_point") is None)
        if codes.numel() and (int(codes.min()) < low or int(codes.max()) > high):
            yield (
                f"{name}: claims {num_bits} bits and holds codes {int(codes.min())}..{int(codes.max())}; "
                f"{num_bits} bits are {low}..{high}"
            )


def never_ran(packed: list[Holder], trace: Trace) -> list[Holder]:
    """Modules whose packed weights took part in nothing: neither a MAC nor a lookup happened in them."""
    multiplied = {record.module for record in trace.ops if record.macs and record.inside}
    return [
        holder
        for holder in packed
        if multiplied.isdisjoint({holder.name, *holder.weights})
        and not any(holder.name in trace.lookups.get(codes_pointer(w), ()) for w in holder.weights.values())
    ]


def _product_faults(record: OpRecord) -> Iterator[str]:
    where = f"{_where(record.module, record.kind)}: {record.op}"
    if record.floats:
        yield f"{where}: {record.macs:,} MACs on {' x '.join(record.operand_dtypes)}"
        return
    sums = record.output_dtypes[0] if record.output_dtypes else ""
    if sums not in SUM_DTYPES:
        yield f"{where}: sums its products in {sums}, which overflows; int32 is due"
    if (record.operand_bits or 0) > OPERAND_BITS:
        yield f"{where}: multiplies values of {record.operand_bits} bits where {OPERAND_BITS} are claimed"
    if sums == "int32" and (record.sum_bits or 0) > SUM_BITS:
        yield f"{where}: its sums may need {record.sum_bits} bits and are kept in 32"


def float_lines(trace: Trace) -> Iterator[str]:
    """One line per module and float operation left."""
    for entry in float_ops(trace):
        dtypes = ", ".join(entry["dtypes"])
        yield f"{_where(entry['module'], entry['class'])}: {entry['op']}: float operation ({dtypes}), {entry['calls']} calls"


def float_ops(trace: Trace) -> list[dict]:
    """Every float operation left inside of the model, once per module: its calls, dtypes and an example's shape."""
    merged: dict[tuple[str, str], dict] = {}
    for record in trace.float_ops:
        new = {
            "module": record.module, "class": record.kind, "op": record.op, "calls": 0,
            "dtypes": [], "shape": list(record.shape),
        }  # fmt: skip
        entry = merged.setdefault((record.module, record.op), new)
        entry["calls"] += record.calls
        seen = {*entry["dtypes"], *record.input_dtypes, *record.output_dtypes}
        entry["dtypes"] = sorted(seen | ({"float number"} if record.floats == "float number" else set()))
    return list(merged.values())


def _where(module: str, kind: str) -> str:
    if not module:
        return f"the model itself ({kind})" if kind else "the model itself"
    return f"{module} ({kind})" if kind else module
