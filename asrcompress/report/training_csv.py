"""The history of trainings as CSV: a line per evaluation of the development set, every number that it holds a column of its own."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from asrcompress.report.rows import Report

FIRST = ("update", "epoch", "learning_rate", "metric", "loss", "training_loss", "mask_divergence")


def render(report: Report) -> str:
    """The histories of all models of a report; one that was evaluated twice is two rows of it and has its history once."""
    trained = [s for row in report.rows for s in row.measured.sidecars if s.record.get("training")]
    return history_csv(*{sidecar.sha256: sidecar.record for sidecar in trained}.values())


def history_csv(*records: dict[str, Any]) -> str:
    """CSV text with a heading line and "\\n" line ends; a field is empty where nothing was measured.

    Args:
        records: sidecars that `sidecar.check` has passed; what has no `training` block has no lines.

    Returns:
        Per line: the file of the model, its sha256, the name of the metric (`metric` is a fraction, losses are nats a
        token), `is_best` where the file holds the weights of this evaluation, then its numbers; those within
        further objects, such as the parts of a loss, with a dotted name.
    """
    lines = [
        (record, block, _flat(line))
        for record in records
        if (block := record.get("training"))
        for line in block["history"]
    ]
    found = [name for _, _, line in lines for name in line]
    objects = {name.rpartition(".")[0] for name in found}  # null in the lines that have none
    names = [name for name in dict.fromkeys([*FIRST, *found]) if name not in objects]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["model", "sha256", "metric_name", "is_best", *names])
    for record, block, line in lines:
        is_best = line["update"] == block["best"]["update"]
        model = record["model"]
        cells: Sequence[Any] = [line.get(name) for name in names]
        writer.writerow(
            [model["file"], model["sha256"], block["metric"], str(is_best).lower()]
            + ["" if cell is None else cell for cell in cells]
        )
    return stream.getvalue()


def _flat(line: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in line.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
