"""The artifact: exact round trips, the same bytes every time, and a ledger that knows every byte.

Damaged and hostile files are in test_artifact_hostile.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from asrcompress.artifact import ArtifactContent, load_artifact, narrow_float, save_artifact
from asrcompress.artifact_file import FORMAT, byte_ledger, is_artifact
from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity, QuantizedWeight
from asrcompress.integers.grid import Grid
from asrcompress.patterns import code_sizes
from asrcompress.quantizers import asymmetric, binary
from asrcompress.quantizers.rtn import quantize


def make_content() -> ArtifactContent:
    """One weight per width and granularity, tensors of several types, and a tied name."""
    torch.manual_seed(0)
    shapes = {"fc.weight": (5, 12), "conv.0.weight": (4, 3, 2, 2), "embed.weight": (9, 8), "gru.weight_ih_l0": (7, 9)}
    grids = zip((8, 4, 3, 2), ("per_channel", "per_group:4", "per_group:2", "per_tensor"), strict=True)
    quantized = {
        name: quantize(torch.randn(shape), num_bits=num_bits, granularity=Granularity.parse(granularity))
        for (name, shape), (num_bits, granularity) in zip(shapes.items(), grids, strict=True)
    }
    floats = {
        "fc.bias": torch.randn(5).half().float(),
        "norm.weight": torch.ones(8),
        "wide": torch.tensor([1e6, 1.0]),
        "table": torch.randn(3, 4),
        "steps": torch.tensor(12345, dtype=torch.int64),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0),
    }
    config = {"arguments": {"b": 1, "a": None, "ratio": 0.1}, "names": ["z", "a"]}
    recipe = {"num_bits": 8, "exclude": []}
    return ArtifactContent(
        "kws_crnn",
        config,
        ["▁on", "größe", "a"],
        recipe,
        {"sha256": "0" * 64},
        quantized,
        floats,
        {"out.weight": "embed.weight"},
    )


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "x.safetensors"
    save_artifact(path, make_content())
    return path


def test_everything_comes_back_as_it_was(artifact):
    content, back = make_content(), load_artifact(artifact)
    for field in ("family", "config", "vocabulary", "recipe", "parent", "tied"):
        assert getattr(back, field) == getattr(content, field)
    assert back.quantized.keys() == content.quantized.keys()
    for name, weight in content.quantized.items():
        read = back.quantized[name]
        assert torch.equal(read.codes, weight.codes)
        assert torch.equal(read.scale, weight.scale)
        assert read.scale.dtype == weight.scale.dtype
        assert (read.num_bits, read.granularity, read.shape) == (weight.num_bits, weight.granularity, weight.shape)
    assert back.floats.keys() == content.floats.keys()
    for name, tensor in content.floats.items():
        assert torch.equal(back.floats[name].to(tensor.dtype), tensor), name
        assert back.floats[name].shape == tensor.shape


def test_grids_come_back_and_models_without_them_have_no_such_key(tmp_path):
    grids = {":input": Grid(0.25, 0, 16), "fc:in": Grid(0.5, -3, 8), "fc:out": Grid(1e-4, 0, 16)}
    save_artifact(tmp_path / "x", dataclasses.replace(make_content(), grids=grids))
    assert load_artifact(tmp_path / "x").grids == grids
    save_artifact(tmp_path / "y", make_content())
    assert load_artifact(tmp_path / "y").grids == {}
    assert b'"grids"' not in (tmp_path / "y").read_bytes()


def make_zero_points() -> ArtifactContent:
    """Asymmetric grids at every width, one bit, and a method that `auto` picked."""
    weight = torch.rand(5, 12, generator=torch.Generator().manual_seed(0)) - 0.2
    quantized = {
        f"a{num_bits}.weight": asymmetric.quantize(
            weight, num_bits=num_bits, granularity=Granularity.parse(granularity)
        )
        for num_bits, granularity in zip(
            (8, 4, 3, 2), ("per_channel", "per_tensor", "per_group:4", "per_group:2"), strict=True
        )
    }
    quantized["b.weight"] = binary.quantize(weight, num_bits=1, granularity=Granularity.parse("per_group:6"))
    quantized["c.weight"] = dataclasses.replace(
        asymmetric.quantize(weight, num_bits=4, granularity=Granularity("per_channel")), method="asymmetric"
    )
    return dataclasses.replace(make_content(), quantized=quantized, tied={})


def through_a_file(path, content):
    """The weights as they come back, which have the same codes and values, and the ledger's entries by name."""
    save_artifact(path, content)
    back = load_artifact(path).quantized
    for name, weight in content.quantized.items():
        assert torch.equal(back[name].codes, weight.codes)
        assert torch.equal(back[name].dequantize(), weight.dequantize())
    return back, {entry["name"]: entry for entry in byte_ledger(path)}


