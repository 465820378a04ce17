"""quantize --pattern: what is stored, what is said of it, and what cannot be pruned."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from asrcompress import swap
from asrcompress.artifact import load_artifact
from asrcompress.errors import AsrCompressError
from asrcompress.files import sha256_file
from asrcompress.ops.analyze import AnalyzeConfig, analyze
from asrcompress.ops.load import open_source
from asrcompress.ops.quantize import Calibrate, plan, quantize
from asrcompress.ops.recipe import QuantizeConfig, Rule
from asrcompress.patterns import code_sizes, keep_largest

DENSE = (Rule("conv", pattern="none"),)
RULES = (Rule("encoder.*.fc1", pattern="1:4"), Rule("encoder.subsample", pattern="none"))


@pytest.fixture(scope="module")
def speech(samples_dir: Path) -> Calibrate:
    return Calibrate(samples_dir / "kws" / "manifest.tsv", split="dev")


def test_a_file_with_a_pattern_takes_what_the_pattern_keeps(tiny_s2t: Path, tmp_path: Path) -> None:
    config = QuantizeConfig(num_bits=4, pattern="2:4", rules=RULES)
    result = quantize(tiny_s2t, tmp_path / "q.safetensors", config)
    originals = open_source(tiny_s2t).tensors
    sizes = {entry["name"]: entry["size_bytes"] for entry in result.record["ledger"]["entries"]}
    for name, weight in load_artifact(result.path).quantized.items():
        assert weight.pattern == config.sparsity_of(name)[0]
        for part, due in code_sizes(weight.codes.numel(), 4, weight.pattern).items():
            assert sizes[f"{name}_{part}"] == due
        if weight.pattern:
            rows = originals[name].reshape(weight.codes.shape)
            assert not weight.codes[~keep_largest(rows.abs(), *weight.pattern)].any()
    compression = result.record["model"]["compression"]
    assert (compression["patterns"], compression["sparsifier"]) == (["1:4", "2:4"], "magnitude")
    assert result.record["honesty"]["violations"] == []
    assert result.record["recipe"]["pattern"] == "2:4"


def test_the_file_is_smaller_than_a_dense_one_by_what_it_drops(tiny_s2t: Path, tmp_path: Path) -> None:
    dense = quantize(tiny_s2t, tmp_path / "a.safetensors", QuantizeConfig(num_bits=2))
    sparse = quantize(tiny_s2t, tmp_path / "b.safetensors", QuantizeConfig(num_bits=2, pattern="1:4"))
    shares = [
        sum(
            e["size_bytes"]
            for e in each.record["ledger"]["entries"]
            if e["kind"] in ("weight_packed", "weight_pattern")
        )
        for each in (dense, sparse)
    ]
    assert shares[1] == pytest.approx(shares[0] / 2, rel=0.01)  # one bit a weight for two


def test_the_same_options_give_the_same_bytes(tiny_kws: Path, speech: Calibrate, tmp_path: Path) -> None:
    config = QuantizeConfig(
        num_bits=4, pattern="2:4", sparsifier="sparsegpt", method="gptq", calibration_limit=3, rules=DENSE
    )
    for name in ("a", "b"):
        quantize(tiny_kws, tmp_path / f"{name}.safetensors", config, calibrate=speech)
    assert sha256_file(tmp_path / "a.safetensors") == sha256_file(tmp_path / "b.safetensors")
    assert load_artifact(tmp_path / "a.safetensors").recipe["sparsifier"] == "sparsegpt"


@pytest.mark.parametrize("num_bits", [4, 1])
def test_integer_only_runs_with_a_pattern(tiny_kws: Path, speech: Calibrate, tmp_path: Path, num_bits: int) -> None:
    config = QuantizeConfig(
        num_bits=num_bits,
        method="binary" if num_bits == 1 else "asymmetric",
        pattern="2:4",
        level="integer-only",
        calibration_limit=3,
        rules=DENSE,
    )
    result = quantize(tiny_kws, tmp_path / "k.safetensors", config, calibrate=speech)
    honesty = result.record["honesty"]
    assert (honesty["reached"], honesty["violations"]) == ("integer-only", [])
    counted = {row["name"]: row["kept_per_group"] for row in honesty["codes"]}
    assert counted["conv.0.weight"] is None
    assert (
        sum(counted["gru.weight_hh_l0"][:3])
        == load_artifact(result.path).quantized["gru.weight_hh_l0"].codes.numel() // 4
    )
    _, record = analyze(result.path, AnalyzeConfig(), output=tmp_path / "a.json")
    assert sum(row["size_bytes"] for row in record["layers"]) == sum(
        entry["size_bytes"] for entry in record["ledger"]["entries"] if entry["kind"] not in ("header", "json")
    )


def test_a_pattern_goes_with_the_weight_through_the_next_step(tiny_kws: Path, tmp_path: Path) -> None:
    quantize(tiny_kws, tmp_path / "a.safetensors", QuantizeConfig(num_bits=4, pattern="2:4", include=("gru.*",)))
    quantize(tmp_path / "a.safetensors", tmp_path / "b.safetensors", QuantizeConfig(include=("classifier.*",)))
    content = load_artifact(tmp_path / "b.safetensors")
    assert {name: weight.pattern for name, weight in content.quantized.items() if weight.pattern} == {
        f"gru.weight_{gate}_l{layer}": (2, 4) for gate in ("ih", "hh") for layer in (0, 1)
    }
    assert content.quantized["classifier.weight"].pattern is None


def test_inputs_that_do_not_divide_are_named_before_any_work(tiny_kws: Path, tmp_path: Path) -> None:
    config = QuantizeConfig(num_bits=4, pattern="5:16")
    message = (
        r"conv\.0\.weight: \d+ inputs do not divide into groups of 16 for 5:16; use .*pattern = 'none', or --exclude"
    )
    for work in (lambda: plan(tiny_kws, config), lambda: quantize(tiny_kws, tmp_path / "k.safetensors", config)):
        with pytest.raises(AsrCompressError, match=message) as caught:
            work()
        assert str(tiny_kws) in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("sparsifier", ["wanda", "sparsegpt"])
def test_a_sparsifier_that_looks_at_data_asks_for_it(tiny_kws: Path, tmp_path: Path, sparsifier: str) -> None:
    config = QuantizeConfig(pattern="2:4", sparsifier=sparsifier)
    with pytest.raises(
        AsrCompressError, match=f"^--sparsifier {sparsifier} needs speech to calibrate with; add --calib"
    ):
        quantize(tiny_kws, tmp_path / "k.safetensors", config)
    with pytest.raises(AsrCompressError, match=f"^swap: sparsifier {sparsifier} needs data"):
        swap(torch.nn.Sequential(torch.nn.Linear(8, 4)), pattern="2:4", sparsifier=sparsifier)


def test_swap_prunes_any_module() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    inputs = torch.randn(200, 32) @ torch.randn(32, 32)
    errors = {}
    for sparsifier in ("magnitude", "sparsegpt"):
        sparse = swap(model, bits=8, pattern="2:4", sparsifier=sparsifier, calibrate=lambda module: module(inputs))
        errors[sparsifier] = float((sparse(inputs) - model(inputs)).norm())
    assert errors["sparsegpt"] < 0.9 * errors["magnitude"]
