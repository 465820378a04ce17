"""Damaged and hostile artifacts: every one is either read or refused with one line that names the file."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save

from asrcompress.artifact import ArtifactContent, load_artifact, save_artifact
from asrcompress.artifact_file import FORMAT, byte_ledger, is_artifact
from asrcompress.entropy import decode_text
from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity, QuantizedWeight
from asrcompress.quantizers import asymmetric, binary
from asrcompress.quantizers.rtn import quantize

HUGE = 10**30


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    """The bytes of a small sound artifact: fc (3, 4) at 4 bits, in groups of 2, and a bias."""
    torch.manual_seed(0)
    quantized = {"fc.weight": quantize(torch.randn(3, 4), num_bits=4, granularity=Granularity.parse("per_group:2"))}
    path = tmp_path_factory.mktemp("good") / "x"
    save_artifact(path, ArtifactContent("kws_crnn", {"a": 1}, ["b"], {}, {}, quantized, {"fc.bias": torch.zeros(3)}))
    return path.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A file that tests overwrite."""
    return tmp_path_factory.mktemp("scratch") / "hostile.safetensors"


def refused(path, data: bytes) -> str:
    """The message with which these bytes are refused; any other error than ours passes through."""
    path.write_bytes(data)
    with pytest.raises(AsrCompressError) as caught:
        load_artifact(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def rebuilt(path, data: bytes, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> bytes:
    """The artifact after `change(record, tensors)`."""
    path.write_bytes(data)
    with safe_open(path, framework="pt") as handle:
        tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}  # noqa: SIM118 (not a dict)
    record = json.loads(decode_text("asrcompress.json", tensors["asrcompress.json"]))
    change(record, tensors)
    if "asrcompress.json" in tensors:
        tensors["asrcompress.json"] = torch.frombuffer(bytearray(json.dumps(record).encode()), dtype=torch.uint8)
    return save(tensors, metadata={"format": FORMAT})


def claims(name: bytes, dtype: bytes, shape: bytes, size: bytes) -> bytes:
    """A header of our format with one tensor."""
    entry = b'{"dtype": "' + dtype + b'", "shape": ' + shape + b', "data_offsets": [0, ' + size + b"]}"
    return b'{"__metadata__": {"format": "asrcompress.v1"}, "' + name + b'": ' + entry + b"}"


def with_header(header: bytes, rest: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + rest


def test_the_file_that_is_damaged_below_is_sound(good, scratch):
    scratch.write_bytes(rebuilt(scratch, good, lambda record, tensors: None))
    assert load_artifact(scratch).quantized["fc.weight"].shape == (3, 4)


def test_a_file_cut_anywhere_is_refused(good, scratch):
    for size in range(len(good)):
        refused(scratch, good[:size])


def test_a_file_that_goes_on_is_refused(good, scratch):
    refused(scratch, good + b"\0")


def flip_each_byte(scratch, sound):
    """A file with one byte flipped is read, or refused by an error that names it; nothing else is raised."""
    for place in range(len(sound)):
        data = bytearray(sound)
        data[place] ^= 0xFF
        scratch.write_bytes(data)
        try:
            load_artifact(scratch)
        except AsrCompressError as error:
            assert str(scratch) in str(error)


def test_any_flipped_byte_is_read_or_refused(good, scratch):
    flip_each_byte(scratch, good)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.data())
def test_any_few_bytes_are_read_or_refused(good, scratch, data):
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    scratch.write_bytes(damaged)
    is_artifact(scratch)
    try:
        load_artifact(scratch)
        assert sum(entry["size_bytes"] for entry in byte_ledger(scratch)) == len(good)
    except AsrCompressError as error:
        assert str(scratch) in str(error)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 16,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 99_000_000) + b"{}",
        with_header(b"[]"),
        with_header(b"{}"),
        with_header(b"null"),
        with_header(b"{" * 50_000),
        with_header(b"[" * 50_000),
        with_header(b'{"__metadata__": []}'),
        with_header(b'{"__metadata__": "asrcompress.v1"}'),
        with_header(b'{"__metadata__": {"format": ["asrcompress.v1"]}}'),
        with_header(b'{"__metadata__": {"format": "asrcompress.v1"}}'),
        with_header(claims(b"a", b"F32", b"[1e9]", b"4"), b"\0" * 4),
        with_header(claims(b"a", b"F32", b"[1000000000]", b"4000000000"), b"\0" * 4),
        with_header(claims(b"a", b"F4", b"[2]", b"1"), b"\0"),
        with_header(claims(b"asrcompress.json", b"BF16", b"[1]", b"2"), b"{}"),
        with_header(claims(b"asrcompress.json", b"F32", b"[]", b"4"), b"1234"),
        with_header(claims(b"asrcompress.json", b"U8", b"[2]", b"2"), b"[]"),
        with_header(claims(b"asrcompress.json", b"U8", b"[2]", b"2"), b"{}"),
        b"PK\x03\x04" + b"\0" * 100,
        b"a text file, not a model\n" * 20,
    ],
    ids=lambda data: f"{len(data)}-bytes",
)
def test_what_never_was_an_artifact_is_refused(scratch, data):
    refused(scratch, data)
    is_artifact(scratch)


