"""`quantize --pattern` from the command line: what is written, what is said, and lines for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

OPTIONS = ("--bits", "4", "--pattern", "2:4", "--exclude", "conv.*", "-o", "k.safetensors")


def test_a_pattern_is_written_counted_and_reported(run: Run, tiny_kws: Path, samples_dir: Path, tmp_path: Path) -> None:
    data = (
        "--calibrate",
        samples_dir / "kws" / "manifest.tsv",
        "--calibration-split",
        "dev",
        "--calibration-limit",
        "3",
    )
    written = run("quantize", tiny_kws, *OPTIONS, "--sparsifier", "sparsegpt", *data)
    assert (written.returncode, written.stdout) == (0, "k.safetensors\n")
    record = json.loads((tmp_path / "work" / "k.safetensors.json").read_text())
    compression = record["model"]["compression"]
    assert (compression["patterns"], compression["sparsifier"]) == (["2:4"], "sparsegpt")
    analyzed = run("analyze", "k.safetensors")
    groups = sum(sum(row["kept_per_group"] or ()) for row in record["honesty"]["codes"])
    assert f"patterns 2:4, {groups:,} groups counted" in analyzed.stderr
    assert "weight_pattern" in {entry["kind"] for entry in record["ledger"]["entries"]}
    table = run("report", "k.safetensors.json").stdout
    assert "patterns" in table and "2:4" in table


def test_a_recipe_has_the_keys_and_none_undoes_them(run: Run, tiny_kws: Path, tmp_path: Path) -> None:
    (tmp_path / "work" / "r.toml").write_text(
        'bits = 4\npattern = "1:4"\n[[rules]]\nmodules = "conv"\npattern = "none"\n', encoding="utf-8"
    )
    assert run("quantize", tiny_kws, "--config", "r.toml", "-o", "a.safetensors").returncode == 0
    assert run("quantize", tiny_kws, "--config", "r.toml", "--pattern", "none", "-o", "b.safetensors").returncode == 0
    patterns = [
        json.loads((tmp_path / "work" / f"{name}.safetensors.json").read_text())["model"]["compression"]["patterns"]
        for name in "ab"
    ]
    assert patterns == [["1:4"], []]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pattern", "4:2"), "pattern '4:2': use keep_n:group_m such as 2:4, two values kept of every four"),
        (("--pattern", "2:32"), "pattern '2:32': use keep_n:group_m such as 2:4"),
        (("--pattern", "5:16"), "conv.0.weight: 100 inputs do not divide into groups of 16 for 5:16; use a pattern whose"),
        (("--sparsifier", "wanda"), "sparsifier wanda: there is no pattern to choose for; add --pattern 2:4"),
        (("--pattern", "2:4", "--sparsifier", "wanda"), "--sparsifier wanda needs speech to calibrate with; add --calibrate"),
        (("--pattern", "2:4", "--sparsifier", "best"), "sparsifier 'best' is not known; use one of magnitude, sparsegpt, wanda"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(run: Run, tiny_kws: Path, tmp_path: Path, options: tuple, message: str) -> None:
    failed = run("quantize", tiny_kws, *options, "-o", "k.safetensors")
    assert failed.returncode == 2
    assert message in failed.stderr and len(failed.stderr.strip().splitlines()) == 1
    assert list((tmp_path / "work").iterdir()) == []
