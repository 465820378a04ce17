"""The figures of all plans and uniform files as one small file, docs/experiments/plans.json: read from what the runs wrote."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.plans import AUTO, OBJECTIVES, Planned, Scale, uniforms
from experiments.plans_run import TABLES
from experiments.results import ROOT, Figures, conditions_of, figures_of, float_figures, read_json

FILE = ROOT / "docs" / "experiments" / "plans.json"
SUFFIXES = ("eval", "own.eval")  # of evaluations: the composed test set, the data's own
CHANGES = ("loss_change", "kl", "wer_change")


@dataclass(frozen=True)
class Made:
    """One file. plan: None of uniform files. weights: number and parameters of those that have an option.

    predicted: by its plan: size_bytes, budget_bytes, loss_change and relative_wer on the dev set.
    against: paired differences of WER, composed test set, to uniform files that are no smaller, by their names.
    beside: of a plan that lowers the loss: paired difference of WER to the plan for the same size that makes the divergence least.
    embedding: what its plan does to the embedding's table.
    """

    name: str
    plan: Planned | None
    size_bytes: int
    weights: dict[str, list[int]]
    predicted: dict[str, float]
    evaluations: dict[str, Figures]
    against: dict[str, Figures]
    beside: Figures | None = None
    embedding: str | None = None

    @property
    def test(self) -> Figures:
        """The composed test set."""
        return self.evaluations["eval"]

    @property
    def label(self) -> str:
        """For a person, in markdown."""
        if self.plan:
            return self.plan.label
        option, family = next((each.option, each.family) for each in uniforms() if each.name == self.name)
        return f"`{option}`" + (f" ({AUTO})" if family == AUTO else "")


@dataclass(frozen=True)
class Plans:
    """All of it. `conditions`: what holds for every file. `table`: what is kept of the sensitivity table; `few`: of the small one."""

    conditions: dict[str, Any]
    float_size_bytes: int
    float_model: dict[str, Figures]
    files: dict[str, Made]
    table: dict[str, Any]
    few: dict[str, Any]

    def plans(self, objective: str = OBJECTIVES[0], *, is_few: bool = False) -> list[Made]:
        """From the largest."""
        found = [made for made in self.files.values() if made.plan and made.plan.is_few == is_few]
        chosen = [made for made in found if made.plan and made.plan.objective == objective]
        return sorted(chosen, key=lambda made: -made.size_bytes)

    @property
    def uniforms(self) -> list[Made]:
        """From the largest."""
        return sorted((made for made in self.files.values() if not made.plan), key=lambda made: -made.size_bytes)


def collect(out: Path, scale: Scale) -> dict[str, Any]:
    """What plans.json holds."""
    floats = {suffix: read_json(out / f"float.{suffix}.json") for suffix in SUFFIXES}
    tables = {is_few: read_json(out / name) for is_few, name in TABLES.items()}
    table = tables[False]
    embedding = next(unit["name"] for unit in table["units"] if unit["kind"] == "embedding")
    files = {plan.name: {"plan": vars(plan)} | _file(out, plan.name, embedding) for plan in scale.plans}
    files |= {uniform.name: _file(out, uniform.name, embedding) for uniform in uniforms()}
    for plan in scale.plans:
        mine = files[plan.name]
        larger = [u.name for u in uniforms() if files[u.name]["size_bytes"] >= mine["size_bytes"]]
        mine["against"] = {name: pair(out, plan.name, name) for name in larger}
        if plan.objective != OBJECTIVES[0]:
            mine["beside"] = pair(out, plan.name, replace(plan, objective=OBJECTIVES[0]).name)
    return {
        "conditions": conditions_of(floats),
        "float": float_figures(floats),
        "table": _table(table),
        "few": _about(tables[True]),
        "files": files,
    }


def _file(out: Path, name: str, embedding: str) -> dict[str, Any]:
    artifact, options = read_json(out / f"{name}.safetensors.json"), _options(out / f"{name}.safetensors")
    found: dict[str, Any] = {"size_bytes": artifact["model"]["size_bytes"], "weights": _weights(options)}
    facts = tomllib.loads((out / f"{name}.toml").read_text(encoding="utf-8")).get("plan")
    if facts:
        predicted = {key.removeprefix("predicted_"): facts[key] for key in facts if key.startswith("predicted_")}
        found["predicted"] = {key: facts[key] for key in ("size_bytes", "budget_bytes")} | _rounded(predicted)
        found["embedding"] = str(options[embedding][0]) if embedding in options else "float"
    return found | {suffix: figures_of(read_json(out / f"{name}.{suffix}.json")) for suffix in SUFFIXES}


def _options(path: Path) -> dict[str, tuple[Any, int]]:
    """The option and the number of parameters of every packed weight, by name."""
    from asrcompress.artifact import load_artifact
    from asrcompress.ops.units import Option

    packed = load_artifact(path).quantized
    return {name: (Option(each.num_bits, each.pattern), each.codes.numel()) for name, each in packed.items()}


def _weights(options: Mapping[str, tuple[Any, int]]) -> dict[str, list[int]]:
    """How many weights, of how many parameters together, have an option."""
    found: dict[str, list[int]] = {}
    for option, num_params in sorted(options.values(), key=lambda each: (-each[0].num_bits, str(each[0]))):
        count = found.setdefault(str(option), [0, 0])
        count[0] += 1
        count[1] += num_params
    return found


def pair(out: Path, name: str, other: str) -> dict[str, float]:
    """The difference of two files' WERs (this less the other) over the same draws of utterances, as `eval --baseline` takes it."""
    from asrcompress.metrics.bootstrap import paired_bootstrap
    from asrcompress.ops.baseline import read_baseline

    one, two = (read_baseline(out / f"{each}.eval.json") for each in (name, other))
    if one.record["data"]["sha256"] != two.record["data"]["sha256"] or one.utterances.keys() != two.utterances.keys():
        raise ValueError(f"{name} and {other} were evaluated on different sets")
    lines = list(one.utterances.values())
    found = paired_bootstrap(
        [line["errors"] for line in lines],
        [two.utterances[line["id"]]["errors"] for line in lines],
        [line["num_reference_words"] for line in lines],
    )
    return _rounded({"delta": found.delta, "low": found.low, "high": found.high})


