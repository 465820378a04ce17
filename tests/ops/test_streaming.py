"""Weight by weight: the same bytes as with the model in memory, bounded memory, nothing left of an interrupt, honest about what was not run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import torch

from asrcompress.checkpoints import read_checkpoint
from asrcompress.errors import AsrCompressError
from asrcompress.files import sha256_file
from asrcompress.ops import load
from asrcompress.ops.load import open_source
from asrcompress.ops.quantize import QuantizeConfig, quantize
from asrcompress.ops.sparsify import sparsify
from asrcompress.ops.sparsify_config import SparsifyConfig
from tests.bench.big_checkpoint import write

ROOT = Path(__file__).parents[2]
CONFIGS = [
    QuantizeConfig(num_bits=4),
    QuantizeConfig(num_bits=8, activations="int8"),
    QuantizeConfig(num_bits=2, method="mse", granularity="per_group:4", pattern="2:4"),
    QuantizeConfig(num_bits=3, method="asymmetric", include=("*fc1*", "*embed*")),
    QuantizeConfig(num_bits=1, method="binary"),
    QuantizeConfig(num_bits=4, entropy_coding="zstd"),
]


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts of any size are read weight by weight, as those of 64 MiB and more are."""
    monkeypatch.setattr(load, "MAP_FROM_BYTES", 0)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.num_bits} {config.method}")
def test_weight_by_weight_gives_the_bytes_of_all_at_once(
    tiny_s2t: Path, tmp_path: Path, config: QuantizeConfig, mapped: None
) -> None:
    whole, streamed = tmp_path / "whole.safetensors", tmp_path / "streamed.safetensors"
    quantize(tiny_s2t, whole, config)
    quantize(tiny_s2t, streamed, config, memory_budget_bytes=0)
    assert whole.read_bytes() == streamed.read_bytes()


def test_chains_of_mapped_files_give_the_same_bytes(tiny_s2t: Path, tmp_path: Path, mapped: None) -> None:
    def chain(name: str, **budget: int) -> list[str]:
        paths = [tmp_path / f"{name}.{step}.safetensors" for step in range(3)]
        sparsify(tiny_s2t, paths[0], SparsifyConfig(sparsity=0.5), **budget)
        quantize(paths[0], paths[1], QuantizeConfig(num_bits=4, include=("*fc*",)), **budget)
        quantize(paths[1], paths[2], QuantizeConfig(num_bits=8, include=("*self_attn*",)), **budget)
        return [sha256_file(path) for path in paths]

    assert chain("whole") == chain("streamed", memory_budget_bytes=0)


def test_what_was_not_run_is_null_and_the_sidecar_says_why(tiny_s2t: Path, tmp_path: Path, mapped: None) -> None:
    run = quantize(tiny_s2t, tmp_path / "run.safetensors", QuantizeConfig(num_bits=4, activations="int8")).record
    result = quantize(
        tiny_s2t, tmp_path / "q.safetensors", QuantizeConfig(num_bits=4, activations="int8"), memory_budget_bytes=0
    )
    honesty = json.loads(result.sidecar.read_text())["honesty"]
    assert run["honesty"]["reached"] == "computed" and "warning" not in run["honesty"]
    assert (honesty["claimed"], honesty["reached"], honesty["violations"]) == ("computed", "stored", [])
    assert [honesty[key] for key in ("unused", "coverage", "float_ops", "crossings")] == [None] * 4
    assert "was not run" in honesty["warning"] and "the budget is 0.0 GiB" in honesty["warning"]
    assert honesty["prevents"]["computed"] == [honesty["warning"]]
    assert honesty["codes"] == run["honesty"]["codes"]  # what bytes prove needs no run
    assert (
        result.record["metrics"] == run["metrics"]
        and result.record["model"]["num_params"] == run["model"]["num_params"]
    )
    schema = json.loads((ROOT / "docs/sidecar.schema.json").read_text())
    jsonschema.validate(result.record, schema)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), AsrCompressError("no")])
def test_an_interrupt_between_weights_leaves_nothing(tiny_s2t: Path, tmp_path: Path, error: BaseException) -> None:
    seen: list[list[Path]] = []

    def stop(done: int, total: int) -> None:
        seen.append(list(tmp_path.iterdir()))
        if done == total // 2:
            raise error

    with pytest.raises(type(error)):
        quantize(tiny_s2t, tmp_path / "q.safetensors", QuantizeConfig(), progress=stop, memory_budget_bytes=0)
    assert len(seen) > 3 and seen[-1] == []  # the spool has no name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["quantize", "sparsify"])
def test_a_model_that_is_not_whole_is_found_before_anything_is_packed(
    tiny_s2t: Path, tmp_path: Path, command: str
) -> None:
    state = torch.load(tiny_s2t, weights_only=False)
    model = state["model"]
    for change, message in (
        (lambda: model.pop("encoder.layer_norm.bias"), "encoder.layer_norm.bias is missing"),
        (lambda: model.update({"encoder.layer_norm.bias": torch.zeros(3)}), r"encoder.layer_norm.bias has shape \[3\]"),
        (
            lambda: model.update({"encoder.layer_norm.bias": torch.zeros(32), "more": torch.zeros(3)}),
            "more fits no module",
        ),
    ):
        change()
        path = tiny_s2t.with_name(f"broken.{command}.pt")
        torch.save(state, path)
        calls: list[int] = []
        options = {"memory_budget_bytes": 0, "progress": lambda done, total: calls.append(done)}  # noqa: B023
        with pytest.raises(AsrCompressError, match=message):
            if command == "quantize":
                quantize(path, tmp_path / "q.safetensors", QuantizeConfig(), **options)
            else:
                sparsify(path, tmp_path / "q.safetensors", SparsifyConfig(sparsity=0.5), **options)
        assert calls == [] and list(tmp_path.iterdir()) == []
        path.unlink()


def test_nan_in_a_weight_or_a_float_writes_nothing(tiny_s2t: Path, tmp_path: Path) -> None:
    names = ("encoder.transformer_layers.0.fc1.weight", "encoder.layer_norm.bias")
    assert set(names) <= open_source(tiny_s2t).tensors.keys()
    for name in names:
        state = torch.load(tiny_s2t, weights_only=False)
        state["model"][name].view(-1)[3] = float("nan")
        path = tiny_s2t.with_name("nan.pt")
        torch.save(state, path)
        with pytest.raises(AsrCompressError, match=f"nan.pt: {name}: holds NaN"):
            quantize(path, tmp_path / "q.safetensors", QuantizeConfig(), memory_budget_bytes=0)
        assert list(tmp_path.iterdir()) == []
        path.unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; pages are let go on Linux")
def test_memory_is_bounded_by_the_largest_tensor_not_by_the_model(tmp_path: Path) -> None:
    small, big = tmp_path / "small.pt", tmp_path / "big.pt"
    write(small, layers=1, dim=64)
    facts = write(big, layers=14, dim=512, dtype=torch.bfloat16)
    checkpoint = read_checkpoint(big)
    assert facts["num_params"] == sum(tensor.numel() for tensor in checkpoint.tensors.values())
    assert checkpoint.size_bytes > 100_000_000
    command = [sys.executable, "-m", "tests.ops.memory_child", str(small), str(big), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    found = json.loads(done.stdout)
    assert found.pop("process") <= 4 * facts["largest_tensor_bytes"] + 1_500_000_000
    for name, added in found.items():
        assert added <= 8 * 2 * facts["largest_tensor_bytes"], name  # in float32; the model takes 48 of them