def test_zero_points_one_bit_and_methods_come_back(tmp_path):
    content = make_zero_points()
    back, entries = through_a_file(tmp_path / "x", content)
    for name, weight in content.quantized.items():
        assert back[name].method == weight.method
        assert (f"{name}_zero_point" in entries) == (weight.zero_point is not None)
        if weight.zero_point is not None:
            assert torch.equal(back[name].zero_point, weight.zero_point)
            entry = entries[f"{name}_zero_point"]  # packed with the bits of the codes, not a byte each
            assert entry["kind"] == "weight_zero_point"
            assert entry["size_bytes"] == -(-weight.scale.numel() * weight.num_bits // 8)
    assert entries["b.weight_packed"]["size_bytes"] == 8  # 60 signs
    assert sum(entry["size_bytes"] for entry in entries.values()) == (tmp_path / "x").stat().st_size


def make_sparse() -> ArtifactContent:
    """Patterns at every width, on symmetric and asymmetric grids, and at one bit."""
    weight = torch.rand(6, 24, generator=torch.Generator().manual_seed(0)) - 0.4
    quantized = {}
    for place, (num_bits, pattern) in enumerate(itertools.product((8, 4, 3, 2), ((2, 4), (1, 4), (5, 12)))):
        sparse = weight.clone().reshape(6, -1, pattern[1])
        sparse[..., pattern[0] :] = 0
        quantizer = asymmetric.quantize if place % 2 else quantize
        # Groups of 6 that share a scale do not fall together with those of the pattern.
        packed = quantizer(sparse.reshape(6, 24), num_bits=num_bits, granularity=Granularity.parse("per_group:6"))
        quantized[f"s{place}.weight"] = dataclasses.replace(packed, pattern=pattern)
    signs = torch.tensor([1, 0, 0, -1, 0, 0, 1, 1], dtype=torch.int8).repeat(6, 3)
    quantized["b.weight"] = QuantizedWeight(
        signs, torch.ones(6, 1).half(), 1, Granularity("per_channel"), (6, 24), pattern=(2, 4)
    )
    return dataclasses.replace(make_content(), quantized=quantized, tied={})


def test_patterns_come_back_in_the_bytes_that_they_take(tmp_path):
    content = make_sparse()
    back, entries = through_a_file(tmp_path / "x", content)
    for name, weight in content.quantized.items():
        assert back[name].pattern == weight.pattern
        assert entries[f"{name}_pattern"]["kind"] == "weight_pattern"
        sizes = code_sizes(6 * 24, weight.num_bits, weight.pattern)
        assert {part: entries[f"{name}_{part}"]["size_bytes"] for part in sizes} == sizes
    assert entries["b.weight_packed"]["size_bytes"] == 9  # 72 signs of 144
    assert entries["b.weight_pattern"]["size_bytes"] == 14  # 36 groups of 3 bits
    assert sum(entry["size_bytes"] for entry in entries.values()) == (tmp_path / "x").stat().st_size
    save_artifact(tmp_path / "again", load_artifact(tmp_path / "x"))
    assert (tmp_path / "again").read_bytes() == (tmp_path / "x").read_bytes()


def test_a_symmetric_weight_adds_no_key(artifact):
    with safe_open(artifact, framework="pt") as handle:
        record = json.loads(bytes(handle.get_tensor("asrcompress.json").numpy()))
    assert all(entry.keys() == {"num_bits", "granularity", "shape"} for entry in record["weights"].values())


def test_saving_what_was_loaded_gives_the_same_bytes(artifact, tmp_path):
    save_artifact(tmp_path / "again", load_artifact(artifact))
    assert (tmp_path / "again").read_bytes() == artifact.read_bytes()


def test_the_order_of_names_does_not_matter(artifact, tmp_path):
    content = make_content()
    backwards = {
        field: dict(reversed(getattr(content, field).items()))
        for field in ("config", "recipe", "quantized", "floats", "tied")
    }
    save_artifact(tmp_path / "backwards", dataclasses.replace(content, **backwards))
    assert (tmp_path / "backwards").read_bytes() == artifact.read_bytes()


def test_another_process_with_another_hash_seed_writes_the_same_bytes(artifact, tmp_path):
    other = tmp_path / "other"
    code = f"import test_artifact; test_artifact.save_artifact({str(other)!r}, test_artifact.make_content())"
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=here, env=os.environ | {"PYTHONHASHSEED": seed})
    assert hashlib.sha256(other.read_bytes()).digest() == hashlib.sha256(artifact.read_bytes()).digest()