@pytest.mark.parametrize("data", [b"", b"abc", struct.pack("<Q", 2**63), b"a text file, not a model\n"])
def test_there_is_no_ledger_of_what_has_no_header(scratch, data):
    scratch.write_bytes(data)
    with pytest.raises(AsrCompressError, match="is not a safetensors file"):
        byte_ledger(scratch)


def test_absent_files_and_directories_are_refused(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(AsrCompressError, match=str(path)):
            load_artifact(path)


@pytest.mark.parametrize("version", ["asrcompress.v2", "asrcompress.v10", "pt", ""])
def test_another_version_is_refused_by_name(good, scratch, version):
    scratch.write_bytes(good)
    with safe_open(scratch, framework="pt") as handle:
        tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}  # noqa: SIM118 (not a dict)
    assert f"format '{version}' is not asrcompress.v1" in refused(scratch, save(tensors, metadata={"format": version}))


@pytest.mark.parametrize("name", ["fc.weight_packed", "fc.weight_scale", "asrcompress.json"])
def test_a_missing_tensor_is_named(good, scratch, name):
    assert f"'{name}' is missing" in refused(scratch, rebuilt(scratch, good, lambda record, tensors: tensors.pop(name)))


@pytest.mark.parametrize("key", ["family", "config", "vocabulary", "recipe", "parent", "weights", "tied"])
def test_a_missing_key_is_named(good, scratch, key):
    assert f"'{key}' is missing" in refused(scratch, rebuilt(scratch, good, lambda record, tensors: record.pop(key)))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("fc.weight_scale", torch.ones(3, 1)),
        ("fc.weight_scale", torch.ones(2, 3)),
        ("fc.weight_scale", torch.ones(6)),
        ("fc.weight_scale", torch.full((3, 2), float("nan"))),
        ("fc.weight_scale", torch.full((3, 2), float("inf"))),
        ("fc.weight_scale", torch.ones(3, 2, dtype=torch.int64)),
        ("fc.weight_scale", torch.ones(3, 2, dtype=torch.complex64)),
        ("fc.weight_packed", torch.zeros(5, dtype=torch.uint8)),
        ("fc.weight_packed", torch.zeros(7, dtype=torch.uint8)),
        ("fc.weight_packed", torch.zeros(12, dtype=torch.uint8)),
        ("fc.weight_packed", torch.zeros(6, dtype=torch.int8)),
        ("fc.weight_packed", torch.zeros(6)),
        ("fc.weight_packed", torch.full((6,), 0x88, dtype=torch.uint8)),  # the code -8, which the grid does not have
    ],
)
def test_a_tensor_that_does_not_fit_its_entry_is_refused(good, scratch, name, tensor):
    assert "is damaged" in refused(
        scratch, rebuilt(scratch, good, lambda record, tensors: tensors.update({name: tensor}))
    )


@pytest.mark.parametrize(
    "entry",
    [
        {"num_bits": 8},
        {"num_bits": 5},
        {"num_bits": 0},
        {"num_bits": -4},
        {"num_bits": float("inf")},
        {"num_bits": "four"},
        {"num_bits": None},
        {"num_bits": HUGE},
        {"granularity": "per_channel"},
        {"granularity": "per_group:0"},
        {"granularity": "per_group:3"},
        {"granularity": f"per_group:{HUGE}"},
        {"granularity": ["per_channel"]},
        {"shape": [12]},
        {"shape": []},
        {"shape": [4, 3, 0]},
        {"shape": [-3, -4]},
        {"shape": [3, HUGE]},
        {"shape": [2**40, 2**40]},
        {"shape": [2**62, 4]},
        {"shape": 12},
        {"shape": [[3], [4]]},
        {"shape": None},
    ],
)
def test_an_entry_that_does_not_fit_its_tensors_is_refused(good, scratch, entry):
    refused(scratch, rebuilt(scratch, good, lambda record, tensors: record["weights"]["fc.weight"].update(entry)))


