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


def test_a_second_step_leaves_what_it_does_not_choose_bit_for_bit(tiny_s2t: Path, tmp_path: Path) -> None:
    one = quantize(
        tiny_s2t, tmp_path / "1.safetensors", QuantizeConfig(num_bits=4, granularity="per_group:8", include=("enc*",))
    )
    two = quantize(one.path, tmp_path / "2.safetensors", QuantizeConfig(num_bits=8, include=("decoder*",)))
    three = quantize(
        two.path,
        tmp_path / "3.safetensors",
        QuantizeConfig(num_bits=2, include=("*ctc*", "decoder.embed*"), activations="int8"),
    )
    first, second, third = (load_artifact(result.path) for result in (one, two, three))
    assert first.quantized and all(name.startswith("encoder.") for name in first.quantized)
    assert second.quantized.keys() > first.quantized.keys()
    for before, after, changed in ((first, second, ()), (second, third, ("ctc", "decoder.embed"))):
        for name, weight in before.quantized.items():
            if not any(part in name for part in changed):
                assert torch.equal(after.quantized[name].codes, weight.codes), name
                assert torch.equal(after.quantized[name].scale, weight.scale), name
                assert (after.quantized[name].num_bits, after.quantized[name].granularity) == (
                    weight.num_bits,
                    weight.granularity,
                )
    assert two.record["model"]["size_bytes"] < one.record["model"]["size_bytes"] < os.stat(tiny_s2t).st_size
    assert two.record["parent"]["sha256"] == two.record["model"]["parent_sha256"] == sha256_file(one.path)
    assert two.record["metrics"]["size_ratio"] == os.stat(two.path).st_size / os.stat(one.path).st_size
    blocks = [result.record["model"]["compression"] for result in (one, two, three)]
    assert [block["bits"] for block in blocks] == [[4], [4, 8], [2, 4, 8]]
    assert [block["num_bits"] for block in blocks] == [4, None, None]
    assert [block["granularity"] for block in blocks] == ["per_group:8", None, None]
    steps = [*third.recipe["previous"], third.recipe]
    assert [(step["num_bits"], step["include"], step["activations"]) for step in steps] == [
        (4, ["enc*"], "none"),
        (8, ["decoder*"], "none"),
        (2, ["*ctc*", "decoder.embed*"], "int8"),
    ]
    assert all("previous" not in step for step in steps[:-1]) and "previous" not in first.recipe


def test_a_plan_for_an_artifact_packs_only_what_is_chosen(tiny_kws: Path, tmp_path: Path) -> None:
    one = quantize(tiny_kws, tmp_path / "1.safetensors", QuantizeConfig(num_bits=4))
    packed, kept = plan(one.path, QuantizeConfig(num_bits=4, include=("conv*",)))
    assert packed == ["conv.0.weight"] and "gru.weight_ih_l0" in kept and "conv.0.bias" in kept


@pytest.mark.parametrize(
    ("options", "level"),
    [
        ({}, "stored"),
        ({"activations": "int8"}, "computed"),
        ({"activations": "int8", "exclude": ("conv*",)}, "partial"),
        ({"exclude": ("conv*",)}, "partial"),
    ],
)
def test_the_level_claimed_is_that_of_the_whole_model(
    tiny_kws: Path, tmp_path: Path, options: dict, level: str
) -> None:
    result = quantize(tiny_kws, tmp_path / "k.safetensors", QuantizeConfig(**options))
    compression = result.record["model"]["compression"]
    assert compression["level"] == level
    tensors = open_source(tiny_kws).tensors
    packed = {name for name in tensors if f"{name}_packed" in {e["name"] for e in result.record["ledger"]["entries"]}}
    share = sum(tensors[name].numel() for name in packed) / sum(tensor.numel() for tensor in tensors.values())
    assert compression["packed_params_share"] == share and 0 < share < 1


