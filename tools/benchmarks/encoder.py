"""The section on the encoder: tables of milliseconds and ratios, and whether the goal is met."""

from __future__ import annotations

from experiments.tables import NONE, table

from benchmarks.records import Record, Row

GOAL = "ort-int8"
BOUND = {"ours": "int8_gops", "torch": "float32_gops", "ort": "float32_gops", "ort-int8": "int8_gops"}
TITLES = {
    "layers": "The twelve layers, fed subsampled frames",
    "whole": "The whole encoder with its convolutions, fed filter banks",
}
Case = tuple[int, int]


def section(record: Record) -> str:
    """Both parts, as far as they were measured."""
    parts = [verdict(record["rows"]), ""]
    for part, title in TITLES.items():
        rows = [row for row in record["rows"] if row["part"] == part]
        if rows:
            parts += [f"**{title}**\n", milliseconds(rows), ""]
    layers = [row for row in record["rows"] if row["part"] == "layers"]
    peak = record["environment"]["peak"]
    said = (
        "What a core does, in 10^9 operations a second (a multiply-accumulate is two), and its share of what torch's own products of large square "
        f"matrices reach in the same run: {peak['float32_gops']:.0f} in float32, {peak['int8_gops']:.0f} in int8.\n"
    )
    return "\n".join([*parts, said, speeds(layers, peak)])


def cases(rows: list[Row]) -> list[Case]:
    """Width and batch, in the order measured."""
    return list(dict.fromkeys((row["dim"], row["batch"]) for row in rows))


def _by_case(rows: list[Row]) -> dict[str, dict[Case, Row]]:
    found: dict[str, dict[Case, Row]] = {}
    for row in rows:
        found.setdefault(row["contestant"], {})[row["dim"], row["batch"]] = row
    return found


def _title(case: Case) -> str:
    return f"d = {case[0]}, batch {case[1]}"


def milliseconds(rows: list[Row]) -> str:
    """CPU milliseconds, and how many times as fast as torch in float and as ONNX Runtime in int8; the largest error."""
    lines = []
    for found in _by_case(rows).values():
        row = next(iter(found.values()))
        if failed := [each["error"] for each in found.values() if "error" in each]:
            lines.append([row["label"], *([f"does not run: {failed[0]}"] * len(cases(rows))), NONE])
            continue
        cells = [_cell(found[case]) if case in found else NONE for case in cases(rows)]
        lines.append([row["label"], *cells, f"{max(each['relative_error'] for each in found.values()):.4f}"])
    return table(["CPU ms · x torch eager · x ONNX Runtime int8", *map(_title, cases(rows)), "error"], lines)


def _cell(row: Row) -> str:
    ratios = [f"{row[key]:.2f}" if row.get(key) else NONE for key in ("speed_vs_torch", f"speed_vs_{GOAL}")]
    return " · ".join([f"{row['cpu_ms']:.1f}" if row["cpu_ms"] < 1000 else f"{row['cpu_ms']:.0f}", *ratios])


def speeds(rows: list[Row], peak: dict[str, float]) -> str:
    """GOP/s of the ones that matter for what bounds them, and their share of what large products reach."""
    found = _by_case(rows)
    lines = []
    for name, kind in BOUND.items():
        if name in found:
            label = next(iter(found[name].values()))["label"]
            shares = [
                f"{found[name][case]['gops']:.0f} ({found[name][case]['gops'] / peak[kind]:.2f})"
                if "gops" in found[name].get(case, {})
                else NONE
                for case in cases(rows)
            ]
            lines.append([label, *shares])
    return table(["GOP/s (of the peak)", *map(_title, cases(rows))], lines)


def verdict(rows: list[Row]) -> str:
    """Where the artifact stands beside ONNX Runtime's int8 and torch's float32, in words."""
    ratios = {
        (row["part"], row["dim"], row["batch"]): row.get(f"speed_vs_{GOAL}")
        for row in rows
        if row["contestant"] == "ours"
    }
    known = [ratio for ratio in ratios.values() if ratio]
    to_torch = [row["speed_vs_torch"] for row in rows if row["contestant"] == "ours" and row.get("speed_vs_torch")]
    if not known or not to_torch:
        return ""
    is_met = min(known) >= 1
    return (
        f"**The W8A8 artifact is {min(known):.2f} to {max(known):.2f} times as fast as ONNX Runtime's dynamic int8 and {min(to_torch):.2f} to "
        f"{max(to_torch):.2f} times as fast as torch's float32.** The goal, at least ONNX Runtime's int8, is {'met' if is_met else 'not met'}"
        f"{'' if is_met or max(known) < 1 else ' everywhere'}."
    )
