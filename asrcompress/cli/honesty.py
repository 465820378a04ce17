"""The audit for people: levels, what contradicts the claim, coverage, and the floats that are left. No torch."""

from __future__ import annotations

from typing import Any

from asrcompress.cli.output import aligned

MOST_LINES = 20
NEXT = {"float": "partial", "partial": "stored", "stored": "computed", "computed": "integer-only"}


def honesty_lines(honesty: dict[str, Any]) -> list[str]:
    """The honesty block of a sidecar as lines of text."""
    claim = f"claims level {honesty['claimed']}, " if honesty["claimed"] else "claims no level, "
    lines = [f"honesty: {claim}reaches {honesty['reached']}"]
    if honesty.get("warning"):
        lines.append(f"WARNING: {honesty['warning']}")
    lines += aligned(_coverage(honesty["coverage"])) if honesty["coverage"] is not None else []
    lines += _codes(honesty["codes"]) + _sparse(honesty.get("sparse", []))
    lines += _some([f"VIOLATION: {line}" for line in honesty["violations"]])
    lines += [
        f"packed but used by no forward pass, the float model's included: {name}" for name in honesty["unused"] or []
    ]
    above = NEXT.get(honesty["reached"])
    if honesty["claimed"] and above in honesty["prevents"] and above != "integer-only":
        lines += [f"what is missing to level {above}:"]
        lines += _some([f"  {line}" for line in honesty["prevents"][above]], 5)
    if honesty["claimed"] and honesty["float_ops"] is not None:
        lines += _floats(honesty["float_ops"])
        lines += [
            f"crossing ({crossing['run']}): {crossing['op']} in {crossing['module'] or 'the model itself'}"
            + (f": {crossing['fault']}" if crossing["fault"] else "")
            for crossing in honesty["crossings"][:MOST_LINES]
        ]
    return lines


def _coverage(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    table: list[tuple[str, ...]] = [("weights", "activations", "params", "%", "bytes", "%", "MACs", "%")]
    for row in rows:
        if row["weight_dtype"] == row["activation_dtype"] == "none":
            cells = ["(no parameters)", ""]
        else:
            cells = ["-" if row[key] == "none" else row[key] for key in ("weight_dtype", "activation_dtype")]
        for key in ("num_params", "size_bytes", "macs"):
            share = row[f"{key}_share"]
            cells += [f"{row[key]:,}", "" if share is None else f"{share:.2%}"]
        table.append(tuple(cells))
    return table


def _codes(codes: list[dict[str, Any]]) -> list[str]:
    """Packed weights by their bits: how many, how many distinct codes their channels have, what they really take."""
    lines = []
    for num_bits in sorted({row["num_bits"] for row in codes}):
        rows = [row for row in codes if row["num_bits"] == num_bits]
        least, most = min(row["distinct_min"] for row in rows), max(row["distinct_max"] for row in rows)
        patterns = sorted({row["pattern"] for row in rows if row["pattern"]})
        widest = max(row["bits_per_weight"] for row in rows)
        line = f"{len(rows)} weights of {num_bits} bits: {least} to {most} distinct codes per channel"
        line += f", at most {widest:.2f} bits with scales"
        groups = sum(sum(row.get("kept_per_group") or ()) for row in rows)
        line += f", patterns {', '.join(patterns)}" if patterns else ""
        lines.append(line + (f", {groups:,} groups counted" if groups else ""))
    return lines


def _sparse(rows: list[dict[str, Any]]) -> list[str]:
    """Sparse float weights by their patterns: how many, how many values they keep, what they take, how much was counted."""
    lines = []
    for pattern, dtype in sorted({(row["pattern"] or "no pattern", row["dtype"]) for row in rows}):
        some = [row for row in rows if (row["pattern"] or "no pattern", row["dtype"]) == (pattern, dtype)]
        kept, count = sum(row["num_kept"] for row in some), sum(row["num_params"] for row in some)
        widest = max(row["bits_per_weight"] for row in some)
        groups = sum(sum(row["kept_per_group"] or ()) for row in some)
        line = f"{len(some)} sparse weights of {dtype}, {pattern}: {kept / count:.2%} of {count:,} values kept"
        line += f", at most {widest:.2f} bits"
        lines.append(line + (f", {groups:,} groups counted" if groups else ""))
    return lines


def _floats(float_ops: list[dict[str, Any]]) -> list[str]:
    """Float operations by module: what runs there, and how often."""
    if not float_ops:
        return ["float operations left inside of the model: none"]
    modules: dict[tuple[str, str, str], dict[str, int]] = {}
    for entry in float_ops:
        ops = modules.setdefault((entry["run"], entry["module"], entry["class"]), {})
        ops[entry["op"]] = ops.get(entry["op"], 0) + entry["calls"]
    lines = []
    for (run, module, kind), ops in modules.items():
        named = ", ".join(f"{op.removeprefix('aten.')} {calls}x" for op, calls in list(ops.items())[:6])
        more = f", and {len(ops) - 6} more" if len(ops) > 6 else ""
        prefix = "while decoding, " if run == "decoding" else ""
        lines.append(f"  {prefix}{module or 'the model itself'} ({kind}): {named}{more}")
    calls = sum(entry["calls"] for entry in float_ops)
    return [f"float operations left inside of the model: {calls:,} calls in {len(modules)} modules", *_some(lines)]


def _some(lines: list[str], most: int = MOST_LINES) -> list[str]:
    return lines if len(lines) <= most else [*lines[:most], f"  and {len(lines) - most} more in the sidecar"]
