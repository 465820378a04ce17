"""The audit of real files: what honest ones reach, and dishonest ones written for the purpose."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from asrcompress.artifact import load_artifact, save_artifact
from asrcompress.modules.linear import IntegerLinear
from asrcompress.ops.analyze import AnalyzeConfig, analyze
from asrcompress.ops.audit import audit_artifact, shortfall
from asrcompress.ops.load import build_model, open_source
from asrcompress.ops.quantize import Calibrate, QuantizeConfig, quantize


def honesty(path: Path) -> dict:
    source = open_source(path)
    return audit_artifact(source, build_model(source))


@pytest.fixture(scope="module")
def computed(tiny_s2t: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit") / "m.safetensors"
    quantize(tiny_s2t, path, QuantizeConfig(num_bits=4, activations="int8"))
    return path


@pytest.fixture(scope="module")
def keyword(tiny_kws: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit") / "k.safetensors"
    quantize(tiny_kws, path, QuantizeConfig(activations="int8"))
    return path


def rewritten(path: Path, out: Path, **changes: object) -> Path:
    """The artifact with other content, written by the artifact's own writer."""
    save_artifact(out, dataclasses.replace(load_artifact(path), **changes), force=True)
    return out


def test_an_honest_artifact_reaches_what_it_claims(computed: Path) -> None:
    found = honesty(computed)
    assert (found["claimed"], found["reached"], found["violations"]) == ("computed", "computed", [])
    assert found["unused"] == ["encoder.ctc_proj"]  # a head that only training uses, in the float model, too
    assert {entry["run"] for entry in found["float_ops"]} == {"forward", "decoding"}
    assert all(row["activation_dtype"] == "int8" for row in found["coverage"] if row["macs"])
    assert {row["name"] for row in found["codes"]} == load_artifact(computed).quantized.keys()


def test_weights_only_is_stored_and_its_float_macs_are_named(tiny_kws: Path, tmp_path: Path) -> None:
    quantize(tiny_kws, tmp_path / "k.safetensors", QuantizeConfig(num_bits=4))
    found = honesty(tmp_path / "k.safetensors")
    assert (found["reached"], found["violations"]) == ("stored", [])
    assert "conv.0 (IntegerConv): aten.convolution: 39,600 MACs on float32 x float32" in found["prevents"]["computed"]


def test_coverage_adds_up(tiny_s2t: Path, computed: Path, tmp_path: Path) -> None:
    for path in (tiny_s2t, computed):
        _, record = analyze(path, AnalyzeConfig(duration_s=1.0), output=tmp_path / f"{path.stem}.json")
        rows = record["honesty"]["coverage"]
        assert sum(row["num_params"] for row in rows) == record["metrics"]["num_params"]
        assert sum(row["size_bytes"] for row in rows) == path.stat().st_size
        assert sum(row["macs"] for row in rows) == record["metrics"]["true_macs"]
        for key in ("num_params", "size_bytes", "macs"):
            assert sum(row[f"{key}_share"] for row in rows) == pytest.approx(1)
    by_kind = {(row["weight_dtype"], row["activation_dtype"]): row for row in rows}
    products = by_kind["none", "int8"]["macs"]  # scores and sums over values of 2 + 2 * 2 attentions
    keys, tokens, width = 25, 4, 32
    assert products == 2 * width * (2 * keys * keys + 2 * tokens * tokens + 2 * tokens * keys)


def test_a_checkpoint_is_float_and_claims_nothing(tiny_kws: Path, tmp_path: Path) -> None:
    _, record = analyze(tiny_kws, AnalyzeConfig(), output=tmp_path / "a.json")
    found = record["honesty"]
    assert (found["claimed"], found["reached"], found["violations"]) == (None, "float", [])


def test_a_fake_quantized_checkpoint_is_recognised_whoever_made_it(tiny_kws: Path, tmp_path: Path) -> None:
    state = torch.load(tiny_kws, weights_only=True)
    weight = state["gru.weight_hh_l0"]
    scale = weight.abs().amax(dim=1, keepdim=True) / 7
    state["gru.weight_hh_l0"] = torch.fake_quantize_per_channel_affine(
        weight, scale.flatten(), torch.zeros(len(weight)), 0, -8, 7
    )
    torch.save(state, tmp_path / "m.pt")
    _, record = analyze(tmp_path / "m.pt", AnalyzeConfig(), output=tmp_path / "a.json")
    (found,) = record["honesty"]["fake_quantized"]
    assert (found["name"], found["num_bits"], found["times_larger"]) == ("gru.weight_hh_l0", 4, 8.0)
    assert record["honesty"]["violations"][0].startswith("gru.weight_hh_l0: claims int4?")


