"""`--entropy-coding zstd`: a smaller file with the same weights, both sizes in the sidecar, and recipes that say it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from asrcompress.artifact import load_artifact
from asrcompress.cli.main import app
from tests.cli.conftest import Run

MODEL = Path(__file__).parents[2] / "samples" / "kws" / "crnn_computer.pt"


def quantize(output: Path, *options: str) -> tuple[dict, str]:
    result = CliRunner().invoke(app, ["quantize", str(MODEL), "--bits", "4", "-o", str(output), *options])
    assert result.exit_code == 0, result.output
    return json.loads(output.with_name(f"{output.name}.json").read_text()), result.stderr


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "plain.safetensors"
    quantize(path)
    return path


def test_the_sidecar_has_the_size_with_it_and_without(plain: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.safetensors"
    record, told = quantize(small, "--entropy-coding", "zstd")
    assert record["metrics"]["size_bytes"] == small.stat().st_size == record["ledger"]["size_bytes"]
    assert record["metrics"]["size_bytes_without_entropy_coding"] == plain.stat().st_size
    assert small.stat().st_size < 0.95 * plain.stat().st_size
    assert record["recipe"]["entropy_coding"] == "zstd"
    assert record["honesty"]["violations"] == []
    assert "entropy coding: 41.30 kB without it" in told
    one, other = load_artifact(plain), load_artifact(small)
    for name, weight in one.quantized.items():
        assert torch.equal(weight.codes, other.quantized[name].codes)
        assert torch.equal(weight.scale, other.quantized[name].scale)


def test_without_it_nothing_is_said_and_a_recipe_can_be_undone(plain: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('entropy_coding = "zstd"\n')
    assert "entropy_coding" in quantize(tmp_path / "a.safetensors", "--config", str(recipe))[0]["recipe"]
    record, told = quantize(tmp_path / "b.safetensors", "--config", str(recipe), "--entropy-coding", "none")
    assert (tmp_path / "b.safetensors").read_bytes() == plain.read_bytes()
    assert "entropy_coding" not in record["recipe"]
    assert "size_bytes_without_entropy_coding" not in record["metrics"]
    assert "entropy coding" not in told


def test_another_word_is_an_error_that_writes_nothing(run: Run, tmp_path: Path) -> None:
    result = run("quantize", MODEL, "-o", tmp_path / "x.safetensors", "--entropy-coding", "gzip")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "use zstd" in result.stderr
    assert not (tmp_path / "x.safetensors").exists()
