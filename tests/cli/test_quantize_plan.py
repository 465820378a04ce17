"""quantize --plan from the command line: what it says, what it refuses, and that --config takes the same rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.ops.test_plan_file import make_plan


@pytest.fixture
def plan(tiny_kws: Path, tmp_path: Path) -> Path:
    return make_plan(tiny_kws, tmp_path / "plans", 0.3)


def test_it_says_what_was_predicted_and_what_was_written(run: Run, tiny_kws: Path, plan: Path, tmp_path: Path) -> None:
    result = run("quantize", tiny_kws, "--plan", plan, "-o", tmp_path / "q.safetensors")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'q.safetensors'}\n"
    told = json.loads((tmp_path / "q.safetensors.json").read_text())["recipe"]["plan"]
    size = (tmp_path / "q.safetensors").stat().st_size
    assert size == told["size_bytes"]
    assert (
        f"plan {plan}: {size} bytes predicted, {size} written (+0.00%), budget {told['budget_bytes']}\n"
        in result.stderr
    )
    assert "0.5 % off" not in result.stderr


def test_options_over_the_plan_count_and_a_file_far_from_its_plan_is_noted(
    run: Run, tiny_kws: Path, plan: Path, tmp_path: Path
) -> None:
    result = run("quantize", tiny_kws, "--plan", plan, "-o", tmp_path / "q.safetensors", "--granularity", "per_tensor")
    assert result.returncode == 0, result.stderr
    assert "note: that is more than 0.5 % off" in result.stderr
    larger = run("quantize", tiny_kws, "--plan", plan, "-o", tmp_path / "r.safetensors", "--granularity", "per_group:4")
    assert (larger.returncode, larger.stdout) == (2, "")
    assert "more than the plan's budget of" in larger.stderr and len(larger.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.glob("r.*"))


def test_what_does_not_go_together(run: Run, tiny_kws: Path, tiny_s2t: Path, plan: Path, tmp_path: Path) -> None:
    for model, options, words in (
        (tiny_kws, ["--config", plan], "is a recipe of its own; leave out --config"),
        (tiny_s2t, [], "was made for crnn.pt"),
        (tiny_s2t, ["--dry-run"], "was made for crnn.pt"),
        (tiny_kws, ["--method", "gptq"], "--method gptq needs speech to calibrate with; add --calibrate DATA"),
    ):
        result = run("quantize", model, "--plan", plan, "-o", tmp_path / "q.safetensors", *options)
        assert result.returncode == 2 and words in result.stderr, options
    assert not list(tmp_path.glob("q.*"))


def test_a_dry_run_lists_what_the_plan_packs(run: Run, tiny_kws: Path, plan: Path) -> None:
    result = run("quantize", tiny_kws, "--plan", plan, "--dry-run")
    assert result.returncode == 0 and "pack gru.weight_ih_l0\n" in result.stdout
