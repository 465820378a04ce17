"""Compact artifacts hold what plain ones do, to the bit; every byte of one is accounted for, and damage is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from asrcompress.artifact import ArtifactContent, load_artifact, record_text, save_artifact
from asrcompress.artifact_file import byte_ledger, file_parts, is_artifact, read_record
from asrcompress.artifact_size import artifact_size_bytes, size_bytes_without_coding
from asrcompress.compact import file as compact
from asrcompress.compact import layout
from asrcompress.compact.range_coder import Encoder
from asrcompress.compact.record import put_record
from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity
from asrcompress.integers.grid import Grid
from asrcompress.mapped_artifact import map_artifact
from asrcompress.quantizers import rtn
from tests.test_artifact import make_content, make_sparse, make_zero_points
from tests.test_sparse import make_sparse_floats, make_unstructured


def make_odd() -> ArtifactContent:
    """Scales in float32, floats of other types, one in two dimensions, an empty one, and grids."""
    quantized = {
        "w": rtn.quantize(torch.randn(3, 5) * 1e-7, num_bits=3, granularity=Granularity("per_channel")),
        "v": rtn.quantize(torch.randn(4, 3), num_bits=8, granularity=Granularity("per_tensor")),
    }
    floats = {
        "a": torch.randn(3, 2),
        "b": torch.randn(4).bfloat16(),
        "c": torch.tensor([-(2**63), 2**63 - 1, 0]),
        "d": torch.zeros(0),
        "e": torch.tensor(2.5),
        "f": torch.tensor([True, False]),
        "g": torch.tensor([1e30]),
    }
    grids = {":input": Grid(0.00127), "x:in": Grid(0.1335, -56, 8), "y:out": Grid(1 / 3)}
    return ArtifactContent(
        "kws_crnn", {"s": [2, 8]}, ["ä", "b"], {}, {"sha256": "ab" * 32}, quantized, floats, {"t": "w"}, grids
    )


MAKERS = (make_content, make_zero_points, make_sparse, make_sparse_floats, make_unstructured, make_odd)


def compacted(content: ArtifactContent) -> ArtifactContent:
    return dataclasses.replace(content, recipe={**content.recipe, "compact": True})


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """The same content in a plain and in a compact file."""
    torch.manual_seed(0)
    content = request.param()
    save_artifact(tmp_path / "plain", content)
    save_artifact(tmp_path / "small", compacted(content))
    return tmp_path / "plain", tmp_path / "small"


def test_tensors_and_record_are_those_of_the_plain_file(pair: tuple[Path, Path]) -> None:
    (tensors, record), (found, said) = (file_parts(path.read_bytes(), path) for path in pair)
    assert said == record | {"recipe": record["recipe"] | {"compact": True}}
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].flatten().view(torch.uint8).tolist() == tensor.flatten().view(torch.uint8).tolist(), name


def test_it_is_smaller_and_says_what_it_would_be(pair: tuple[Path, Path]) -> None:
    plain, small = pair
    assert small.stat().st_size < 0.6 * plain.stat().st_size
    assert size_bytes_without_coding(small) == plain.stat().st_size == artifact_size_bytes(load_artifact(plain))


def test_saving_what_was_loaded_gives_the_same_bytes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    save_artifact(tmp_path / "again", load_artifact(pair[1]))
    assert (tmp_path / "again").read_bytes() == pair[1].read_bytes()
    save_artifact(tmp_path / "mapped", map_artifact(pair[1]))
    assert (tmp_path / "mapped").read_bytes() == pair[1].read_bytes()
    plain = load_artifact(pair[1])
    del plain.recipe["compact"]
    save_artifact(tmp_path / "plain again", plain)
    assert (tmp_path / "plain again").read_bytes() == pair[0].read_bytes()


def test_the_ledger_sums_to_the_file_and_no_tensor_takes_more_than_it_holds(pair: tuple[Path, Path]) -> None:
    entries, plain = byte_ledger(pair[1]), {entry["name"]: entry for entry in byte_ledger(pair[0])}
    assert sum(entry["size_bytes"] for entry in entries) == pair[1].stat().st_size
    assert {entry["name"] for entry in entries} - {"coding"} == plain.keys()
    for entry in entries:
        if entry["name"] != "coding":
            assert entry["kind"] == plain[entry["name"]]["kind"]
            assert entry["size_bytes"] <= plain[entry["name"]]["size_bytes"]


def test_it_is_a_safetensors_file_with_one_tensor(pair: tuple[Path, Path]) -> None:
    with safe_open(pair[1], framework="pt") as handle:
        assert handle.metadata() == {"format": "asrcompress.c1"}
        (tensor,) = load_file(pair[1]).values()
    assert save({"compact": tensor}, metadata={"format": "asrcompress.c1"}) == pair[1].read_bytes()
    assert is_artifact(pair[1])
    assert read_record(pair[1])[0].keys() == {"compact"}


def test_what_was_read_may_be_written_to(pair: tuple[Path, Path]) -> None:
    first = load_artifact(pair[1])
    for tensor in first.floats.values():
        tensor.zero_()
    first.recipe["compact"] = False
    assert load_artifact(pair[1]).recipe["compact"] is True
    assert record_text(load_artifact(pair[1])) == record_text(compacted(load_artifact(pair[0])))


def test_what_was_read_shares_nothing_with_what_is_read_again(pair: tuple[Path, Path]) -> None:
    """The last file is kept, as it is asked for again and again."""
    data = pair[1].read_bytes()
    first, plain = compact.read_file(data), compact.read_file(data)
    kept = {name: tensor.clone() for name, tensor in plain.tensors.items()}
    first.record["weights"].clear()
    for tensor in first.tensors.values():
        tensor.zero_()
    again = compact.read_file(data)
    assert again.record == plain.record and again.record["weights"]
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in kept.items())


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(AsrCompressError) as caught:
        load_artifact(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with contextlib.suppress(AsrCompressError):  # it looks at no weight's values
        assert sum(entry["size_bytes"] for entry in byte_ledger(path)) == len(data)
    return str(caught.value)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "x"
    torch.manual_seed(0)
    save_artifact(path, compacted(make_content()))
    return path.read_bytes()


def rewritten(stream: bytes) -> bytes:
    """A sound file around a stream."""
    return save(
        {"compact": torch.frombuffer(bytearray(stream), dtype=torch.uint8)}, metadata={"format": "asrcompress.c1"}
    )


def stream_of(good: bytes) -> bytes:
    return good[8 + int.from_bytes(good[:8], "little") :]


def test_the_file_that_is_damaged_below_is_sound(good: bytes, tmp_path: Path) -> None:
    assert rewritten(stream_of(good)) == good
    (tmp_path / "x").write_bytes(good)
    load_artifact(tmp_path / "x")


def test_a_file_cut_short_or_going_on_is_refused(good: bytes, tmp_path: Path) -> None:
    for size in range(0, len(good), 7):
        refused(tmp_path / "x", good[:size])
    refused(tmp_path / "x", good + b"\0")
    stream = stream_of(good)
    for rest in (b"\0", b"\1", bytes(64)):
        assert "end" in refused(tmp_path / "x", rewritten(stream + rest))


def test_changed_bytes_are_read_as_something_sound_or_refused(good: bytes, tmp_path: Path) -> None:
    rng, stream, path = random.Random(0), stream_of(good), tmp_path / "x"
    for _ in range(150):
        data = bytearray(stream)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(rewritten(bytes(data)))
        try:
            content = load_artifact(path)
        except AsrCompressError as error:
            assert "\n" not in str(error)
            continue
        save_artifact(tmp_path / "again", content, force=True)
        assert sum(entry["size_bytes"] for entry in byte_ledger(path)) == path.stat().st_size


def test_more_in_the_header_is_refused(good: bytes, tmp_path: Path) -> None:
    stream = torch.frombuffer(bytearray(stream_of(good)), dtype=torch.uint8)
    for tensors, metadata in (
        ({"compact": stream, "more": torch.zeros(2)}, {}),
        ({"compact": stream}, {"note": "a copy"}),
        ({"compact": stream.reshape(1, -1)}, {}),
    ):
        assert "header" in refused(tmp_path / "x", save(tensors, metadata={"format": "asrcompress.c1"} | metadata))


def with_record(change: Callable[[dict[str, Any]], None], numbers: int = 0) -> bytes:
    """A stream with a changed record, as `pack` codes it, and some zeros as its tensors."""
    content = compacted(make_content())
    record = json.loads(record_text(content))
    record["floats"] = {name: list(tensor.shape) for name, tensor in content.floats.items()}
    change(record)
    encoder = Encoder()
    put_record(encoder, record)
    encoder.put(("packed", 4), [0] * numbers, width=4, depth=4)
    return rewritten(encoder.finish())


def first_weight(record: dict[str, Any]) -> dict[str, Any]:
    weight: dict[str, Any] = next(iter(record["weights"].values()))
    return weight


@pytest.mark.parametrize(
    "change",
    [
        lambda record: first_weight(record).update(shape=[2**40, 2**40]),
        lambda record: first_weight(record).update(shape=[1 << 11, 1 << 11]),
        lambda record: first_weight(record).update(shape=[-3, 4]),
        lambda record: first_weight(record).update(shape="12"),
        lambda record: first_weight(record).update(shape=[0, 4]),
        lambda record: first_weight(record).update(shape=[]),
        lambda record: first_weight(record).update(num_bits=64),
        lambda record: first_weight(record).update(num_bits=0),
        lambda record: first_weight(record).update(granularity="per_group:3000000000"),
        lambda record: first_weight(record).update(pattern="9:3"),
        lambda record: first_weight(record).update(pattern=["2:4"]),
        lambda record: first_weight(record).update(scale="U8"),
        lambda record: first_weight(record).update(scale=["F16"]),
        lambda record: record["floats"].update(z=["F99", [3]]),
        lambda record: record["floats"].update(z=["F32", [2**20, 2**20]]),
        lambda record: record["floats"].update(z=None),
        lambda record: record.update(floats=[1]),
        lambda record: record.update(weights={"w": None}),
        lambda record: record.pop("weights"),
        lambda record: record["recipe"].update(compact=False),
        lambda record: record["recipe"].pop("compact"),
    ],
)
def test_a_record_that_lies_is_refused_before_anything_large_is_decoded(change: Any, tmp_path: Path) -> None:
    refused(tmp_path / "x", with_record(change))


def test_tensors_are_too_many_together_before_any_is_too_large_alone() -> None:
    asked: list[str] = []

    def code(part: layout.Part) -> torch.Tensor:
        asked.append(part.name)
        return torch.empty(0)

    size = layout.MOST_ELEMENTS // 2
    with pytest.raises(AsrCompressError, match="c: would be more than .* together with the others"):
        layout.walk({"weights": {}, "floats": {"a": [size], "b": [size], "c": [1]}}, code)
    assert asked == ["a", "b"]


def test_a_model_that_is_too_large_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MOST_ELEMENTS", 40)
    with pytest.raises(AsrCompressError, match="more than 40 numbers.*leave out --compact"):
        save_artifact(tmp_path / "x", compacted(make_content()))
    assert not (tmp_path / "x").exists()


def test_a_file_beyond_any_compact_one_is_refused(good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "MOST_BYTES", len(good) - 1)
    compact._read_file.cache_clear()
    assert "more than a compact file has" in refused(tmp_path / "x", good)


@pytest.mark.parametrize("name", ["asrcompress.json", "fc.weight_scale", "fc.weight"])
def test_a_float_tensor_cannot_take_a_name_of_the_format(name: str, tmp_path: Path) -> None:
    weight = rtn.quantize(torch.randn(2, 3), num_bits=4, granularity=Granularity("per_channel"))
    content = ArtifactContent(
        "kws_crnn", {}, None, {"compact": True}, {}, {"fc.weight": weight}, {name: torch.zeros(2)}
    )
    with pytest.raises(AsrCompressError, match="is taken by the artifact format"):
        save_artifact(tmp_path / "x", content)
    assert not (tmp_path / "x").exists()
