"""Entropy coding: exact, only where it saves something, one tensor at a time; hostile frames are refused before they unpack."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from asrcompress.artifact import ArtifactContent, load_artifact, save_artifact
from asrcompress.artifact_file import byte_ledger, read_record
from asrcompress.artifact_size import size_bytes_without_coding
from asrcompress.entropy import DTYPE_OF, MAGIC, decode, decode_text, encode, encode_text
from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity
from asrcompress.quantizers.rtn import quantize
from tests.test_artifact import make_content, make_sparse
from tests.test_artifact_hostile import rebuilt, refused
from tests.test_sparse import make_sparse_floats, make_unstructured


def coded(content: ArtifactContent) -> ArtifactContent:
    return dataclasses.replace(content, recipe=content.recipe | {"entropy_coding": "zstd"})


def with_codes(bits: int) -> ArtifactContent:
    """A content with a weight that is worth coding, in the middle of small ones that are not."""
    content = make_content()
    weight = torch.randn(64, 100, generator=torch.Generator().manual_seed(bits))
    content.quantized["big.weight"] = quantize(weight, num_bits=bits, granularity=Granularity("per_channel"))
    content.floats["ones"] = torch.ones(500)
    return content


@pytest.mark.parametrize("dtype", [each for each in DTYPE_OF.values() if not str(each).startswith("torch.float8")])
def test_a_tensor_of_any_type_comes_back_bit_for_bit(dtype: torch.dtype) -> None:
    tensor = (torch.arange(600) % 7).to(dtype).reshape(20, 30)
    found = encode("name", tensor.t())
    assert found is not None
    frame, plain = found
    assert frame.numel() < tensor.numel() * tensor.element_size()
    back = decode("name", frame, json.loads(json.dumps(plain)))
    assert back.dtype == dtype
    assert torch.equal(back, tensor.t())


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 6))
def test_any_bytes_come_back_and_what_saves_nothing_is_left_alone(data: bytes, times: int) -> None:
    tensor = torch.tensor(list(data * times), dtype=torch.uint8)
    found = encode("a name", tensor)
    if found is not None:
        frame, plain = found
        assert torch.equal(decode("a name", frame, plain), tensor)
        assert frame.numel() + len(json.dumps({"a name": plain}, separators=(",", ":"))) <= tensor.numel()


@pytest.mark.parametrize(
    "make", [lambda: with_codes(4), lambda: with_codes(2), make_sparse, make_sparse_floats, make_unstructured]
)
def test_the_same_comes_back_from_a_smaller_file_and_the_sidecars_figures_are_exact(make: Any, tmp_path: Path) -> None:
    plain, small = tmp_path / "plain", tmp_path / "small"
    save_artifact(plain, make())
    save_artifact(small, coded(make()))
    assert small.stat().st_size < plain.stat().st_size
    assert size_bytes_without_coding(small) == plain.stat().st_size == size_bytes_without_coding(plain)
    one, other = load_artifact(plain), load_artifact(small)
    assert other.recipe == one.recipe | {"entropy_coding": "zstd"}
    for name, weight in one.quantized.items():
        assert torch.equal(other.quantized[name].codes, weight.codes)
        assert torch.equal(other.quantized[name].dequantize(), weight.dequantize())
    for name, sparse in one.sparse.items():
        assert torch.equal(other.sparse[name].values, sparse.values)
        assert torch.equal(other.sparse[name].mask, sparse.mask)
    for name, tensor in one.floats.items():
        assert other.floats[name].dtype == tensor.dtype
        assert torch.equal(other.floats[name], tensor)
    save_artifact(tmp_path / "again", other)
    assert (tmp_path / "again").read_bytes() == small.read_bytes()


def test_only_what_gets_smaller_is_coded_and_safetensors_reads_the_file(tmp_path: Path) -> None:
    save_artifact(tmp_path / "x", coded(with_codes(4)))
    tensors, record = read_record(tmp_path / "x")
    assert set(record["coded"]) == {"big.weight_packed", "ones"}
    assert record["coded"]["big.weight_packed"] == ["U8", [3200]]
    assert record["coded"]["ones"] == ["F16", [500]]
    with safe_open(tmp_path / "x", framework="pt") as handle:
        stored = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    for name in record["coded"]:
        assert tensors[name]["dtype"] == "U8"
        frame = bytes(stored[name].numpy())
        assert frame[:4] == MAGIC
        assert len(zstandard.ZstdDecompressor().decompress(frame)) in (3200, 1000)
    assert bytes(stored["asrcompress.json"].numpy())[:4] == MAGIC
    entries = byte_ledger(tmp_path / "x")
    assert sum(entry["size_bytes"] for entry in entries) == (tmp_path / "x").stat().st_size
    assert {entry["kind"] for entry in entries if entry["name"] == "big.weight_packed"} == {"weight_packed"}
    assert {entry["kind"] for entry in entries if entry["name"] == "asrcompress.json"} == {"json"}


def test_a_short_text_stays_plain() -> None:
    assert bytes(encode_text("{}").numpy()) == b"{}"
    assert decode_text("t", encode_text("{}")) == b"{}"
    assert decode_text("t", encode_text("größe" * 50)) == ("größe" * 50).encode()


def frame_of(size: int) -> Tensor:
    return torch.frombuffer(bytearray(zstandard.ZstdCompressor().compress(bytes(size))), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        (None, "not recorded"),
        (["U8"], "not recorded"),
        (["U8", 9], "not recorded"),
        (["U9", [1000]], "no type 'U9'"),
        ([["U8"], [1000]], "no type"),
        (["U8", [-1000]], "no shape"),
        (["U8", [1000.0]], "no shape"),
        (["U8", [True]], "no shape"),
        (["U8", [10**30]], "no shape"),
        (["U8", [2**40, 2**40]], "holds 1000 bytes where"),
        (["U8", [999]], "holds 1000 bytes where 999 are due"),
        (["F32", [1000]], "holds 1000 bytes where 4000 are due"),
        (["U8", [1] * 17], "no shape"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(plain: Any, message: str) -> None:
    with pytest.raises(AsrCompressError, match=message):
        decode("w", frame_of(1000), plain)


def without_size(size: int) -> Tensor:
    """A frame that does not say how much it holds."""
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(size))
    return torch.frombuffer(bytearray(frame), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (frame_of(1000)[:-1], "damaged"),
        (frame_of(1000)[:5], "damaged|due"),
        (frame_of(1000)[:0], "damaged"),
        (torch.cat([frame_of(1000), torch.zeros(1, dtype=torch.uint8)]), "damaged"),
        (torch.cat([frame_of(1000), frame_of(1000)]), "damaged"),
        (torch.zeros(20, dtype=torch.uint8), "damaged"),
        (without_size(1000), "where 1000 are due"),
        (frame_of(1000).to(torch.int8), "no row of bytes"),
        (frame_of(1000).reshape(1, -1), "no row of bytes"),
    ],
)
def test_a_frame_that_is_none_is_refused(frame: Tensor, message: str) -> None:
    with pytest.raises(AsrCompressError, match=message):
        decode("w", frame, ["U8", [1000]])


def test_a_bomb_is_refused_before_it_unpacks() -> None:
    size = 1 << 28
    frame = frame_of(size)
    assert frame.numel() < 10_000
    tracemalloc.start()
    with pytest.raises(AsrCompressError, match="which none does"):
        decode("w", frame, ["U8", [size]])
    with pytest.raises(AsrCompressError, match="which none does"):
        decode_text("w", frame)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert encode("w", torch.zeros(size, dtype=torch.uint8)) is None  # so it is not written, either


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "x"
    save_artifact(path, coded(with_codes(4)))
    data: bytes = path.read_bytes()
    return data


def in_record(change: Any) -> Any:
    def apply(record: dict[str, Any], there: dict[str, Tensor]) -> None:
        change(record["coded"])

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda coded: coded.pop("big.weight_packed"), "packed bytes"),
        (lambda coded: coded.update(absent=["U8", [1]]), "absent: is said to be coded"),
        (lambda coded: coded.update({"big.weight_packed": ["U8", [3201]]}), "3201 are due"),
        (lambda coded: coded.update({"big.weight_packed": ["I8", [64, 50]]}), "not as unsigned bytes"),
        (lambda coded: coded.update({"big.weight_packed": ["F32", [800]]}), "not as unsigned bytes"),
        (lambda coded: coded.update({"fc.bias": ["F16", [5]]}), "fc.bias"),
    ],
)
def test_what_a_file_says_of_its_frames_must_fit(change: Any, message: str, good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    data = rebuilt(path, good, in_record(change))
    assert message in refused(path, data)


@pytest.mark.parametrize("what", [[], 3, "zstd", None])
def test_what_it_says_must_be_an_object(what: Any, good: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert "object" in refused(path, rebuilt(path, good, lambda record, there: record.update(coded=what)))


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_is_refused_or_read(data: Any, good: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    place, value = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("flip") / "x"
    path.write_bytes(good[:place] + bytes([value]) + good[place + 1 :])
    try:
        load_artifact(path)
    except AsrCompressError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
