"""The sections on big models and on start-up: a bench's rows as they are."""

from __future__ import annotations

from experiments.tables import NONE, table

from benchmarks.records import Record


def big_model(record: Record) -> str:
    """Seconds, speed and peak memory of each command on each checkpoint."""
    lines = []
    copies = {row["dtype"]: row["wall_s"] for row in record["rows"] if row["command"] == "copy"}
    for row in record["rows"]:
        what = f"{row['num_params'] / 1e9:.2f} billion {row['dtype']}, {row['input_bytes'] / 1e9:.2f} GB"
        size, peak, bound = (
            f"{row[key] / 1e9:.2f}" if row.get(key) else "" for key in ("output_bytes", "peak_rss_bytes", "bound_bytes")
        )
        speeds = [f"{row['input_bytes'] / 1e9 / row[key]:.3f}" for key in ("wall_s", "cpu_s")]
        name = f"`{row['command']}`" + (" FAILED" if row["exit_status"] else "")
        beside = f"{copies[row['dtype']] / row['wall_s']:.2f}" if row["dtype"] in copies else NONE
        lines.append([what, name, size, f"{row['wall_s']:.0f}", f"{row['cpu_s']:.0f}", *speeds, beside, peak, bound])
    heading = [
        "checkpoint",
        "command",
        "output, GB",
        "s",
        "CPU s",
        "GB/s",
        "GB per CPU s",
        "of the copy's GB/s",
        "peak RSS, GB",
        "bound, GB",
    ]
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
