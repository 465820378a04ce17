"""What came out of a sweep, best first: WER on composed dev utterances, beside the float model, and on the set that chose the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.results import Figures, figures_of, read_json
from experiments.tables import NONE, paired, percent, table

SUFFIX = "dev.eval"


def sweep_table(folder: Path, names: Sequence[str]) -> str:
    """A markdown table of the files in `folder`; those that failed come last."""
    heading = [
        "row",
        "WER, composed dev",
        "less float's, points",
        "loss, dev",
        "WER, dev: before",
        "best",
        "at epoch",
        "bytes",
    ]
    found = [(name, _figures(folder, name)) for name in names]
    done = sorted(((name, one) for name, one in found if one), key=lambda each: each[1].wer)
    rows = [[f"`{name}`", percent(one.wer), paired(one), *_training(folder, name)] for name, one in done]
    rows += [[f"`{name}`", "failed", *[NONE] * 6] for name, one in found if not one]
    return table(heading, rows)


def _figures(folder: Path, name: str) -> Figures | None:
    path = folder / f"{name}.{SUFFIX}.json"
    return Figures(**figures_of(read_json(path))) if path.is_file() else None


def _training(folder: Path, name: str) -> list[str]:
    record: dict[str, Any] = read_json(folder / f"{name}.safetensors.json")
    training, size = record["training"], record["metrics"]["size_bytes"]
    before, best = training["before"], training["best"]
    return [
        f"{best['loss']:.4f}", percent(before["metric"]), percent(best["metric"]), f"{best['epoch']:g}", f"{size:,}"
    ]  # fmt: skip