def test_a_float_copy_under_the_weights_own_name_is_found(tiny_kws: Path, keyword: Path, tmp_path: Path) -> None:
    """The reader takes it (it fits the float model), and it is overwritten before anything runs: only the audit sees it."""
    copy = torch.load(tiny_kws, weights_only=True)["gru.weight_ih_l1"]
    path = tmp_path / "k.safetensors"
    save_file({**load_file(keyword), "gru.weight_ih_l1": copy}, path, metadata={"format": "asrcompress.v1"})
    found = honesty(path)
    assert found["reached"] == "partial" and found["violations"][0] == "claims level computed, reaches partial"
    assert found["violations"][1].startswith(
        "gru.weight_ih_l1: is a float32 copy of the packed weight gru.weight_ih_l1 (1,728 bytes"
    )


def test_a_float_copy_behind_the_headers_metadata_is_named(keyword: Path, tmp_path: Path) -> None:
    tensors = load_file(keyword)
    save_file(tensors, tmp_path / "k.safetensors", metadata={"format": "asrcompress.v1", "note": "x" * 900})
    found = honesty(tmp_path / "k.safetensors")
    assert "header, metadata 'note': 900 bytes that belong to no tensor" in found["violations"]


def test_padding_behind_the_header_is_named(keyword: Path, tmp_path: Path) -> None:
    data = keyword.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    padded = struct.pack("<Q", length + 800) + data[8 : 8 + length] + b" " * 800 + data[8 + length :]
    (tmp_path / "k.safetensors").write_bytes(padded)
    assert "header, behind its JSON: 80" in " ".join(honesty(tmp_path / "k.safetensors")["violations"])


def test_a_weight_in_the_json_is_named(keyword: Path, tmp_path: Path) -> None:
    parent = {**load_artifact(keyword).parent, "note": "AAAA" * 2000}
    found = honesty(rewritten(keyword, tmp_path / "k.safetensors", parent=parent))
    assert "asrcompress.json: parent.note: holds 8,000 characters, in which a weight could hide" in found["violations"]


def test_every_group_of_a_pattern_is_counted_and_a_wrong_one_named(keyword: Path, tmp_path: Path) -> None:
    quantized = dict(load_artifact(keyword).quantized)
    for name, weight in quantized.items():
        codes = weight.codes.clone()
        if codes.shape[1] % 4 == 0:
            codes[:, 1::4] = codes[:, 3::4] = 0
            quantized[name] = dataclasses.replace(weight, codes=codes, pattern=(2, 4))
    source = open_source(rewritten(keyword, tmp_path / "a.safetensors", quantized=quantized))
    found = audit_artifact(source, build_model(source))
    assert found["violations"] == []
    rows = {row["name"]: row for row in found["codes"]}
    for name, weight in quantized.items():
        counted = rows[name]["kept_per_group"]
        assert (counted is None) == (weight.pattern is None)
        assert counted is None or sum(counted) == weight.codes.numel() // 4
    # No file holds a group with too many: the writer and the reader refuse it. So it is planted behind the reader.
    assert source.content is not None
    source.content.quantized["gru.weight_hh_l0"].codes[2, 4:7] = 1
    found = audit_artifact(source, build_model(source))
    assert "gru.weight_hh_l0: claims 2:4, but row 2 has 3 values in inputs 4..7" in found["violations"]
    patterns = {row["name"]: row["pattern"] for row in found["codes"]}
    assert patterns["gru.weight_hh_l1"] == "2:4" and patterns["gru.weight_hh_l0"] is None


def test_a_level_that_is_claimed_and_not_reached_is_a_violation(tiny_kws: Path, tmp_path: Path) -> None:
    quantize(tiny_kws, tmp_path / "k.safetensors", QuantizeConfig(exclude=("classifier.*",)))
    recipe = {**load_artifact(tmp_path / "k.safetensors").recipe, "level": "integer-only"}
    found = honesty(rewritten(tmp_path / "k.safetensors", tmp_path / "l.safetensors", recipe=recipe))
    assert found["violations"][:2] == [
        "claims level integer-only, reaches partial",
        "classifier.weight (linear): could be packed and is stored in float32",
    ]


