"""Sparse weights in a file: floats with a pattern or a bitmask, and codes with a bitmask, bit for bit and no byte more."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from asrcompress.artifact import ArtifactContent, load_artifact, save_artifact
from asrcompress.artifact_file import byte_ledger
from asrcompress.artifact_size import artifact_size_bytes, weight_size_bytes
from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity, QuantizedWeight
from asrcompress.packing import pack_mask
from asrcompress.patterns import UNSTRUCTURED, keep_largest
from asrcompress.quantizers import asymmetric
from asrcompress.quantizers.rtn import quantize
from asrcompress.sparse import SparseWeight
from tests.test_artifact_hostile import rebuilt, refused


def masked(values: Tensor, mask: Tensor, **more: Any) -> SparseWeight:
    return SparseWeight(torch.where(mask, values, torch.zeros_like(values)), mask, tuple(values.shape), **more)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def make_sparse_floats() -> ArtifactContent:
    """Floats of every type, with patterns and without, a convolution, and a kept value that is 0."""
    rows = random(6, 24)
    sparse: dict[str, SparseWeight] = {}
    for place, (dtype, pattern) in enumerate(
        itertools.product((torch.float32, torch.float16, torch.bfloat16), ((2, 4), (1, 4), (5, 12)))
    ):
        sparse[f"n{place}.weight"] = masked(rows.to(dtype), keep_largest(rows.abs(), *pattern), pattern=pattern)
    sparse["u.weight"] = masked(rows, rows.abs() > 0.8)
    sparse["none.weight"] = masked(rows, torch.zeros(6, 24, dtype=torch.bool))
    sparse["half.weight"] = masked(rows.half(), rows > 0, method="magnitude")
    zero = masked(rows * (rows > 0), keep_largest(rows.abs(), 4, 8), pattern=(4, 8))
    sparse["conv.weight"] = dataclasses.replace(zero, shape=(6, 2, 3, 4))
    return ArtifactContent("kws_crnn", {"a": 1}, None, {}, {}, {}, {"bias": torch.zeros(3)}, sparse=sparse)


def make_unstructured() -> ArtifactContent:
    """Codes of every width of which half, most or few are 0, on symmetric and asymmetric grids, and signs."""
    rows = random(6, 24)
    quantized = {}
    for place, (num_bits, share) in enumerate(itertools.product((8, 4, 3, 2), (0.5, 0.1, 0.95))):
        sparse = torch.where(rows.abs() > rows.abs().quantile(1 - share), rows, torch.zeros(()))
        quantizer = asymmetric.quantize if place % 3 == 0 else quantize
        packed = quantizer(sparse, num_bits=num_bits, granularity=Granularity.parse("per_group:6"))
        quantized[f"q{place}.weight"] = dataclasses.replace(packed, pattern=UNSTRUCTURED)
    few = torch.tensor([1, 0, 0, -1, 0, 0, 0, 1], dtype=torch.int8).repeat(6, 3)
    for name, codes, num_bits in (("b", few, 1), ("full", rows.sign().to(torch.int8), 1), ("zero", few * 0, 4)):
        granularity = Granularity("per_channel")
        weight = QuantizedWeight(codes, torch.ones(6, 1).half(), num_bits, granularity, (6, 24), pattern=UNSTRUCTURED)
        quantized[f"{name}.weight"] = weight
    return dataclasses.replace(make_sparse_floats(), quantized=quantized, sparse={})


MAKERS = [make_sparse_floats, make_unstructured]


def sizes_in(path: Path) -> dict[str, int]:
    return {entry["name"]: entry["size_bytes"] for entry in byte_ledger(path)}


def test_sparse_floats_come_back_as_they_were_in_the_bytes_that_they_take(tmp_path: Path) -> None:
    content = make_sparse_floats()
    save_artifact(tmp_path / "x", content)
    back, sizes = load_artifact(tmp_path / "x"), sizes_in(tmp_path / "x")
    assert back.sparse.keys() == content.sparse.keys()
    for name, weight in content.sparse.items():
        read = back.sparse[name]
        assert read.values.dtype == weight.values.dtype
        assert torch.equal(read.values, weight.values)
        assert torch.equal(read.mask, weight.mask)
        assert (read.shape, read.pattern, read.method) == (weight.shape, weight.pattern, weight.method)
        assert read.dequantize().dtype == torch.float32
        assert tuple(read.dequantize().shape) == weight.shape
        assert sizes[f"{name}_values"] == int(weight.mask.sum()) * weight.values.element_size()
        assert (f"{name}_bitmask" in sizes) == (weight.pattern is None)
    assert sizes["u.weight_bitmask"] == 18  # 144 bits
    assert sizes["n0.weight_pattern"] == 14  # 36 groups of 3 bits
    assert sizes["none.weight_values"] == 0


def test_unstructured_codes_come_back_in_the_smaller_of_two_forms(tmp_path: Path) -> None:
    content = make_unstructured()
    save_artifact(tmp_path / "x", content)
    back, sizes = load_artifact(tmp_path / "x").quantized, sizes_in(tmp_path / "x")
    forms = set()
    for name, weight in content.quantized.items():
        assert torch.equal(back[name].codes, weight.codes)
        assert torch.equal(back[name].dequantize(), weight.dequantize())
        assert back[name].pattern == UNSTRUCTURED
        zero = 0 if weight.zero_point is None else weight.zero_point.repeat_interleave(6, dim=1)
        kept = int((weight.codes != zero).sum())
        masked_size, dense_size = 18 + -(-kept * weight.num_bits // 8), -(-144 * weight.num_bits // 8)
        found = sizes[f"{name}_packed"] + sizes.get(f"{name}_bitmask", 0)
        forms.add(f"{name}_bitmask" in sizes)
        assert found == (masked_size if name == "b.weight" else min(masked_size, dense_size))
    assert forms == {True, False}
    assert sizes["b.weight_packed"] == 7  # 54 signs


@pytest.mark.parametrize("make", MAKERS)
def test_saving_what_was_loaded_gives_the_same_bytes_and_the_size_that_was_said(make: Any, tmp_path: Path) -> None:
    save_artifact(tmp_path / "x", make())
    save_artifact(tmp_path / "again", load_artifact(tmp_path / "x"))
    assert (tmp_path / "again").read_bytes() == (tmp_path / "x").read_bytes()
    assert artifact_size_bytes(make()) == (tmp_path / "x").stat().st_size
    entries = byte_ledger(tmp_path / "x")
    assert sum(entry["size_bytes"] for entry in entries) == (tmp_path / "x").stat().st_size
    kinds = {entry["name"]: entry["kind"] for entry in entries}
    for name in (*make().sparse, *make().quantized):
        parts = {part: kind for part, kind in kinds.items() if part.startswith(f"{name}_")}
        assert all(kind == f"weight_{part.removeprefix(name)[1:]}" for part, kind in parts.items())
        weight = make().sparse.get(name) or make().quantized[name]
        assert weight_size_bytes(name, weight, offset_digits=4) > sum(
            entry["size_bytes"] for entry in entries if entry["name"] in parts
        )


def test_the_entry_says_what_is_stored(tmp_path: Path) -> None:
    save_artifact(tmp_path / "x", make_sparse_floats())
    with safe_open(tmp_path / "x", framework="pt") as handle:
        weights = json.loads(bytes(handle.get_tensor("asrcompress.json").numpy()))["weights"]
    assert weights["n3.weight"] == {"dtype": "float16", "shape": [6, 24], "pattern": "2:4"}
    assert weights["half.weight"] == {
        "dtype": "float16", "shape": [6, 24], "pattern": "unstructured", "method": "magnitude"
    }  # fmt: skip
    assert weights["conv.weight"]["shape"] == [6, 2, 3, 4]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 30), st.sampled_from([8, 4, 3, 2, 1]), st.randoms(use_true_random=False))
def test_any_codes_come_back(tmp_path_factory: Any, rows: int, columns: int, num_bits: int, chance: Any) -> None:
    high = max(2 ** (num_bits - 1) - 1, 1)
    codes = [chance.choice([0, chance.randint(-high, high)]) for _ in range(rows * columns)]
    weight = QuantizedWeight(
        torch.tensor(codes, dtype=torch.int8).reshape(rows, columns), torch.ones(rows, 1), num_bits,
        Granularity("per_channel"), (rows, columns), pattern=UNSTRUCTURED,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("any") / "x"
    save_artifact(path, ArtifactContent("kws_crnn", {}, None, {}, {}, {"w": weight}, {}))
    assert torch.equal(load_artifact(path).quantized["w"].codes, weight.codes)


@pytest.mark.parametrize("part", ["values", "pattern", "bitmask", "packed", "scale"])
def test_a_float_tensor_cannot_take_a_name_of_the_format(part: str, tmp_path: Path) -> None:
    content = make_sparse_floats()
    content.floats[f"u.weight_{part}"] = torch.ones(2)
    with pytest.raises(AsrCompressError, match="is taken"):
        save_artifact(tmp_path / "x", content)


@pytest.mark.parametrize(
    ("weight", "what"),
    [
        (SparseWeight(torch.ones(1, 4), torch.tensor([[True, True, True, False]]), (1, 4)), "dropped value is not 0"),
        (masked(torch.ones(1, 4), torch.tensor([[True, True, True, False]]), pattern=(2, 4)), "more that is not zero"),
        (masked(torch.ones(1, 4), torch.tensor([[True, False, False, False]]), pattern=(2, 4)), "keeps fewer"),
    ],
)
def test_a_mask_that_is_not_what_it_says_is_a_bug_that_leaves_nothing(
    weight: SparseWeight, what: str, tmp_path: Path
) -> None:
    content = dataclasses.replace(make_sparse_floats(), sparse={"w": weight})
    with pytest.raises(ValueError, match=what):
        save_artifact(tmp_path / "x", content)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """u.weight: floats with a bitmask; n0.weight: 2:4 floats; q.weight: 4-bit codes with a bitmask."""
    floats, codes = make_sparse_floats(), make_unstructured()
    sparse = {name: floats.sparse[name] for name in ("u.weight", "n0.weight")}
    path = tmp_path_factory.mktemp("good") / "x"
    save_artifact(
        path, dataclasses.replace(floats, sparse=sparse, quantized={"q.weight": codes.quantized["q3.weight"]})
    )
    return path.read_bytes()


def change(**tensors: Any) -> Any:
    """A change to some tensors: each is given what is there and says what is there instead."""

    def apply(record: dict[str, Any], there: dict[str, Tensor]) -> None:
        for name, alter in tensors.items():
            there[name] = alter(there[name])

    return apply


def entry(name: str, **values: Any) -> Any:
    def apply(record: dict[str, Any], there: dict[str, Tensor]) -> None:
        record["weights"][name] |= values

    return apply


def flip(bitmask: Tensor) -> Tensor:
    """The bitmask with one more weight kept."""
    bits = torch.tensor([bool(bitmask[i // 8] >> (i % 8) & 1) for i in range(144)])
    bits[(~bits).nonzero()[0]] = True
    return pack_mask(bits)


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (change(**{"u.weight_bitmask": flip}), "are kept"),
        (change(**{"u.weight_bitmask": lambda bits: bits[:-1]}), "18 bytes are due"),
        (change(**{"u.weight_bitmask": lambda bits: bits.to(torch.int8)}), "18 bytes are due"),
        (change(**{"u.weight_values": lambda values: values[:-1]}), "are kept"),
        (change(**{"u.weight_values": lambda values: values.half()}), "its entry says float32"),
        (change(**{"u.weight_values": lambda values: values * float("nan")}), "NaN"),
        (change(**{"n0.weight_values": lambda values: values.flatten()}), "are kept"),
        (change(**{"n0.weight_pattern": lambda codes: torch.cat([codes[:1] | 7, codes[1:]])}), "none of the 6 choices"),
        (change(**{"q.weight_bitmask": flip}), "packed bytes|stands for 0"),
        (change(**{"q.weight_packed": lambda codes: codes & 15}), "stands for 0"),
        (entry("u.weight", pattern="2:4"), "bitmask"),
        (entry("n0.weight", pattern="unstructured"), "group codes"),
        (entry("n0.weight", pattern="1:4"), "due|kept"),
        (entry("n0.weight", pattern="2:5"), "do not divide"),
        (entry("n0.weight", pattern=None), "group codes"),
        (entry("n0.weight", shape=[6, 10**30]), "."),
        (entry("u.weight", shape=[10**15, 10**15]), "due"),
        (entry("u.weight", shape=[144]), "shape"),
        (entry("u.weight", dtype="float64"), "float64"),
        (entry("u.weight", dtype=["float32"]), "."),
        (entry("u.weight", method=3), "method"),
        (entry("q.weight", pattern="2:4"), "packed bytes|bitmask"),
        (entry("q.weight", pattern=None), "bitmask"),
        (entry("q.weight", num_bits=2), "packed bytes"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(alter: Any, message: str, good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert re.search(message, refused(path, rebuilt(path, good, alter)))


@pytest.mark.parametrize("name", ["u.weight_values", "u.weight_bitmask", "n0.weight_pattern", "q.weight_packed"])
def test_what_is_missing_is_named(name: str, good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert f"'{name}' is missing" in refused(path, rebuilt(path, good, lambda record, there: there.pop(name)))
