"""quantize --level integer-only from the command line: recipe, proof, bad input."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run

RECIPE = """
level = "integer-only"
bits = 4
method = "auto"
calibration_limit = 8

[[rules]]
modules = "gru"
bits = 8
method = "rtn"

[[rules]]
modules = "classifier:in"
activations = "int6"
"""


def test_a_recipe_makes_a_file_without_floats_and_says_what_auto_picked(
    run: Run, tiny_kws: Path, samples_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    model = tmp_path / "q.safetensors"
    data = samples_dir / "kws" / "manifest.tsv"
    made = run("quantize", tiny_kws, "--config", tmp_path / "recipe.toml", "--calibrate", data, "-o", model)
    assert made.returncode == 0, made.stderr
    assert made.stdout == f"{model}\n"
    assert "auto picked: " in made.stderr
    record = json.loads(Path(f"{model}.json").read_text())
    assert record["honesty"]["reached"] == record["honesty"]["claimed"] == "integer-only"
    bits = {row["name"]: row["num_bits"] for row in record["honesty"]["codes"]}
    assert {name: bits[name] for name in ("gru.weight_ih_l0", "conv.0.weight")} == {
        "gru.weight_ih_l0": 8,
        "conv.0.weight": 4,
    }
    gated = run("analyze", model, "--require-level", "integer-only")
    assert gated.returncode == 0, gated.stderr
    assert "float operations left inside of the model: none" in gated.stderr


def test_what_is_missing_or_wrong_is_one_line_and_nothing_is_written(
    run: Run, tiny_kws: Path, samples_dir: Path, tmp_path: Path
) -> None:
    data = samples_dir / "kws" / "manifest.tsv"
    for options, line in (
        (["--level", "integer-only"], "--level integer-only needs speech to calibrate with; add --calibrate DATA"),
        (["--level", "whole"], "--level whole: use stored, computed, integer-only"),
        (["--level", "computed", "--activations", "none"], "level computed is with --activations int8"),
        (["--bits", "1"], "--bits 1: --method rtn needs 2 bits or more; use --method binary for 1 bit"),
        (["--level", "integer-only", "--calibrate", tmp_path / "none.tsv"], "no such file or folder; --calibrate names a data set"),
        (["--level", "integer-only", "--calibrate", data, "--calibration-split", "train"], "has no split 'train'; it has: test, val, all"),
    ):  # fmt: skip
        result = run("quantize", tiny_kws, "-o", tmp_path / "q.safetensors", *options)
        assert (result.returncode, result.stdout) == (2, ""), options
        assert line in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.glob("q.*"))