def test_a_bypassed_projection_in_a_real_model_is_named(computed: Path) -> None:
    """Trap 1 in the model itself: fc1 is packed, and its parent computes with a float copy."""
    source = open_source(computed)
    loaded = build_model(source)
    layer = loaded.module.encoder.transformer_layers[0]
    copy, bias = layer.fc1.packed.dequantize(), layer.fc1.bias
    forward = layer.forward

    def bypassing(*args: object, **kwargs: object) -> Tensor:
        fc1 = layer.fc1
        layer.fc1 = None
        object.__setattr__(layer, "fc1", lambda x: F.linear(x, copy, bias))
        try:
            return forward(*args, **kwargs)
        finally:
            del layer.__dict__["fc1"]
            layer.fc1 = fc1

    layer.forward = bypassing
    found = audit_artifact(source, loaded)
    assert isinstance(layer.fc1, IntegerLinear) and found["reached"] == "partial"
    assert any(
        "encoder.transformer_layers.0.fc1 (IntegerLinear): is packed but never ran" in line
        for line in found["violations"]
    )
    assert any(
        line.startswith("encoder.transformer_layers.0 (TransformerEncoderLayer): aten.")
        and "MACs on float32 x float32" in line
        for line in found["violations"]
    )


def test_a_shortfall_names_its_first_reasons(computed: Path) -> None:
    found = honesty(computed)
    assert shortfall(found, "computed") is None and shortfall(found, "stored") is None
    line = shortfall(found, "integer-only")
    assert line is not None and line.startswith("level integer-only is required, computed is reached: encoder.")
    assert "\n" not in line and json.dumps(line)


@pytest.fixture(scope="module")
def integer_only(tiny_s2t: Path, tiny_speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audit") / "i.safetensors"
    quantize(tiny_s2t, path, QuantizeConfig(level="integer-only"), calibrate=Calibrate(tiny_speech))
    return path


def test_an_integer_only_model_has_no_float_left_while_decoding_either(integer_only: Path) -> None:
    found = honesty(integer_only)
    assert (found["claimed"], found["reached"]) == ("integer-only", "integer-only")
    assert found["violations"] == [] and found["float_ops"] == [] and found["prevents"] == {}
    assert {(crossing["run"], crossing["op"].partition(".")[2]) for crossing in found["crossings"]} == {
        (run, op) for run in ("forward", "decoding") for op in ("enter_integers", "leave_integers")
    }


@pytest.mark.parametrize("where", ["encoder.transformer_layers.0.fc1", "decoder.layers.1.fc2"])
def test_one_float_operation_in_one_module_costs_the_level(integer_only: Path, where: str) -> None:
    source = open_source(integer_only)
    loaded = build_model(source)
    forward = loaded.module.get_submodule(where).forward

    def floating(*args: object) -> object:
        torch.zeros(3, dtype=torch.int8).float()
        return forward(*args)

    loaded.module.get_submodule(where).forward = floating  # type: ignore[method-assign]
    found = audit_artifact(source, loaded)
    assert found["reached"] == "computed"
    assert [(entry["module"], entry["op"]) for entry in found["float_ops"]] == [(where, "aten._to_copy")]


def test_a_float_that_only_decoding_uses_is_found(integer_only: Path) -> None:
    source = open_source(integer_only)
    loaded = build_model(source)
    attention = loaded.module.decoder.layers[0].self_attn
    forward = attention.forward

    def floating(*args: object, **kwargs: object) -> object:
        if kwargs.get("incremental_state") is not None:
            torch.zeros(3, dtype=torch.int8).float()
        return forward(*args, **kwargs)

    attention.forward = floating
    found = audit_artifact(source, loaded)
    assert found["reached"] == "computed"
    assert [(entry["run"], entry["module"]) for entry in found["float_ops"]] == [
        ("decoding", "decoder.layers.0.self_attn")
    ]
    assert any(line.startswith("while decoding: decoder.layers.0.self_attn") for line in found["violations"])
