"""The figures of all runs as one small file, docs/experiments/results.json: read from sidecars, and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.plan import all_runs
from experiments.run import EVALUATIONS

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "experiments" / "results.json"
RECIPE = (
    "num_bits",
    "granularity",
    "method",
    "level",
    "calibration_method",
    "intermediate_bits",
    "bias_correction",
    "rules",
)


@dataclass(frozen=True)
class Figures:
    """One evaluation. Rates are fractions; delta and its interval: paired with the float model, None for itself."""

    wer: float
    low: float
    high: float
    num_errors: int
    delta: float | None = None
    delta_low: float | None = None
    delta_high: float | None = None

    @property
    def is_worse(self) -> bool:
        """Whether the paired interval lies above 0."""
        return self.delta_low is not None and self.delta_low > 0

    @property
    def is_better(self) -> bool:
        """Whether the paired interval lies below 0."""
        return self.delta_high is not None and self.delta_high < 0


@dataclass(frozen=True)
class Result:
    """One run: its size and its evaluations by suffix (`eval`: test set, greedy; see run.py)."""

    name: str
    size_bytes: int
    recipe: dict[str, Any]
    picked: dict[str, int]
    audited: str | None
    evaluations: dict[str, Figures]

    @property
    def test(self) -> Figures:
        """The test set, greedy."""
        return self.evaluations["eval"]

    @property
    def level(self) -> str:
        """How far integers go."""
        return str(self.recipe["level"])


@dataclass(frozen=True)
class Results:
    """All of it. `conditions`: what holds for every run."""

    conditions: dict[str, Any]
    float_size_bytes: int
    float_model: dict[str, Figures]
    runs: dict[str, Result]


def collect(out: Path) -> dict[str, Any]:
    """The sidecars in `out`, as what results.json holds."""
    floats = {suffix: read_json(out / f"float.{suffix}.json") for suffix in EVALUATIONS}
    runs = {}
    for run in all_runs():
        artifact = read_json(out / f"{run.name}.safetensors.json")
        found = {suffix: out / f"{run.name}.{suffix}.json" for suffix in EVALUATIONS}
        runs[run.name] = {
            "size_bytes": artifact["model"]["size_bytes"],
            "recipe": {key: artifact["recipe"][key] for key in RECIPE if key in artifact["recipe"]},
            **{suffix: figures_of(read_json(path)) for suffix, path in found.items() if path.is_file()},
        }
        if "picked" in artifact["recipe"]:
            runs[run.name]["picked"] = artifact["recipe"]["picked"]
        if "honesty" in artifact:
            runs[run.name]["audited"] = artifact["honesty"]["reached"]
    return {"conditions": conditions_of(floats), "float": float_figures(floats), "runs": runs}


def conditions_of(floats: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What holds for every run: of the float model's eval sidecars, by suffix."""
    test = floats["eval"]
    keys = ("python", "torch", "fairseq", "platform", "device", "num_threads")
    return {
        "asrcompress": test["tool"]["version"],
        "environment": {key: test["environment"][key] for key in keys},
        "model": {key: test["model"][key] for key in ("file", "sha256", "family", "num_params")},
        "normalizer": test["normalizer"]["name"],
        "decoding": {suffix: record["decoding"] for suffix, record in floats.items()},
        "interval": {key: test["intervals"]["wer"][key] for key in ("confidence", "num_resamples")},
        "data": {
            suffix: {key: record["data"][key] for key in ("file", "sha256", "num_utterances")}
            | {"num_words": record["metrics"]["num_reference_words"]}
            for suffix, record in floats.items()
        },
    }


def float_figures(floats: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The float model's size and its figures."""
    figures = {suffix: figures_of(record) for suffix, record in floats.items()}
    return {"size_bytes": floats["eval"]["model"]["model_size_bytes"]} | figures


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def figures_of(record: dict[str, Any]) -> dict[str, Any]:
    """What is kept of an eval sidecar."""
    metrics, interval, paired = record["metrics"], record["intervals"]["wer"], record["paired"]
    figures = {
        "wer": metrics["wer"],
        "low": interval["low"],
        "high": interval["high"],
        "num_errors": metrics["substitutions"] + metrics["insertions"] + metrics["deletions"],
    }
    if paired:
        figures |= {"delta": paired["delta"], "delta_low": paired["low"], "delta_high": paired["high"]}
    return {key: round(value, 6) for key, value in figures.items()}


def write_results(record: dict[str, Any], path: Path = FILE) -> None:
    """One line per run, so that a change reads well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    runs = ",\n".join(f"  {json.dumps(name)}: {json.dumps(run)}" for name, run in record["runs"].items())
    conditions, own = json.dumps(record["conditions"]), json.dumps(record["float"])
    text = f'{{\n "conditions": {conditions},\n "float": {own},\n "runs": {{\n{runs}\n }}\n}}\n'
    path.write_text(text, encoding="utf-8")


def read_results(path: Path = FILE) -> Results:
    """What results.json holds."""
    return parse(read_json(path))


def parse(record: dict[str, Any]) -> Results:
    """What `collect` gives, as records."""
    own = {suffix: Figures(**record["float"][suffix]) for suffix in EVALUATIONS}
    runs = {
        name: Result(
            name,
            run["size_bytes"],
            run["recipe"],
            run.get("picked", {}),
            run.get("audited"),
            {suffix: Figures(**run[suffix]) for suffix in EVALUATIONS if suffix in run},
        )
        for name, run in record["runs"].items()
    }
    return Results(record["conditions"], record["float"]["size_bytes"], own, runs)
