"""What is spooled tensor by tensor is, byte for byte, what safetensors itself writes; of the spool nothing is left."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from asrcompress import tensor_file
from asrcompress.errors import AsrCompressError
from asrcompress.tensor_file import TYPE_OF, spool

DTYPES = sorted(TYPE_OF, key=str)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)


def written(folder: Path, tensors: dict[str, Tensor]) -> bytes:
    out = io.BytesIO()
    with spool(folder / "x") as waiting:
        for name, tensor in tensors.items():
            waiting.add(name, tensor)
        waiting.write_to(out, {"format": "asrcompress.v1"})
        assert waiting.file_size_bytes({"format": "asrcompress.v1"}) == len(out.getvalue())
    return out.getvalue()


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3)), max_size=8))
def test_the_bytes_are_those_of_safetensors(
    tmp_path_factory: pytest.TempPathFactory, drawn: dict[str, tuple[torch.dtype, list[int]]]
) -> None:
    drawn.pop("__metadata__", None)
    tensors = {name: torch.ones(shape).to(dtype) for name, (dtype, shape) in drawn.items()}
    folder = tmp_path_factory.getbasetemp()
    assert written(folder, tensors) == save(tensors, metadata={"format": "asrcompress.v1"})


def test_the_order_of_coming_does_not_matter_and_views_are_stored_whole(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3, 4).t(), "a": torch.randn(8)[::2], "c": torch.arange(5, dtype=torch.int8)}
    backwards = dict(reversed(tensors.items()))
    dense = {name: tensor.contiguous() for name, tensor in tensors.items()}
    assert (
        written(tmp_path, tensors) == written(tmp_path, backwards) == save(dense, metadata={"format": "asrcompress.v1"})
    )


def test_the_spool_has_no_name_while_it_is_used_and_is_gone_after(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), spool(tmp_path / "x") as waiting:
        waiting.add("a", torch.zeros(1000))
        assert list(tmp_path.iterdir()) == []
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_and_a_full_disk_are_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(AsrCompressError, match="x: could not be written: No such file"), spool(tmp_path / "no" / "x"):
        pass
    with pytest.raises(AsrCompressError, match="x: could not be written: No space"), spool(tmp_path / "x"):
        raise OSError(28, "No space left on device")


def test_a_type_that_the_format_has_not_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AsrCompressError, match="a: a safetensors file holds no torch.complex128"):
        written(tmp_path, {"a": torch.zeros(2, dtype=torch.complex128)})


@pytest.mark.parametrize("inside", ["whole", "in parts", "not at all", "not here"])
def test_a_real_file_gets_the_same_bytes_whether_or_not_the_system_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    monkeypatch.setattr(tensor_file, "CHUNK_BYTES", 1000)
    calls = []

    def copy(source: int, target: int, count: int, *offsets: int) -> int:
        calls.append(count)
        if inside == "not at all" or len(calls) == 3:
            raise OSError("not between these")
        return original(source, target, count if inside == "whole" else min(count, 700), *offsets)

    original = getattr(os, "copy_file_range", None)
    if original is None or inside == "not here":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    else:
        monkeypatch.setattr(os, "copy_file_range", copy)
    tensors = {"a": torch.randn(2000), "b": torch.randn(300), "c": torch.arange(5000, dtype=torch.int16)}
    with spool(tmp_path / "x") as waiting, open(tmp_path / "out", "wb") as out:
        for name, tensor in tensors.items():
            waiting.add(name, tensor)
        waiting.write_to(out, {"format": "asrcompress.v1"})
    assert (tmp_path / "out").read_bytes() == save(tensors, metadata={"format": "asrcompress.v1"})
    assert bool(calls) == (original is not None and inside != "not here")
