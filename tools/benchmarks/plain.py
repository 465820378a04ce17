"""Sections that are a table of a bench's rows as they are, and those on big models and on start-up."""

from __future__ import annotations

from typing import Any

from experiments.tables import NONE, table

from benchmarks.records import Record, Row

UNITS = {
    "_bytes": "bytes",
    "_gbps": "GB/s",
    "_cpu_s": "CPU s",
    "_wall_s": "s",
    "_ms": "ms",
    "_s": "s",
    "_ratio": "ratio",
}


def section(record: Record) -> str:
    """A column for each field that differs between rows or has a unit; what is the same in all is said above."""
    rows: list[Row] = record["rows"]
    fields = list(dict.fromkeys(key for row in rows for key in row if not isinstance(row[key], dict | list)))
    same = {key: rows[0].get(key) for key in fields if len(rows) > 1 and len({str(row.get(key)) for row in rows}) == 1}
    shown = [key for key in fields if key not in same]
    said = ", ".join(f"{_heading(key)} {_cell(value)}" for key, value in same.items() if value is not None)
    lines = [[_cell(row.get(key)) for key in shown] for row in rows]
    return (f"In all rows: {said}.\n\n" if said else "") + table([_heading(key) for key in shown], lines)


def big_model(record: Record) -> str:
    """Seconds, speed and peak memory of each command on each checkpoint."""
    lines = []
    for row in record["rows"]:
        what = f"{row['num_params'] / 1e9:.2f} billion {row['dtype']}, {row['input_bytes'] / 1e9:.2f} GB"
        size, peak, bound = (
            f"{row[key] / 1e9:.2f}" if row.get(key) else "" for key in ("output_bytes", "peak_rss_bytes", "bound_bytes")
        )
        speeds = [f"{row['input_bytes'] / 1e9 / row[key]:.3f}" for key in ("wall_s", "cpu_s")]
        name = f"`{row['command']}`" + (" FAILED" if row["exit_status"] else "")
        lines.append([what, name, size, f"{row['wall_s']:.0f}", f"{row['cpu_s']:.0f}", *speeds, peak, bound])
    heading = ["checkpoint", "command", "output, GB", "s", "CPU s", "GB/s", "GB per CPU s", "peak RSS, GB", "bound, GB"]
    return table(heading, lines)


def startup(record: Record) -> str:
    """CPU milliseconds of each process, and how many times those of what it is held against."""
    lines = [
        [
            f"`{row['process']}`" if "," not in row["process"] else row["process"], f"{row['cpu_ms']:.1f}",
            f"{row['times_as_much']:.2f} x `{row['beside']}`" if row["beside"] else NONE,
            f"{row['at_most']:g}" if row["at_most"] else NONE,
        ]
        for row in record["rows"]
    ]  # fmt: skip
    return table(["process", "CPU ms", "beside", "goal: at most"], lines)


def _heading(key: str) -> str:
    for ending, unit in UNITS.items():
        if key.endswith(ending):
            return f"{key.removesuffix(ending).replace('_', ' ')}, {unit}"
    return key.replace("_", " ")


def _cell(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
