"""The figures of all rows as one small file, docs/experiments/ablation.json: read from what the commands wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.ablation import Row
from experiments.results import ROOT, Figures, conditions_of, figures_of, float_figures, read_json

FILE = ROOT / "docs" / "experiments" / "ablation.json"
SUFFIXES = ("eval", "own.eval")  # of evaluations: the composed test set, the data's own
NUM_RESAMPLES, CONFIDENCE, SEED = 1000, 0.95, 0  # of relative differences: the draws of `eval --baseline`


@dataclass(frozen=True)
class Relative:
    """WER / the float model's - 1, with its interval over the same draws of utterances."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Made:
    """One file.

    size_bytes: of the file, entropy coded. uncoded_bytes: without that. honesty: the level that the audit found. bytes: of its packed
    and sparse weights, see ablation_bytes.py. evaluations, relative: by suffix; relative is None where the float model makes no
    error. training: None where it was not trained.
    """

    name: str
    options: dict[str, Any]
    size_bytes: int
    uncoded_bytes: int
    honesty: str | None
    bytes: dict[str, float]
    evaluations: dict[str, Figures]
    relative: dict[str, Relative | None]
    training: dict[str, Any] | None

    @property
    def test(self) -> Figures:
        """The composed test set."""
        return self.evaluations["eval"]


@dataclass(frozen=True)
class Ablation:
    """All of it. conditions: what holds for every row. model_size_bytes: of the float model, without optimizer state."""

    conditions: dict[str, Any]
    model_size_bytes: int
    float_model: dict[str, Figures]
    rows: dict[str, Made]


def collect(out: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """What ablation.json holds; `out` needs no models."""
    floats = {suffix: read_json(out / f"float.{suffix}.json") for suffix in SUFFIXES}
    made = {row.name: _row(out, row) for row in rows}
    training = next((each["training"] for each in made.values() if "training" in each), {})
    device = out / "device.json"
    about = {key: training[key] for key in ("train", "dev") if key in training}
    for each in made.values():
        for key in about:
            each.get("training", {}).pop(key, None)
    return {
        "conditions": conditions_of(floats) | about | {"trained_on": read_json(device) if device.is_file() else None},
        "float": float_figures(floats),
        "rows": made,
    }


def _row(out: Path, row: Row) -> dict[str, Any]:
    artifact = read_json(out / f"{row.name}.safetensors.json")
    metrics, training = artifact["metrics"], artifact.get("training")
    found: dict[str, Any] = {
        "options": row.options,
        "size_bytes": metrics["size_bytes"],
        "uncoded_bytes": metrics["size_bytes_without_entropy_coding"],
        "honesty": artifact.get("honesty", {}).get("reached"),
        "bytes": read_json(out / f"{row.name}.bytes.json"),
    }
    if training:
        found["training"] = _training(training)
    for suffix in SUFFIXES:
        found[suffix] = figures_of(read_json(out / f"{row.name}.{suffix}.json"))
        found[suffix]["relative"] = pair(out, row.name, suffix)
    return found


def _training(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a sidecar's `training`: options, the dev set before, at its best, and of the file, and the sum of mask changes."""
    best = record["best"]
    divergences = [line["mask_divergence"] for line in record["history"] if line["mask_divergence"] is not None]
    return {
        "options": record["options"],
        "train": record["train"],
        "dev": record["dev"],
        "num_updates": record["num_updates"],
        "before": [round(record["before"][key], 6) for key in ("metric", "loss")],
        "best": [round(best[key], 6) for key in ("metric", "loss")],
        "best_epoch": round(best["epoch"], 2),
        "written": [round(record["written"][key], 6) for key in ("metric", "loss")],
        "mask_divergence": round(sum(divergences), 6) if divergences else None,
    }


def pair(out: Path, name: str, suffix: str) -> list[float] | None:
    """Relative difference of WER to the float model, [value, low, high], from both evaluations' utterances."""
    from asrcompress.ops.baseline import read_baseline

    own, other = (read_baseline(out / f"{each}.{suffix}.json") for each in (name, "float"))
    if (
        own.record["data"]["sha256"] != other.record["data"]["sha256"]
        or own.utterances.keys() != other.utterances.keys()
    ):
        raise ValueError(f"{name} and the float model were evaluated on different sets")
    lines = own.utterances.values()
    found = relative([line["errors"] for line in lines], [other.utterances[line["id"]]["errors"] for line in lines])
    return None if found is None else [round(value, 6) for value in (found.value, found.low, found.high)]


def relative(errors: Sequence[int], baseline: Sequence[int]) -> Relative | None:
    """sum(errors) / sum(baseline) - 1 and its percentile interval over draws of utterances; None where nothing is wrong in `baseline`.

    Both are of the same utterances, so that reference words cancel. Draws without an error of the baseline have no ratio and are left out.
    """
    from asrcompress.metrics.bootstrap import draw_indices, percentiles

    own, other = np.asarray(errors), np.asarray(baseline)
    if not other.sum():
        return None
    blocks, drawn = [], 0
    for indices in draw_indices(len(own), NUM_RESAMPLES, SEED):
        numerator, denominator = own[indices].sum(axis=1), other[indices].sum(axis=1)
        blocks.append(numerator[denominator > 0] / denominator[denominator > 0] - 1)
        drawn += len(indices)
        if drawn >= NUM_RESAMPLES:
            break
    low, high = percentiles(np.concatenate(blocks)[:NUM_RESAMPLES], CONFIDENCE)
    return Relative(float(own.sum() / other.sum() - 1), low, high)


def write_results(record: dict[str, Any], path: Path = FILE) -> None:
    """One line per row, so that a change reads well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(made)}" for name, made in record["rows"].items())
    head = "".join(f' "{key}": {json.dumps(record[key])},\n' for key in ("conditions", "float"))
    path.write_text(f'{{\n{head} "rows": {{\n{rows}\n }}\n}}\n', encoding="utf-8")


def read_results(path: Path = FILE) -> Ablation:
    """What ablation.json holds."""
    return parse(read_json(path))


def parse(record: Mapping[str, Any]) -> Ablation:
    """What `collect` gives, as records."""
    own = {suffix: Figures(**record["float"][suffix]) for suffix in SUFFIXES}
    rows = {name: _made(name, made) for name, made in record["rows"].items()}
    return Ablation(record["conditions"], record["float"]["size_bytes"], own, rows)


def _made(name: str, made: Mapping[str, Any]) -> Made:
    evaluations, relatives = {}, {}
    for suffix in SUFFIXES:
        figures = dict(made[suffix])
        found = figures.pop("relative")
        evaluations[suffix] = Figures(**figures)
        relatives[suffix] = None if found is None else Relative(*found)
    kept = {key: made[key] for key in ("options", "size_bytes", "uncoded_bytes", "honesty", "bytes")}
    return Made(name=name, **kept, evaluations=evaluations, relative=relatives, training=made.get("training"))
