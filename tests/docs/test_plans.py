"""The section "Sensitivity and plans": its figures are those of its plan, and the script makes what it says."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from asrcompress import sidecar
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))  # the script is a package of its own there

from experiments import costs, plans, plans_plot, plans_results, plans_run, plans_section, sensitive_kinds
from experiments.results import Figures

RESULTS = plans_results.read_results()
PLANS = [made for made in RESULTS.files.values() if made.plan]


def test_the_results_are_those_of_the_plan() -> None:
    planned = {plan.name: plan for plan in plans.FULL.plans}
    assert {name: made.plan for name, made in RESULTS.files.items()} == planned | {
        uniform.name: None for uniform in plans.uniforms()
    }
    assert len(planned) == len(plans.FULL.plans) == 22
    for uniform in plans.uniforms():
        assert set(RESULTS.files[uniform.name].weights) == {uniform.option}
    data, options = RESULTS.conditions["data"], RESULTS.table["options"]
    assert data["eval"]["num_utterances"] == 2000
    assert [about["data"]["num_utterances"] for about in (RESULTS.table, RESULTS.few)] == [1000, 200]
    assert (options["top"], options["sample"], options["bits"]) == (8, 24, [8, 4, 3, 2])


def test_plans_keep_their_budgets_and_their_predictions() -> None:
    for made in PLANS:
        assert made.size_bytes <= made.predicted["budget_bytes"] == int(made.plan.ratio * RESULTS.float_size_bytes)
        assert abs(made.size_bytes / made.predicted["size_bytes"] - 1) <= 0.005
    packed = {tuple(map(sum, zip(*made.weights.values(), strict=True))) for made in RESULTS.files.values()}
    assert len(packed) == 1, "every file packs the same weights"


def test_rates_are_errors_over_words() -> None:
    for suffix, data in RESULTS.conditions["data"].items():
        for found in [RESULTS.float_model[suffix], *(made.evaluations[suffix] for made in RESULTS.files.values())]:
            assert found.wer == pytest.approx(found.num_errors / data["num_words"], abs=1e-6)
            assert found.low <= found.wer <= found.high


def test_plans_are_compared_with_every_uniform_file_that_is_no_smaller() -> None:
    words = RESULTS.conditions["data"]["eval"]["num_words"]
    for plan in PLANS:
        assert set(plan.against) == {made.name for made in RESULTS.uniforms if made.size_bytes >= plan.size_bytes}
        for name, pair in plan.against.items():
            difference = plan.test.num_errors - RESULTS.files[name].test.num_errors
            assert pair.delta == pytest.approx(difference / words, abs=1e-6)
            assert pair.delta_low <= pair.delta <= pair.delta_high
        if plan.plan.objective == "loss":
            other = RESULTS.files[replace(plan.plan, objective="divergence").name]
            assert plan.beside.delta == pytest.approx((plan.test.num_errors - other.test.num_errors) / words, abs=1e-6)


def test_a_pair_is_what_eval_says_of_the_two(tmp_path: Path) -> None:
    from asrcompress.metrics.bootstrap import paired_bootstrap

    errors = {"one": [0, 1, 0, 2, 0, 0], "other": [1, 1, 0, 3, 0, 1]}
    for name, counts in errors.items():
        order = range(6) if name == "one" else reversed(range(6))  # utterances are matched by id, not by place
        lines = [json.dumps({"id": f"u{k}", "errors": counts[k], "num_reference_words": 4}) for k in order]
        (tmp_path / f"{name}.eval.utterances.jsonl").write_text("\n".join(lines) + "\n")
        record = sidecar.build(
            "eval",
            model={"file": f"{name}.safetensors", "sha256": "0" * 64, "size_bytes": 1},
            metrics={},
            environment={},
            data={"sha256": "1" * 64},
            utterances_file=f"{name}.eval.utterances.jsonl",
        )
        (tmp_path / f"{name}.eval.json").write_text(json.dumps(record))
    found = plans_results.pair(tmp_path, "one", "other")
    paired = paired_bootstrap(errors["one"], errors["other"], [4] * 6)
    assert found == {"delta": -0.125, "low": round(paired.low, 6), "high": round(paired.high, 6)}


@pytest.mark.parametrize(("is_few", "table"), [(False, "table.json"), (True, "table-few.json")])
def test_files_of_another_table_are_made_anew(tmp_path: Path, is_few: bool, table: str) -> None:
    plan = plans.Planned(0.094, is_few=is_few)
    (tmp_path / table).write_text("{}")
    sha256 = hashlib.sha256(b"{}").hexdigest()
    names = [f"{plan.name}.{end}" for end in ("toml", "safetensors", "eval.json")]
    others = [f"{plan.name}0.toml", "float.eval.json"]
    for name in names + others:
        (tmp_path / name).write_text(f'[plan]\nsensitivity_sha256 = "{sha256}"\n')
    plans_run.drop_stale(plan, tmp_path)
    assert all((tmp_path / name).exists() for name in names + others)
    (tmp_path / table).write_text("{ }")
    plans_run.drop_stale(plan, tmp_path)
    assert [name for name in names + others if (tmp_path / name).exists()] == others


def test_plans_are_of_their_table_and_objective(tmp_path: Path) -> None:
    for plan in plans.FULL.plans:
        steps = plans_run.plan_steps(plan, tmp_path / "data", tmp_path)
        first, second = (list(map(str, step.commands[0])) for step in steps[:2])
        speech = str(tmp_path / ("data/dev.tsv" if plan.is_few else "dev/dev.tsv"))
        given = {key: first[first.index(key) + 1] for key in ("--data", "--from", "--objective", "--target-size-ratio")}
        assert given["--data"] == speech == second[second.index("--calibrate") + 1]
        assert given["--from"] == str(tmp_path / ("table-few.json" if plan.is_few else "table.json"))
        assert (given["--objective"], float(given["--target-size-ratio"])) == (plan.objective, plan.ratio)
        assert second[second.index("--plan") + 1] == first[first.index("-o") + 1] == str(steps[0].output)


def test_a_set_is_composed_whole_and_once(tmp_path: Path) -> None:
    script = "import pathlib, sys\nout = pathlib.Path(sys.argv[1])\nout.mkdir()\n(out / 'said').write_text(' '.join(sys.argv[2:]))\n"
    (tmp_path / "make_train.py").write_text(script)
    (tmp_path / "dev.part").mkdir()  # of a run that was stopped
    (tmp_path / "dev.part" / "old").touch()
    plans_run.compose(tmp_path, tmp_path, "dev", 7)
    assert (tmp_path / "dev" / "said").read_text() == "--split dev --utterances 7 --seed 78"
    assert [path.name for path in (tmp_path / "dev").iterdir()] == ["said"] and not (tmp_path / "dev.part").exists()
    plans_run.compose(tmp_path, tmp_path, "dev", 8)
    assert (tmp_path / "dev" / "said").read_text() == "--split dev --utterances 7 --seed 78"
    (tmp_path / "make_train.py").write_text(script + "raise SystemExit('disk full')\n")
    with pytest.raises(subprocess.CalledProcessError):
        plans_run.compose(tmp_path, tmp_path, "test", 7)
    assert not (tmp_path / "test").exists()


def test_every_uniform_recipe_is_one_that_quantize_takes(tmp_path: Path) -> None:
    from asrcompress.ops.recipe import QuantizeConfig, read_recipe

    names = {uniform.name for uniform in plans.uniforms()}
    assert len(names) == len(plans.uniforms()) == 13
    for uniform in plans.uniforms():
        plans_run.prepare(uniform.run, tmp_path)
        config = QuantizeConfig(**read_recipe(tmp_path / f"{uniform.name}.toml"))
        assert (config.num_bits, config.pattern) == (uniform.bits, uniform.pattern)


def _with(name: str, **figures: float) -> plans_results.Plans:
    made = RESULTS.files[name]
    changed = replace(made, evaluations=made.evaluations | {"eval": replace(made.test, **figures)})
    return replace(RESULTS, files=RESULTS.files | {name: changed})


def test_what_does_not_win_is_named() -> None:
    plan = RESULTS.plans()[-1]
    name = next(iter(plan.against))

    def said(low: float, high: float) -> str:
        pair = Figures(0.05, 0.04, 0.06, 1, (low + high) / 2, low, high)
        files = {plan.name: replace(plan, against={name: pair}), name: RESULTS.files[name]}
        return plans_section.against_found(replace(RESULTS, files=files), "divergence")

    assert "In 1 of 1 pairs the plan has the lower WER, in 1 of them" in said(-0.02, -0.01)
    assert "In 1 of 1 pairs the plan has the lower WER, in 0 of them" in said(-0.02, 0.01)
    found = said(-0.01, 0.02)
    assert f"Not lower, in points: {plan.label}: {RESULTS.files[name].label} +0.50 [-1.00, +2.00]; none of" in found
    assert "Lower than every such file: none." in found
    assert f"Lower than every such file: {plan.label}." in said(-0.02, 0.01)
    assert "In 0 of 1" in found and "; 1 of these intervals above 0" in said(0.01, 0.02)


def test_a_file_over_its_budget_or_off_its_prediction_is_said() -> None:
    last = RESULTS.plans()[-1]
    size_bytes = int(last.predicted["budget_bytes"]) + 1000
    changed = replace(RESULTS, files=RESULTS.files | {last.name: replace(last, size_bytes=size_bytes)})
    assert f"over their budgets: {last.label}" in plans_section.sizes_found(changed)
    assert f"{100 * (size_bytes / last.predicted['size_bytes'] - 1):.3f} %" in plans_section.sizes_found(changed)


def test_costs_are_ratios_of_the_records() -> None:
    pairs = {f"{group}_{pair}": [0.9, 0.8, 0.95] for group in ("all", "weights") for pair in costs.PAIRS}
    times = {"forward_s": 2.0, "proxies_weights_s": 8.0, "proxies_s": 16.0, "kept_s": 400.0, "brute_s": 1600.0}
    counts = {"file": "model.pt", "num_utterances": 1000, "num_units": 9, "num_cells": 100}
    said = costs.section([counts | times | pairs])
    assert "| 2.00 s | 8.0 s, 4.0 forwards | 16.0 s, 8.0 forwards | 400 s, 25.0 × the proxies | 1600 s, 100.0 ×" in said
    assert said.count("0.900 [0.800, 0.950]") == 6


def test_ranks_of_the_embedding_follow_the_table() -> None:
    table = json.loads(json.dumps(RESULTS.table))
    weights = [unit for unit in table["units"] if unit["target"] == "weight"]
    for kl, said in ((1e3, "number 1, 1, 1 and 1 of the 5 kinds"), (-1.0, "number 5, 5, 5 and 5 of the 5 kinds")):
        for bits in (8, 4, 3, 2):
            table["kinds"]["embedding"][f"int{bits}"]["kl"] = kl
            next(unit for unit in weights if unit["kind"] == "embedding")["kl"][f"int{bits}"] = kl
        found = sensitive_kinds.claims(replace(RESULTS, table=table))
        assert said in found
        rank = 1 if kl > 0 else len(weights)
        assert f"number {rank}, {rank}, {rank} and {rank} of the {len(weights)} single weights" in found


def test_kinds_hold_what_their_units_hold() -> None:
    for kind, options in RESULTS.table["kinds"].items():
        units = [unit for unit in RESULTS.table["units"] if unit["kind"] == kind]
        assert units and all(set(unit["kl"]) == set(options) == {"int8", "int4", "int3", "int2"} for unit in units)


def test_no_two_labels_of_the_plot_overlap_and_what_is_beyond_has_its_figure() -> None:
    name = "uniform-gptq_ls-2"
    svg = plans_plot.fronts_plot(_with(name, wer=0.4321, low=0.4, high=0.5))
    assert "int2: 43.21 %" in svg
    boxes = []
    for x, y, text in re.findall(r'<text class="label" x="([\d.]+)" y="([\d.]+)">([^<]+)<', svg):
        boxes.append((float(x), float(y), float(x) + 6.2 * len(text), float(y) - 11, text))
    assert len(boxes) == len(RESULTS.plans()) + len(plans.uniforms()) + 1
    for one, other in combinations(boxes, 2):
        is_apart = one[2] <= other[0] or other[2] <= one[0] or one[3] >= other[1] or other[3] >= one[1]
        assert is_apart, (one[4], other[4])


def test_markers_that_would_cover_each_other_are_apart_and_the_others_where_they_belong() -> None:
    def dot(size_percent: float) -> plans_plot.Dot:
        return plans_plot.Dot("", plans.DENSE, size_percent, RESULTS.float_model["eval"])

    found = plans_plot.apart([dot(25.0), dot(7.0), dot(10.0), dot(10.0), dot(10.01)])
    assert [each.size_percent for each in found] == [7.0, 10.0, 10.0, 10.01, 25.0]
    assert (found[0].x, found[-1].x) == (plans_plot.place_size(7.0), plans_plot.place_size(25.0))
    assert [b.x - a.x for a, b in pairwise(found[1:4])] == pytest.approx([plans_plot.APART] * 2)
    assert found[2].x == pytest.approx(plans_plot.place_size(10.0), abs=1)


def test_without_data_one_line_says_so(tmp_path: Path) -> None:
    command = ["bash", str(ROOT / "tools" / "plans.sh"), str(tmp_path / "absent"), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "is not there" in result.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "checkpoint_best.pt").touch()
    assert plans_run.main([str(tmp_path), str(tmp_path / "out")]) == 2 and not (tmp_path / "out").exists()
