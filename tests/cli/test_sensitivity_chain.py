"""From a table to a file: `sensitivity` with a target, `quantize --plan`, `eval`, and another plan from the same table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asrcompress.ops.plan_file import read_plan
from tests.cli.conftest import Run
from tests.cli.test_sensitivity import MODEL, QUICK, SPEECH


@pytest.mark.parametrize(("level", "ratio"), [("stored", 0.11), ("integer-only", 0.13)])
def test_the_chain_from_a_table_to_a_file_that_was_evaluated(run: Run, level: str, ratio: float) -> None:
    options = ["--bits", "8,4,2", "--patterns", "1:4", "--top", 2, "--sample", 4, "--level", level]
    target = ["--target-size-ratio", ratio]
    result = run("sensitivity", MODEL, *SPEECH, *options, *target, "-o", "t.json")
    assert result.returncode == 0, result.stderr
    facts = read_plan("t.plan.toml").facts
    calibrate = ["--calibrate", SPEECH[1], "--calibration-split", "dev"]
    result = run("quantize", MODEL, "--plan", "t.plan.toml", *calibrate, "-o", "q.safetensors")
    assert result.returncode == 0, result.stderr
    size = Path("q.safetensors").stat().st_size
    assert (
        size <= facts.budget_bytes == int(ratio * 281_772) and abs(size - facts.size_bytes) <= 0.005 * facts.size_bytes
    )
    assert json.loads(Path("q.safetensors.json").read_text())["recipe"]["plan"]["size_bytes"] == facts.size_bytes
    for command in (["eval", "q.safetensors", *SPEECH], ["analyze", "q.safetensors"]):
        assert run(*command).returncode == 0
    assert run("report", "t.json", "--plan", "t.plan.toml", "--html", "again.html").returncode == 0
    found = run("sensitivity", MODEL, *SPEECH, "--from", "t.json", *target, "-o", "again.toml")
    assert (found.returncode, found.stdout) == (0, "again.toml\n"), found.stderr
    assert Path("again.toml").read_bytes() == Path("t.plan.toml").read_bytes()
    print(f"{level}: {facts.size_bytes} bytes predicted, {size} written, budget {facts.budget_bytes}")


def test_a_limit_on_quality_is_kept_on_the_data_it_was_measured_on(run: Run) -> None:
    options = ["--bits", "8,4,2", "--patterns", "1:4", "--top", 2, "--sample", 4, "--max-relative-wer", 0.4]
    result = run("sensitivity", MODEL, *SPEECH, *options, "-o", "t.json")
    assert result.returncode == 0, result.stderr
    facts = read_plan("t.plan.toml").facts
    assert facts.predicted["relative_au_fa_fr"] <= 0.4
    result = run("quantize", MODEL, "--plan", "t.plan.toml", "--calibrate", SPEECH[1], "-o", "q.safetensors")
    assert result.returncode == 0, result.stderr
    assert Path("q.safetensors").stat().st_size <= facts.budget_bytes
    print(f"AU FA-FR {facts.predicted['relative_au_fa_fr']:+.1%} relative at {facts.size_bytes} bytes")


def test_a_plan_that_calibrates_with_fewer_utterances_says_so_to_quantize(run: Run) -> None:
    options = ["--calibration-limit", 5, "--exclude", "conv.*", "--target-size-ratio", 0.5, "-o", "t.json"]
    assert run("sensitivity", MODEL, *SPEECH, *QUICK, *options).returncode == 0
    assert json.loads(Path("t.json").read_text())["data"]["num_calibration"] == 5
    plan = read_plan("t.plan.toml")
    assert (plan.options["calibration_limit"], plan.options["exclude"]) == (5, ("conv.*",))
    result = run("quantize", MODEL, "--plan", "t.plan.toml", "--calibrate", SPEECH[1], "-o", "q.safetensors")
    assert result.returncode == 0, result.stderr
    recipe = json.loads(Path("q.safetensors.json").read_text())["recipe"]
    assert recipe["calibration"]["num_utterances"] == 5 and "conv.0.weight" not in str(recipe["rules"])


def test_an_artifact_is_planned_again(run: Run) -> None:
    assert run("quantize", MODEL, "-o", "a.safetensors").returncode == 0
    result = run("sensitivity", "a.safetensors", *SPEECH, *QUICK, "--target-size-ratio", 0.15, "-o", "t.json")
    assert result.returncode == 0, result.stderr
    facts = read_plan("t.plan.toml").facts
    # The ratio is to the float model, as it is for the checkpoint, and not to the artifact.
    assert facts.budget_bytes == int(0.15 * facts.model_size_bytes) > 0.4 * Path("a.safetensors").stat().st_size
    result = run("quantize", "a.safetensors", "--plan", "t.plan.toml", "--calibrate", SPEECH[1], "-o", "q.safetensors")
    assert result.returncode == 0, result.stderr
    assert abs(Path("q.safetensors").stat().st_size - facts.size_bytes) <= 0.005 * facts.size_bytes


def test_the_path_of_the_model_comes_through_a_pipe(run: Run) -> None:
    result = run("sensitivity", *SPEECH, *QUICK, "-o", "t.json", stdin=f"{MODEL}\n")
    assert (result.returncode, result.stdout) == (0, "t.json\n"), result.stderr