@pytest.mark.parametrize(
    "change",
    [
        {"weights": []},
        {"weights": None},
        {"weights": {"fc.weight": None}},
        {"weights": {"fc.weight": []}},
        {"weights": {"other.weight": {"num_bits": 4, "granularity": "per_channel", "shape": [3, 4]}}},
        {"tied": {"out.weight": "nowhere"}},
        {"tied": {"out.weight": ["fc.weight"]}},
        {"tied": {"out.weight": {}}},
        {"tied": 3},
        {"family": ["kws_crnn"]},
        {"config": 3},
        {"config": None},
        {"recipe": "int8"},
        {"parent": [1]},
        {"vocabulary": 3},
        {"vocabulary": "abc"},
        {"vocabulary": [1, None]},
    ],
)
def test_a_record_of_the_wrong_make_is_refused(good, scratch, change):
    refused(scratch, rebuilt(scratch, good, lambda record, tensors: record.update(change)))


@pytest.fixture(scope="module")
def uneven(tmp_path_factory) -> bytes:
    """fc (3, 4) at 2 bits in groups of 2 with zero points (2 bytes of them), and signs (3, 4) at 1 bit."""
    weight = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    quantized = {
        "fc.weight": asymmetric.quantize(weight, num_bits=2, granularity=Granularity.parse("per_group:2")),
        "signs.weight": binary.quantize(weight - 0.5, num_bits=1, granularity=Granularity.parse("per_channel")),
    }
    path = tmp_path_factory.mktemp("uneven") / "x"
    save_artifact(path, ArtifactContent("kws_crnn", {}, None, {}, {}, quantized, {}))
    return path.read_bytes()


def test_the_uneven_file_is_sound(uneven, scratch):
    scratch.write_bytes(rebuilt(scratch, uneven, lambda record, tensors: None))
    assert load_artifact(scratch).quantized["fc.weight"].zero_point.shape == (3, 2)


def test_missing_zero_points_are_named(uneven, scratch):
    data = rebuilt(scratch, uneven, lambda record, tensors: tensors.pop("fc.weight_zero_point"))
    assert "'fc.weight_zero_point' is missing" in refused(scratch, data)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("fc.weight_zero_point", torch.zeros(1, dtype=torch.uint8)),
        ("fc.weight_zero_point", torch.zeros(3, dtype=torch.uint8)),
        ("fc.weight_zero_point", torch.zeros(2)),
        ("fc.weight_zero_point", torch.zeros(2, dtype=torch.int16)),
        ("fc.weight_zero_point", torch.tensor([0, 0xF0], dtype=torch.uint8)),  # padding bits are set
        ("signs.weight_packed", torch.tensor([0, 0xF0], dtype=torch.uint8)),
        ("signs.weight_packed", torch.zeros(3, dtype=torch.uint8)),
    ],
)
def test_zero_points_and_signs_that_do_not_fit_are_refused(uneven, scratch, name, tensor):
    change = rebuilt(scratch, uneven, lambda record, tensors: tensors.update({name: tensor}))
    assert "is damaged" in refused(scratch, change)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("fc.weight", {"symmetric": "false"}),
        ("fc.weight", {"symmetric": None}),
        ("fc.weight", {"symmetric": 0}),
        ("fc.weight", {"symmetric": True}),
        ("fc.weight", {"method": 3}),
        ("fc.weight", {"method": ["rtn"]}),
        ("signs.weight", {"symmetric": False}),
        ("signs.weight", {"num_bits": 2}),
    ],
)
def test_an_uneven_entry_that_does_not_fit_is_refused(uneven, scratch, name, entry):
    change = rebuilt(scratch, uneven, lambda record, tensors: record["weights"][name].update(entry))
    assert "is damaged" in refused(scratch, change)


