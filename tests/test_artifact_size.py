"""The size that is said beforehand is the size of the file, to the byte, and needs no value of a packed weight."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from asrcompress.artifact import ArtifactContent, save_artifact
from asrcompress.artifact_file import FORMAT, METADATA, byte_ledger
from asrcompress.artifact_size import artifact_size_bytes, weight_size_bytes
from asrcompress.integers.grid import Grid
from asrcompress.tensor_file import TYPE_OF, header
from tests.test_artifact import make_content, make_sparse, make_zero_points


def outlined(content: ArtifactContent) -> ArtifactContent:
    """The content with weights that have no values."""
    quantized = {
        name: dataclasses.replace(
            weight,
            codes=weight.codes.to("meta"),
            scale=weight.scale.to("meta"),
            zero_point=None if weight.zero_point is None else weight.zero_point.to("meta"),
        )
        for name, weight in content.quantized.items()
    }
    return dataclasses.replace(content, quantized=quantized)


@pytest.mark.parametrize("make", [make_content, make_zero_points, make_sparse])
def test_the_size_is_the_files(make, tmp_path: Path) -> None:
    content = make()
    save_artifact(tmp_path / "x", content)
    assert artifact_size_bytes(content) == (tmp_path / "x").stat().st_size
    assert artifact_size_bytes(outlined(content)) == (tmp_path / "x").stat().st_size


def test_grids_and_texts_count(tmp_path: Path) -> None:
    grids = {":input": Grid(0.25, 0, 16), "fc:in": Grid(0.5, -3, 8), "fc:out": Grid(1e-4 / 3, 0, 16)}
    for number in range(9):  # every remainder of the header's padding
        content = dataclasses.replace(make_content(), grids=grids, recipe={"text": "ü" * number})
        content.floats["x" * (number + 1)] = torch.ones(1)
        save_artifact(tmp_path / f"{number}", content)
        assert artifact_size_bytes(content) == (tmp_path / f"{number}").stat().st_size


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda n: n != "__metadata__")


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        names, st.tuples(st.sampled_from(list(TYPE_OF)), st.lists(st.integers(0, 12), max_size=3)), max_size=9
    )
)
def test_the_header_is_laid_out_as_safetensors_does(shapes: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    data = save({name: torch.zeros(shape, dtype=kind) for name, (kind, shape) in shapes.items()}, {"format": FORMAT})
    (length,) = struct.unpack("<Q", data[:8])
    outlines = {name: (TYPE_OF[kind], tuple(shape)) for name, (kind, shape) in shapes.items()}
    assert len(header(outlines, METADATA)) == 8 + length


@pytest.mark.parametrize("make", [make_content, make_zero_points, make_sparse])
def test_what_a_weight_adds_is_what_the_file_lacks_without_it(make, tmp_path: Path) -> None:
    content = make()
    save_artifact(tmp_path / "with", content)
    digits = len(str(sum(e["size_bytes"] for e in byte_ledger(tmp_path / "with") if e["kind"] != "header")))
    for name, weight in content.quantized.items():
        rest = {other: value for other, value in content.quantized.items() if other != name}
        save_artifact(tmp_path / name, dataclasses.replace(content, quantized=rest, tied={}))
        save_artifact(tmp_path / "with", dataclasses.replace(content, tied={}), force=True)
        lacking = (tmp_path / "with").stat().st_size - (tmp_path / name).stat().st_size
        # The header's padding is up to 7 bytes; offsets of all tensors may have a digit more.
        assert abs(weight_size_bytes(name, weight, offset_digits=digits) - lacking) <= 7 + 2 * len(content.floats) + 8