def test_the_ledger_sums_to_the_file(artifact):
    entries = byte_ledger(artifact)
    assert sum(entry["size_bytes"] for entry in entries) == artifact.stat().st_size
    with safe_open(artifact, framework="pt") as handle:
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    sizes = {entry["name"]: entry["size_bytes"] for entry in entries if entry["kind"] not in ("header", "gap")}
    assert sizes == {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    kinds = {entry["name"]: entry["kind"] for entry in entries}
    assert kinds["fc.weight_packed"] == "weight_packed"
    assert kinds["fc.weight_scale"] == "weight_scale"
    assert kinds["fc.bias"] == kinds["steps"] == "float"
    assert kinds["asrcompress.json"] == "json"
    assert "gap" not in kinds
    assert (sizes["fc.bias"], sizes["wide"]) == (5 * 2, 2 * 4)  # half where it costs nothing, and only there


def test_a_packed_weight_takes_its_bits_and_no_more(artifact):
    sizes = {entry["name"]: entry["size_bytes"] for entry in byte_ledger(artifact)}
    for name, weight in make_content().quantized.items():
        assert sizes[f"{name}_packed"] == -(-weight.codes.numel() * weight.num_bits // 8)


def test_no_float_copy_of_a_packed_weight_and_no_tied_copy_is_stored(artifact):
    names = {entry["name"] for entry in byte_ledger(artifact)}
    content = make_content()
    expected = {f"{name}_{part}" for name in content.quantized for part in ("packed", "scale")}
    assert names == expected | content.floats.keys() | {"asrcompress.json", "header"}


def test_a_view_writes_its_own_bytes_only(tmp_path):
    # REFERENCE, trap 4: a saved view writes its whole storage.
    storage = torch.randn(1000, 4)
    content = dataclasses.replace(make_content(), floats={"a": storage[:2], "b": storage[5:6], "c": storage.t()[:1]})
    save_artifact(tmp_path / "views", content)
    sizes = {entry["name"]: entry["size_bytes"] for entry in byte_ledger(tmp_path / "views")}
    assert (sizes["a"], sizes["b"], sizes["c"]) == (32, 16, 4000)
    assert torch.equal(load_artifact(tmp_path / "views").floats["c"], storage.t()[:1])


def test_small_floats_are_narrowed_where_that_costs_nothing():
    values = torch.tensor([1.0, -3.14159, 1e-3, 6e-5, 1e-7, 0.0])
    narrow = narrow_float(values)
    assert narrow.dtype == torch.float16
    assert (
        (narrow.double() - values.double()).abs()
        <= torch.maximum(values.double().abs() * 2**-11, torch.tensor(2.0**-25))
    ).all()
    for kept in (
        torch.tensor([65505.0, 1.0]),
        torch.tensor([6e-5]),
        torch.ones(2, 2),
        torch.tensor([float("nan")]),
        torch.ones(2).double(),
    ):
        assert narrow_float(kept) is kept


def test_the_header_is_one_that_safetensors_itself_reads(artifact):
    with safe_open(artifact, framework="pt") as handle:
        assert handle.metadata() == {"format": FORMAT}


def test_only_artifacts_are_taken_for_artifacts(artifact, tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "plain.safetensors", metadata={"format": "pt"})
    (tmp_path / "text").write_text("hello, world")
    (tmp_path / "empty").touch()
    assert is_artifact(artifact)
    assert not any(is_artifact(tmp_path / name) for name in ("plain.safetensors", "text", "empty", "absent", "."))


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_the_umask_says_who_may_read_it(tmp_path, mask, mode):
    # REFERENCE, trap 13.
    before = os.umask(mask)
    try:
        save_artifact(tmp_path / "x", make_content())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode


def test_nothing_is_replaced_without_force(artifact):
    other = dataclasses.replace(make_content(), family="s2t_transformer")
    before = artifact.read_bytes()
    with pytest.raises(AsrCompressError, match="--force"):
        save_artifact(artifact, other)
    assert artifact.read_bytes() == before
    save_artifact(artifact, other, force=True)
    assert load_artifact(artifact).family == "s2t_transformer"


@pytest.mark.parametrize("force", [False, True])
def test_an_interrupt_while_writing_leaves_nothing_new(tmp_path, monkeypatch, force):
    path = tmp_path / "x"
    if force:
        path.write_bytes(b"old")

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_artifact(path, make_content(), force=force)
    assert os.listdir(tmp_path) == (["x"] if force else [])
    assert not force or path.read_bytes() == b"old"


@pytest.mark.parametrize(
    "name", ["fc.weight_packed", "fc.weight_scale", "fc.weight_zero_point", "fc.weight_pattern", "asrcompress.json"]
)
def test_a_float_tensor_cannot_take_a_name_of_the_format(tmp_path, name):
    content = make_content()
    content.floats[name] = torch.ones(2)
    with pytest.raises(AsrCompressError, match=f"'{name}' is taken"):
        save_artifact(tmp_path / "x", content)
    assert os.listdir(tmp_path) == []


def test_nan_in_the_record_is_a_bug_that_leaves_nothing(tmp_path):
    with pytest.raises(ValueError):
        save_artifact(tmp_path / "x", dataclasses.replace(make_content(), config={"a": float("nan")}))
    assert os.listdir(tmp_path) == []


def test_the_vocabulary_is_stored_as_text(artifact):
    with safe_open(artifact, framework="pt") as handle:
        record = json.loads(bytes(handle.get_tensor("asrcompress.json").numpy()))
    assert record["vocabulary"] == ["▁on", "größe", "a"]