def test_a_code_below_the_symmetric_grid_is_refused(uneven, scratch):
    def change(record, tensors):
        del record["weights"]["fc.weight"]["symmetric"], tensors["fc.weight_zero_point"]
        tensors["fc.weight_packed"] = torch.full((3,), 0b10101010, dtype=torch.uint8)  # -2, four times a byte

    assert "holds the code -2" in refused(scratch, rebuilt(scratch, uneven, change))


@pytest.fixture(scope="module")
def sparse(tmp_path_factory) -> bytes:
    """fc (3, 12) at 4 bits, 2:4: nine bytes of codes and nine group codes of 3 bits; signs (3, 4) at 1 bit, 1:4."""
    weight = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    weight[:, 1::2] = 0
    fc = quantize(weight, num_bits=4, granularity=Granularity("per_channel"))
    signs = torch.tensor([[0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int8)
    quantized = {
        "fc.weight": dataclasses.replace(fc, pattern=(2, 4)),
        "signs.weight": QuantizedWeight(signs, fc.scale.clone(), 1, fc.granularity, (3, 4), pattern=(1, 4)),
    }
    path = tmp_path_factory.mktemp("sparse") / "x"
    save_artifact(path, ArtifactContent("kws_crnn", {}, None, {}, {}, quantized, {}))
    return path.read_bytes()


def test_the_sparse_file_is_sound_until_a_byte_is_flipped(sparse, scratch):
    scratch.write_bytes(rebuilt(scratch, sparse, lambda record, tensors: None))
    assert load_artifact(scratch).quantized["fc.weight"].pattern == (2, 4)
    flip_each_byte(scratch, sparse)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("fc.weight_pattern", torch.full((4,), 0xFF, dtype=torch.uint8), "padding"),
        ("fc.weight_pattern", torch.tensor([0xFF, 0xFF, 0xFF, 7], dtype=torch.uint8), "none of the 6 choices"),
        ("fc.weight_pattern", torch.zeros(3, dtype=torch.uint8), "4 bytes are due"),
        ("fc.weight_pattern", torch.zeros(4, dtype=torch.int8), "4 bytes are due"),
        ("fc.weight_packed", torch.zeros(18, dtype=torch.uint8), "9 are due"),  # dense
        ("fc.weight_packed", torch.zeros(9, dtype=torch.uint8), "another zero than its first"),
        ("fc.weight_packed", torch.full((9,), 0x88, dtype=torch.uint8), "holds the code -8"),
        ("signs.weight_pattern", torch.tensor([0xC0], dtype=torch.uint8), "padding"),
        ("signs.weight_packed", torch.tensor([0xF0], dtype=torch.uint8), "padding"),
    ],
)
def test_kept_codes_and_group_codes_that_do_not_fit_are_refused(sparse, scratch, name, tensor, message):
    assert message in refused(scratch, rebuilt(scratch, sparse, lambda record, tensors: tensors.update({name: tensor})))


def test_group_codes_without_a_pattern_and_a_pattern_without_them_are_refused(sparse, scratch):
    data = rebuilt(scratch, sparse, lambda record, tensors: tensors.pop("fc.weight_pattern"))
    assert "'fc.weight_pattern' is missing" in refused(scratch, data)

    def claim_dense(record, tensors):
        del record["weights"]["fc.weight"]["pattern"]
        tensors["fc.weight_packed"] = torch.zeros(18, dtype=torch.uint8)

    assert "has group codes and no pattern" in refused(scratch, rebuilt(scratch, sparse, claim_dense))


@pytest.mark.parametrize("pattern", ["1:4", "4:4", "2:5", "2:17", "0:4", "", "2", None, 24, [2, 4], HUGE])
def test_another_pattern_than_the_bytes_have_is_refused(sparse, scratch, pattern):
    data = rebuilt(scratch, sparse, lambda record, tensors: record["weights"]["fc.weight"].update(pattern=pattern))
    assert "is damaged" in refused(scratch, data)


@pytest.mark.parametrize(
    "grids",
    [5, ["in"], {"fc": 1.0}, {"fc": {":in": "0.5"}}, {"fc": {":in": [0.5, 0, 32]}}, {"fc": {":in": -1}}, {"a": None}],
)
def test_grids_that_are_none_are_refused(good, scratch, grids):
    data = rebuilt(scratch, good, lambda record, tensors: record.update(grids=grids))
    assert "is damaged" in refused(scratch, data)