def _table(record: Mapping[str, Any]) -> dict[str, Any]:
    """Dense options of every kind and unit, and how well the proxies rank them."""
    units = []
    for unit in record["units"]:
        dense = [cell for cell in unit["options"] if cell["pattern"] is None]
        kl = {cell["option"]: _significant(_divergence(cell, record["options"]["kl_scale"])) for cell in dense}
        measured = [cell["option"] for cell in dense if cell["kl"] is not None]
        about = {key: unit[key] for key in ("name", "kind", "target", "num_params")}
        units.append(about | {"kl": kl, "measured": measured})
    kinds = {
        kind["name"]: {
            cell["option"]: {key: _significant(cell[key]) for key in CHANGES}
            for cell in kind["options"]
            if cell["kl"] is not None
        }
        for kind in record["groups"]["kind"]
    }
    return _about(record) | {"kinds": kinds, "units": units}


def _about(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a table is of, and how well the proxies rank its cells."""
    keys = ("bits", "patterns", "method", "sparsifier", "top", "sample", "calibration_limit")
    return {
        "data": {key: record["data"][key] for key in ("file", "sha256", "num_utterances")},
        "options": {key: record["options"][key] for key in keys},
        "metrics": _rounded({key: record["metrics"][key] for key in ("loss", "wer", "num_trials")}),
        "num_cells": sum(len(unit["options"]) for unit in record["units"]),
        "correlation": [
            {key: round(value, 4) if isinstance(value, float) else value for key, value in pair.items()}
            for pair in record["correlation"]
        ],
    }


def _divergence(cell: Mapping[str, Any], scale: float) -> float:
    """As measured, else the proxy scaled to what was measured elsewhere."""
    return float(cell["kl_proxy"] * scale if cell["kl"] is None else cell["kl"])


def _significant(value: float) -> float:
    return float(f"{value:.4g}")


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 6) for key, value in values.items()}


def write_results(record: dict[str, Any], path: Path = FILE) -> None:
    """One line per file and unit, so that a change reads well."""
    table = dict(record["table"])
    units = ",\n".join(f"   {json.dumps(unit)}" for unit in table.pop("units"))
    files = ",\n".join(f"  {json.dumps(name)}: {json.dumps(made)}" for name, made in record["files"].items())
    head = "".join(f' "{key}": {json.dumps(record[key])},\n' for key in ("conditions", "float", "few"))
    kept = "".join(f'  "{key}": {json.dumps(value)},\n' for key, value in table.items())
    text = f'{{\n{head} "table": {{\n{kept}  "units": [\n{units}\n  ]\n }},\n "files": {{\n{files}\n }}\n}}\n'
    path.write_text(text, encoding="utf-8")


def read_results(path: Path = FILE) -> Plans:
    """What plans.json holds."""
    return parse(read_json(path))


def parse(record: Mapping[str, Any]) -> Plans:
    """What `collect` gives, as records."""
    own = {suffix: Figures(**record["float"][suffix]) for suffix in SUFFIXES}
    files = {name: _made(name, made) for name, made in record["files"].items()}
    return Plans(record["conditions"], record["float"]["size_bytes"], own, files, record["table"], record["few"])


def _made(name: str, made: Mapping[str, Any]) -> Made:
    evaluations = {suffix: Figures(**made[suffix]) for suffix in SUFFIXES}
    test = evaluations["eval"]

    def paired(found: Mapping[str, float]) -> Figures:
        return Figures(test.wer, test.low, test.high, test.num_errors, found["delta"], found["low"], found["high"])

    return Made(
        name,
        Planned(**made["plan"]) if "plan" in made else None,
        made["size_bytes"],
        made["weights"],
        made.get("predicted", {}),
        evaluations,
        {other: paired(found) for other, found in made.get("against", {}).items()},
        paired(made["beside"]) if "beside" in made else None,
        made.get("embedding"),
    )
