"""docs/experiments.md is what its scripts make of the results, and the script runs what it says it runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))  # the script is a package of its own there

from experiments import best, page, plan, results, run, tables

DOCS = ROOT / "docs"
RESULTS = results.read_results()


def test_the_page_and_its_plots_are_made_from_the_results() -> None:
    made = page.render()
    plots = {path.relative_to(DOCS).as_posix() for path in (DOCS / "experiments").glob("*.svg")}
    assert set(made) == {"experiments.md"} | plots and len(plots) >= 3
    for name, text in made.items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"{name}: run python -m experiments.page in tools/"


def test_the_results_are_those_of_the_plan() -> None:
    runs = {planned.name: planned for planned in plan.all_runs()}
    assert runs.keys() == RESULTS.runs.keys()
    for name, found in RESULTS.runs.items():
        options = runs[name].options
        assert (found.recipe["num_bits"], found.recipe["method"]) == (options["bits"], options["method"]), name
        assert found.recipe["granularity"] == options.get("granularity", "per_channel"), name
        assert found.recipe.get("rules", []) == list(runs[name].rules), name
        assert found.level == options.get("level", "stored"), name


def test_rates_are_errors_over_words() -> None:
    words = RESULTS.conditions["data"]["eval"]["num_words"]
    for found in [RESULTS.float_model["eval"], *(result.test for result in RESULTS.runs.values())]:
        assert found.wer == pytest.approx(found.num_errors / words, abs=1e-6)
        assert found.low <= found.wer <= found.high
    assert all(result.test.delta_low is not None for result in RESULTS.runs.values())


def test_winners_were_evaluated_again_and_nothing_smaller_keeps_their_promise() -> None:
    own = RESULTS.float_model["eval"]
    for (criterion, scope), winner in best.winners(RESULTS).items():
        assert set(winner.evaluations) == set(run.EVALUATIONS), winner.name
        for other in RESULTS.runs.values():
            if other.size_bytes < winner.size_bytes and scope in ("any level", other.level):
                assert not best.CRITERIA[criterion](other.test, own), (criterion, scope, other.name)


def test_no_place_is_named() -> None:
    for path in [DOCS / "experiments.md", *(file for file in (DOCS / "experiments").rglob("*") if file.is_file())]:
        assert not re.search(r"/(home|root|tmp|work|mnt|Users)/", path.read_text(encoding="utf-8")), path.name


def test_marks_follow_the_paired_interval() -> None:
    def figures(low: float, high: float) -> results.Figures:
        return results.Figures(0.05, 0.04, 0.06, 77, (low + high) / 2, low, high)

    assert tables.wer(figures(0.001, 0.02)) == "5.00 % ▲"
    assert tables.wer(figures(-0.001, 0.02)) == tables.wer(figures(0.0, 0.02)) == "5.00 %"
    assert tables.wer(figures(-0.02, -0.001)) == "5.00 % ▼"
    assert tables.paired(figures(-0.01, 0.03)) == "+1.00 [-1.00, +3.00]"
    assert (tables.size(999_400), tables.size(1_520_000)) == ("999 kB", "1.52 MB")


def test_what_is_done_is_not_run_again_and_what_fails_is_named(tmp_path: Path) -> None:
    write = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + 'x')"
    output = tmp_path / "good.json"
    say, take = [sys.executable, "-c", "print('text')"], [sys.executable, "-c", write, str(output)]
    bad = run.Step(([sys.executable, "-c", "raise SystemExit('no')"],), tmp_path / "bad.json")
    jobs = {"good": [run.Step((say, take), output)], "bad": [bad]}
    assert run.run_jobs(jobs, tmp_path) == ["bad"]
    assert run.run_jobs(jobs, tmp_path) == ["bad"]
    assert output.read_text() == "text\nx"
    assert (tmp_path / "bad.log").read_text() == "no\nno\n"
    assert [line.split()[1] for line in (tmp_path / "journal.txt").read_text().splitlines()].count("good") == 1


def test_a_pipe_fails_with_its_first_command(tmp_path: Path) -> None:
    output = tmp_path / "x.json"
    fail = [sys.executable, "-c", "raise SystemExit(2)"]
    write = [sys.executable, "-c", f"open({str(output)!r}, 'w')"]
    assert run.run_jobs({"x": [run.Step((fail, write), output)]}, tmp_path) == ["x"]


def test_another_recipe_is_run_again(tmp_path: Path) -> None:
    one, other = plan.Run("a", "best", {"bits": 4}), plan.Run("a", "best", {"bits": 3})
    run.prepare(one, tmp_path)
    sidecar = tmp_path / "a.eval.json"
    sidecar.write_text("{}")
    run.prepare(one, tmp_path)
    assert sidecar.exists()
    run.prepare(other, tmp_path)
    assert not sidecar.exists() and (tmp_path / "a.toml").read_text() == "bits = 3\n"


def test_every_recipe_is_one_that_quantize_takes(tmp_path: Path) -> None:
    from asrcompress.ops.recipe import QuantizeConfig, read_recipe

    for planned in plan.all_runs():
        path = tmp_path / "recipe.toml"
        path.write_text(run.recipe_text(planned), encoding="utf-8")
        config = QuantizeConfig(**read_recipe(path))
        assert (config.num_bits, config.method, len(config.rules)) == (
            planned.options["bits"],
            planned.options["method"],
            len(planned.rules),
        )


def test_without_data_one_line_says_so(tmp_path: Path) -> None:
    command = ["bash", str(ROOT / "tools" / "experiments.sh"), str(tmp_path / "absent"), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "is not there" in result.stderr
    assert not (tmp_path / "out").exists()
