"""The sections on whole evaluations, on decoding at each level and on keyword models as C."""

from __future__ import annotations

from experiments.tables import NONE, percent, table

from benchmarks.records import Record, Row

GOAL = 1.5


def section(record: Record) -> str:
    """Processes, then parts."""
    whole = [row for row in record["rows"] if row["part"] == "process"]
    parts = [row for row in record["rows"] if row["part"] != "process"]
    lines = [
        [
            row["label"], str(row["batch_size"]), f"{row['cpu_s']:.1f}", f"{row['wall_s']:.1f}", f"{row['real_time_factor']:.4f}",
            _times(row, "speed_vs_float"), _times(row, "speed_vs_float_real_time"), percent(row["wer"]),
        ]
        for row in whole
    ]  # fmt: skip
    heading = ["process", "batch", "CPU s", "s", "real-time factor", "x float, CPU", "x float, real-time factor", "WER"]
    names = list(dict.fromkeys(row["part"] for row in parts))
    cells = {(row["label"], row["part"]): row for row in parts}
    labels = list(dict.fromkeys(row["label"] for row in parts))
    inside = [[label, *(_part(cells[label, name]) for name in names)] for label in labels]
    text = [f"{verdict(whole)}{inner(parts)}", "", table(heading, lines)]
    if parts:
        first = parts[0]
        text += [
            f"\nWhere the time goes, one utterance at a time ({first['num_utterances']} utterances, CPU s per s of audio · x float):\n",
            table(["", *names], inside),
        ]
    return "\n".join(text)


def decoding(record: Record) -> str:
    """One line per system."""
    lines = [
        [row["system"], f"{row['cpu_s'] / row['audio_s']:.4f}", f"{row['speed_vs_float']:.2f}"]
        for row in record["rows"]
    ]
    return table(["", "CPU s per s of audio", "x float32"], lines)


def c_export(record: Record) -> str:
    """One line per artifact: bytes, equality, microseconds a step."""
    lines = [
        [
            f"`{row['artifact']}`", *(f"{row[key]:,}" for key in ("size_bytes", "flash_bytes", "ram_bytes")),
            f"{row['equal_clips']:,} of {row['clips']:,}", f"{row['equal_steps']:,} of {row['steps']:,}", f"{row['c_us']:.1f}",
            f"{row['torch_us']:.0f}", f"{row['torch_us'] / row['c_us']:.0f}", f"{row['macs_per_step'] / row['c_us']:.0f}",
        ]
        for row in record["rows"]
    ]  # fmt: skip
    heading = [
        "artifact", "file, bytes", "flash, bytes", "RAM, bytes", "clips equal", "steps equal", "C, µs a step", "torch, µs a step", "x torch",
        "10^6 MACs/s",
    ]  # fmt: skip
    on_arm = [row for row in record["rows"] if row.get("arm")]
    return table(heading, lines) + (f"\n\n{_arm(on_arm)}" if on_arm else "")


def _arm(rows: list[Row]) -> str:
    """The same sources compiled for Cortex-M, as the bench's own compiler and emulator saw them."""
    cores = list(rows[0]["arm"]["flash_bytes"])
    lines = [
        [
            f"`{row['artifact']}`", *(f"{row['arm']['flash_bytes'][core]:,}" for core in cores),
            f"{row['arm']['equal_steps']:,} of {row['arm']['steps']:,}", f"{row['arm']['instructions_per_step']:,}",
        ]
        for row in rows
    ]  # fmt: skip
    heading = ["artifact", *(f"flash on {core}, bytes" for core in cores), "steps equal", "instructions a step"]
    return table(heading, lines)


def verdict(rows: list[Row]) -> str:
    """Whether W8A8 is as many times faster than float as it should be."""
    found = [row for row in rows if row["system"] == "computed" and row.get("speed_vs_float_real_time")]
    if not found:
        return ""
    by_size = ", ".join(f"{row['speed_vs_float_real_time']:.2f} at batch {row['batch_size']}" for row in found)
    best = max(row["speed_vs_float_real_time"] for row in found)
    return (
        f"**W8A8 is {by_size} times as fast as float at the same batch, by the real-time factor.** The goal, {GOAL} times, is "
        f"{'met' if all(row['speed_vs_float_real_time'] >= GOAL for row in found) else 'met in part' if best >= GOAL else 'not met'}."
    )


def inner(rows: list[Row]) -> str:
    """The same by CPU time of features and search, which other work on the machine sways less than the clock."""
    found = [row for row in rows if (row["system"], row["part"]) == ("computed", "all") and row.get("speed_vs_float")]
    return (
        f" By CPU time of features and search, one utterance at a time, it is {found[0]['speed_vs_float']:.2f}."
        if found
        else ""
    )


def _times(row: Row, key: str) -> str:
    return f"{row[key]:.2f}" if row.get(key) else NONE


def _part(row: Row) -> str:
    return f"{row['cpu_s'] / row['audio_s']:.4f} · {_times(row, 'speed_vs_float')}"
