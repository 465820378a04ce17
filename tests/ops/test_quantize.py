"""quantize: what is selected, what is stored, and that files chain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from asrcompress.artifact import load_artifact
from asrcompress.errors import AsrCompressError
from asrcompress.files import sha256_file
from asrcompress.ops.load import load_model, open_source
from asrcompress.ops.quantize import QuantizeConfig, plan, quantize


@pytest.mark.parametrize("num_bits", [8, 4, 3, 2])
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor", "per_group:4"])
def test_every_stored_weight_is_within_half_a_step(
    tiny_s2t: Path, tmp_path: Path, num_bits: int, granularity: str
) -> None:
    output = tmp_path / "q.safetensors"
    quantize(tiny_s2t, output, QuantizeConfig(num_bits=num_bits, granularity=granularity))
    originals = open_source(tiny_s2t).tensors
    content = load_artifact(output)
    assert len(content.quantized) == 2 + 2 * 6 + 2 * 10 + 1 + 1  # convolutions, encoder, decoder, ctc, embedding
    for name, weight in content.quantized.items():
        error = (weight.dequantize() - originals[name]).abs().reshape(weight.codes.shape)
        steps = weight.scale.float().repeat_interleave(weight.codes.shape[1] // weight.scale.shape[1], dim=1)
        assert (error <= steps * (0.5 + 1e-3)).all(), name


def test_sizes_are_those_on_disk_and_the_ledger_sums_to_them(tiny_s2t: Path, tmp_path: Path) -> None:
    result = quantize(tiny_s2t, tmp_path / "q.safetensors", QuantizeConfig(num_bits=4))
    size = os.stat(tmp_path / "q.safetensors").st_size
    record = json.loads((tmp_path / "q.safetensors.json").read_text())
    assert record == result.record
    assert record["model"]["size_bytes"] == record["metrics"]["size_bytes"] == size
    assert sum(entry["size_bytes"] for entry in record["ledger"]["entries"]) == record["ledger"]["size_bytes"] == size
    assert record["model"]["sha256"] == sha256_file(tmp_path / "q.safetensors")
    assert record["metrics"]["size_ratio"] == size / os.stat(tiny_s2t).st_size


def test_no_float_copy_and_no_tied_copy_is_stored(tiny_s2t: Path, tmp_path: Path) -> None:
    quantize(tiny_s2t, tmp_path / "q.safetensors", QuantizeConfig(num_bits=4))
    content = load_artifact(tmp_path / "q.safetensors")
    assert content.tied == {"decoder.output_projection.weight": "decoder.embed_tokens.weight"}
    with safe_open(tmp_path / "q.safetensors", framework="pt") as handle:
        names = set(handle.keys())
    assert not any("output_projection" in name for name in names)
    assert not names & content.quantized.keys()
    assert all(tensor.dim() == 1 for tensor in content.floats.values())  # biases and norms only


def test_bytes_are_the_same_in_another_process(tiny_s2t: Path, tmp_path: Path) -> None:
    quantize(tiny_s2t, tmp_path / "a.safetensors", QuantizeConfig(num_bits=4, activations="int8"))
    command = [
        sys.executable,
        "-m",
        "asrcompress",
        "quantize",
        str(tiny_s2t),
        "--bits",
        "4",
        "--activations",
        "int8",
        "-o",
    ]
    subprocess.run(
        [*command, str(tmp_path / "b.safetensors")],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert sha256_file(tmp_path / "a.safetensors") == sha256_file(tmp_path / "b.safetensors")


def test_include_and_exclude(tiny_s2t: Path) -> None:
    packed, kept = plan(tiny_s2t, QuantizeConfig(include=("encoder.*",), exclude=("*.fc1.weight", "*subsample*")))
    assert packed and all(
        name.startswith("encoder.") and "fc1" not in name and "subsample" not in name for name in packed
    )
    assert "encoder.transformer_layers.0.fc1.weight" in kept and "decoder.embed_tokens.weight" in kept


def test_excluding_one_name_of_a_tied_weight_excludes_it(tiny_s2t: Path, tmp_path: Path) -> None:
    quantize(tiny_s2t, tmp_path / "q.safetensors", QuantizeConfig(exclude=("decoder.output_projection.*",)))
    content = load_artifact(tmp_path / "q.safetensors")
    assert "decoder.embed_tokens.weight" in content.floats and "decoder.output_projection.weight" not in content.floats
    loaded = load_model(tmp_path / "q.safetensors").module
    assert loaded.decoder.output_projection.weight is loaded.decoder.embed_tokens.weight


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude": ("nothing.*",)}, "fits no weight"),
        ({"exclude": ("*",)}, "no weight is left"),
        ({"exclude": ("*layers.0.self_attn.q_proj.weight",)}, "packed whole or not at all"),
        ({"granularity": "per_group:7"}, "use a divisor such as"),
    ],
)
def test_options_that_do_not_fit_write_nothing(tiny_s2t: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(AsrCompressError, match=message):
        quantize(tiny_s2t, tmp_path / "q.safetensors", QuantizeConfig(**options))
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_can_be_quantized_again(tiny_s2t: Path, tmp_path: Path) -> None:
    first = quantize(tiny_s2t, tmp_path / "a.safetensors", QuantizeConfig(num_bits=8))
    second = quantize(tmp_path / "a.safetensors", tmp_path / "b.safetensors", QuantizeConfig(num_bits=4))
    assert second.record["model"]["parent_sha256"] == first.record["model"]["sha256"]
    assert second.record["model"]["num_params"] == first.record["model"]["num_params"]
    assert second.record["model"]["size_bytes"] < first.record["model"]["size_bytes"]


def test_the_vocabulary_travels_in_the_file(tiny_s2t: Path, tmp_path: Path) -> None:
    quantize(tiny_s2t, tmp_path / "q.safetensors", QuantizeConfig())
    assert list(tmp_path.iterdir()) != [] and not (tmp_path / "dict.txt").exists()
    assert open_source(tmp_path / "q.safetensors").spec.vocabulary == open_source(tiny_s2t).spec.vocabulary


def test_the_input_is_never_replaced(tiny_kws: Path, tmp_path: Path) -> None:
    quantize(tiny_kws, tmp_path / "a.safetensors", QuantizeConfig())
    before = sha256_file(tmp_path / "a.safetensors")
    with pytest.raises(AsrCompressError, match="is the input, too"):
        quantize(tmp_path / "a.safetensors", tmp_path / "a.safetensors", QuantizeConfig(num_bits=4), force=True)
    assert sha256_file(tmp_path / "a.safetensors") == before


def test_keyword_model_runs_from_the_file(tiny_kws: Path, tmp_path: Path) -> None:
    quantize(tiny_kws, tmp_path / "k.safetensors", QuantizeConfig(num_bits=8))
    clips = torch.randn(3, 40, 101, generator=torch.Generator().manual_seed(0)) * 3 - 5
    with torch.no_grad():
        float_logits, packed_logits = (
            load_model(tiny_kws).module(clips),
            load_model(tmp_path / "k.safetensors").module(clips),
        )
    assert (float_logits - packed_logits).abs().max() < 0.05


def test_digits_sizes(digits_dir: Path, tmp_path: Path) -> None:
    """The project's own bounds: at most 27 % at 8 bits and 14.5 % at 4, of the model-only float32 bytes."""
    model_only = 11_285_451
    for num_bits, bound in ((8, 0.27), (4, 0.145)):
        output = tmp_path / f"{num_bits}.safetensors"
        quantize(digits_dir / "checkpoint_best.pt", output, QuantizeConfig(num_bits=num_bits, activations="int8"))
        assert os.stat(output).st_size <= bound * model_only


def test_keyword_file_size(kws_dir: Path, tmp_path: Path) -> None:
    """At most 30 % of the float file, file against file."""
    quantize(kws_dir / "crnn_happy.pt", tmp_path / "k.safetensors", QuantizeConfig(activations="int8"))
    assert os.stat(tmp_path / "k.safetensors").st_size <= 0.30 * os.stat(kws_dir / "crnn_happy.pt").st_size
