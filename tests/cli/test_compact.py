"""`--compact`: a much smaller file with the same weights, in chains with every other command; said, audited and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from asrcompress.artifact import load_artifact
from asrcompress.cli.main import app
from asrcompress.models.crnn import CRNN
from tests.cli.conftest import Run


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the report's smallest sizes."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("small") / "small.pt"
    torch.save(CRNN(2, 12).state_dict(), path)
    return path


def invoke(*arguments: object) -> tuple[dict[str, Any], str]:
    """The sidecar and what was told."""
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), result.stderr


def test_a_small_model_takes_less_than_half_and_both_sizes_are_said(small: Path, tmp_path: Path) -> None:
    plain, _ = invoke("quantize", small, "--bits", 4, "-o", tmp_path / "plain.safetensors")
    record, told = invoke("quantize", small, "--bits", 4, "--compact", "-o", tmp_path / "c.safetensors")
    assert record["metrics"]["size_bytes"] == (tmp_path / "c.safetensors").stat().st_size <= 2450
    assert record["metrics"]["size_bytes_without_compact"] == plain["metrics"]["size_bytes"] == 5203
    assert "compact: 5203 B without it, 59." in told
    assert record["model"]["format"] == "asrcompress.c1"
    assert record["recipe"]["compact"] is True
    assert record["ledger"]["size_bytes"] == record["metrics"]["size_bytes"]
    assert (record["honesty"]["reached"], record["honesty"]["violations"]) == ("stored", [])
    coverage = record["honesty"]["coverage"]
    assert sum(row["size_bytes"] for row in coverage) == record["metrics"]["size_bytes"]
    (floats,) = (row["size_bytes"] for row in coverage if row["weight_dtype"] == "float16")
    entries = record["ledger"]["entries"]
    assert floats == sum(entry["size_bytes"] for entry in entries if entry["kind"] == "float") < 2 * 161


def test_the_integer_only_student_is_within_its_size_and_proves_its_level(
    small: Path, kws_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "i.safetensors"
    invoke("quantize", small, "--bits", 4, "--level", "integer-only", "--calibrate", kws_dir / "manifest.tsv",
           "--calibration-limit", 16, "--compact", "-o", output)  # fmt: skip
    assert output.stat().st_size <= 2600
    record, _ = invoke("analyze", output, "--require-level", "integer-only")
    assert record["honesty"]["violations"] == []
    assert record["ledger"]["size_bytes"] == output.stat().st_size
    other = tmp_path / "plain.safetensors"
    invoke("quantize", small, "--bits", 4, "--level", "integer-only", "--calibrate", kws_dir / "manifest.tsv",
           "--calibration-limit", 16, "-o", other)  # fmt: skip
    assert load_artifact(output).grids == load_artifact(other).grids


def test_chains_in_any_order(small: Path, tmp_path: Path) -> None:
    """Compact or not, each step reads what the one before wrote, and the weights do not know."""
    for step, options in (("a", ["--compact"]), ("b", [])):
        invoke("sparsify", small, "--pattern", "2:4", *options, "-o", tmp_path / f"{step}1.safetensors")
        invoke("quantize", tmp_path / f"{step}1.safetensors", "--bits", 4, "--exclude", "conv.*", *options,
               "-o", tmp_path / f"{step}2.safetensors")  # fmt: skip
        invoke("quantize", tmp_path / f"{step}2.safetensors", "--bits", 8, "--include", "conv.*",
               "-o", tmp_path / f"{step}3.safetensors")  # fmt: skip
    one, other = (load_artifact(tmp_path / f"{step}3.safetensors") for step in "ab")
    assert [step.get("compact") for step in one.recipe["previous"]] == [True, True]
    assert "compact" not in one.recipe
    for name, weight in other.quantized.items():
        assert torch.equal(one.quantized[name].codes, weight.codes)
        assert torch.equal(one.quantized[name].scale, weight.scale)
        assert one.quantized[name].pattern == weight.pattern == (2, 4)
    assert (tmp_path / "a2.safetensors").stat().st_size < 0.5 * (tmp_path / "b2.safetensors").stat().st_size


def test_a_recipe_says_it_and_the_command_line_undoes_it(small: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("compact = true\nbits = 4\n")
    assert invoke("quantize", small, "--config", recipe, "-o", tmp_path / "a.safetensors")[0]["recipe"]["compact"]
    record, told = invoke("quantize", small, "--config", recipe, "--no-compact", "-o", tmp_path / "b.safetensors")
    assert "compact" not in record["recipe"]
    assert "size_bytes_without_compact" not in record["metrics"]
    assert "compact:" not in told
    again, _ = invoke("quantize", small, "--bits", 4, "-o", tmp_path / "c.safetensors")
    assert again["model"]["sha256"] == record["model"]["sha256"]


def test_analyze_points_at_it_where_it_pays(small: Path, samples_dir: Path, tmp_path: Path) -> None:
    for name, model, options, is_told in (
        ("small", small, [], True),
        ("compact", small, ["--compact"], False),
        ("base", samples_dir / "kws" / "crnn_computer.pt", [], False),
    ):
        output = tmp_path / f"{name}.safetensors"
        invoke("quantize", model, "--bits", 4, *options, "-o", output)
        assert ("note: header and record are 59% of the file; --compact" in invoke("analyze", output)[1]) == is_told


def test_it_is_not_for_large_models_nor_with_zstd(small: Path, run: Run, tmp_path: Path) -> None:
    both = run("quantize", small, "--compact", "--entropy-coding", "zstd", "-o", tmp_path / "x.safetensors")
    assert both.returncode == 2
    assert "--compact codes every tensor" in both.stderr
    torch.save(CRNN(8, 192).state_dict(), tmp_path / "large.pt")
    for command in (["quantize"], ["sparsify", "--pattern", "2:4"]):
        large = run(*command, tmp_path / "large.pt", "--compact", "-o", tmp_path / "x.safetensors")
        assert large.returncode == 2
        assert "parameters; --compact is for up to 262,144" in large.stderr
    assert not list(tmp_path.glob("x.*"))