def test_a_tied_weight_counts_once_in_the_level(tiny_s2t: Path, tmp_path: Path) -> None:
    result = quantize(tiny_s2t, tmp_path / "q.safetensors", QuantizeConfig(activations="int8"))
    assert result.record["model"]["compression"]["level"] == "computed"
    second = quantize(
        result.path, tmp_path / "r.safetensors", QuantizeConfig(num_bits=4, include=("enc*",), activations="int8")
    )
    assert second.record["model"]["compression"]["level"] == "computed"  # with what the first step packed


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["conv.0.bias", "conv.0.weight", "gru.weight_ih_l0"])
def test_a_broken_checkpoint_is_refused_by_name(tiny_kws: Path, tmp_path: Path, name: str, value: float) -> None:
    tensors = {key: tensor.clone() for key, tensor in open_source(tiny_kws).tensors.items()}
    tensors[name].view(-1)[3 % tensors[name].numel()] = value
    torch.save(tensors, tmp_path / "broken.pt")
    config = QuantizeConfig(exclude=("conv*",))  # so that a weight is kept in float, too
    with pytest.raises(AsrCompressError, match=rf"broken\.pt: {name}: holds NaN or infinity"):
        quantize(tmp_path / "broken.pt", tmp_path / "q.safetensors", config)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.pt"]


def test_what_was_measured_on_a_replaced_file_goes_with_it(tiny_kws: Path, tmp_path: Path) -> None:
    output = quantize(tiny_kws, tmp_path / "k.safetensors", QuantizeConfig(num_bits=8)).path
    stale = [f"k.safetensors.{end}" for end in ("eval.json", "eval.utterances.jsonl", "analyze.json")]
    for name in (*stale, "other.safetensors.eval.json"):
        (tmp_path / name).write_text("{}")
    same = quantize(tiny_kws, output, QuantizeConfig(num_bits=8), force=True)
    assert same.removed == () and all((tmp_path / name).exists() for name in stale)  # the same bytes: still true
    result = quantize(tiny_kws, output, QuantizeConfig(num_bits=4), force=True)
    assert sorted(path.name for path in result.removed) == sorted(stale)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "k.safetensors",
        "k.safetensors.json",
        "other.safetensors.eval.json",
    ]
    assert json.loads((tmp_path / "k.safetensors.json").read_text())["model"]["sha256"] == sha256_file(output)


@pytest.mark.parametrize("failing", ["write_json", "build", "byte_ledger"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_no_artifact_without_its_sidecar(
    tiny_kws: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(f"asrcompress.ops.write.{failing}", fail)
    with pytest.raises(type(error)):
        quantize(tiny_kws, tmp_path / "k.safetensors", QuantizeConfig())
    assert list(tmp_path.iterdir()) == []


def test_an_input_replaced_meanwhile_writes_nothing(tiny_kws: Path, tmp_path: Path) -> None:
    (tmp_path / "in.pt").write_bytes(tiny_kws.read_bytes())

    def replace(done: int, total: int) -> None:
        (tmp_path / "next").write_bytes(b"another file")
        (tmp_path / "next").replace(tmp_path / "in.pt")

    with pytest.raises(AsrCompressError, match="changed while"):
        quantize(tmp_path / "in.pt", tmp_path / "k.safetensors", QuantizeConfig(), progress=replace)
    assert [path.name for path in tmp_path.iterdir()] == ["in.pt"]


def test_the_vocabulary_travels_in_the_file(tiny_s2t: Path, tmp_path: Path) -> None:
    quantize(tiny_s2t, tmp_path / "q.safetensors", QuantizeConfig())
    assert list(tmp_path.iterdir()) != [] and not (tmp_path / "dict.txt").exists()
    assert open_source(tmp_path / "q.safetensors").spec.vocabulary == open_source(tiny_s2t).spec.vocabulary


def test_the_input_is_never_replaced(tiny_kws: Path, tmp_path: Path) -> None:
    quantize(tiny_kws, tmp_path / "a.safetensors", QuantizeConfig())
    before = sha256_file(tmp_path / "a.safetensors")
    with pytest.raises(AsrCompressError, match="is an input"):
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
