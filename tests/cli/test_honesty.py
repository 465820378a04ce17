"""analyze --require-level: exit codes, the sidecar that is written all the same, and what people read."""

from __future__ import annotations

import json
from pathlib import Path

from asrcompress.cli.honesty import MOST_LINES, honesty_lines
from tests.cli.conftest import Run


def test_require_level_is_a_gate(run: Run, tiny_kws: Path, tmp_path: Path) -> None:
    model = tmp_path / "k.safetensors"
    assert run("quantize", tiny_kws, "-o", model, "--activations", "int8").returncode == 0
    passed = run("analyze", model, "--require-level", "computed")
    assert passed.returncode == 0 and passed.stdout == f"{model}\n"
    assert "honesty: claims level computed, reaches computed" in passed.stderr
    assert "weights of 8 bits: " in passed.stderr and " distinct codes per channel, at most " in passed.stderr
    failed = run("analyze", model, "--require-level", "integer-only", "--force")
    assert failed.returncode == 1
    last = failed.stderr.splitlines()[-1]
    assert last.startswith(f"{model}: level integer-only is required, computed is reached: ")
    assert json.loads((tmp_path / "k.safetensors.analyze.json").read_text())["honesty"]["reached"] == "computed"
    wrong = run("analyze", model, "--require-level", "honest", "--force")
    assert wrong.returncode == 2 and "use one of float, partial, stored, computed, integer-only" in wrong.stderr


def test_a_checkpoint_fails_with_its_reason(run: Run, tiny_kws: Path, tmp_path: Path) -> None:
    result = run("analyze", tiny_kws, "-o", tmp_path / "a.json", "--require-level", "stored")
    assert result.returncode == 1
    assert "level stored is required, float is reached: no weight is packed: the file holds floats" in result.stderr


def test_many_floats_are_cut_and_none_are_said(run: Run) -> None:
    block = {
        "claimed": "integer-only", "reached": "integer-only", "violations": [], "prevents": {}, "unused": [],
        "coverage": [], "float_ops": [], "codes": [], "fake_quantized": [],
        "crossings": [{"run": "forward", "module": "", "op": "asrcompress.enter_integers", "shape": [1], "num_bits": 8, "fault": ""}],
    }  # fmt: skip
    row = {"weight_dtype": "int8", "activation_dtype": "int8", "num_params": 1, "size_bytes": 1, "macs": 1}
    block["coverage"] = [{**row, "num_params_share": 1.0, "size_bytes_share": 1.0, "macs_share": None}]
    assert "float operations left inside of the model: none" in honesty_lines(block)
    ops = [{"run": "decoding", "module": f"m{n}", "class": "Linear", "op": "aten.mul", "calls": 2} for n in range(99)]
    lines = honesty_lines({**block, "float_ops": ops, "violations": ["a", "b"]})
    assert "float operations left inside of the model: 198 calls in 99 modules" in lines
    assert f"  and {99 - MOST_LINES} more in the sidecar" in lines and "VIOLATION: a" in lines
    assert "  while decoding, m0 (Linear): mul 2x" in lines
