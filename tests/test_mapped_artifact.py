"""An artifact read weight by weight is the artifact read whole, and damage is found when a weight is read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from asrcompress.artifact import ArtifactContent, load_artifact, save_artifact
from asrcompress.errors import AsrCompressError
from asrcompress.mapped import outlines
from asrcompress.mapped_artifact import map_artifact
from tests.test_artifact import make_content, make_sparse, make_zero_points
from tests.test_sparse import make_sparse_floats


def coded(content: ArtifactContent) -> ArtifactContent:
    floats = {**content.floats, "long": torch.zeros(64, 64)}
    return dataclasses.replace(content, recipe={**content.recipe, "entropy_coding": "zstd"}, floats=floats)


CONTENTS = [make_content, make_sparse, make_zero_points, make_sparse_floats, lambda: coded(make_content())]


@pytest.mark.parametrize("make", CONTENTS)
def test_every_weight_and_float_is_the_same(tmp_path: Path, make: object) -> None:
    path = tmp_path / "x.safetensors"
    save_artifact(path, make())  # type: ignore[operator]
    whole, mapped = load_artifact(path), map_artifact(path)
    for part in ("quantized", "sparse"):
        expected, found = getattr(whole, part), getattr(mapped, part)
        assert list(found) == list(expected)
        for name, weight in expected.items():
            for field in dataclasses.fields(weight):
                one, other = getattr(weight, field.name), getattr(found[name], field.name)
                outline = getattr(outlines(found)[name], field.name)
                if isinstance(one, torch.Tensor):
                    assert one.dtype == other.dtype and torch.equal(one, other)
                    assert outline.is_meta and outline.shape == one.shape
                else:
                    assert one == other == outline
    assert set(mapped.floats) == set(whole.floats)
    assert all(torch.equal(mapped.floats[name], tensor) for name, tensor in whole.floats.items())
    assert (mapped.tied, mapped.recipe, mapped.config) == (whole.tied, whole.recipe, whole.config)
    save_artifact(tmp_path / "again.safetensors", mapped)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_what_is_no_artifact_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nothing")
    for name in ("x", "absent"):
        with pytest.raises(AsrCompressError, match="is not a safetensors file, or is damaged"):
            map_artifact(tmp_path / name)


def test_a_damaged_weight_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    content = make_content()
    save_artifact(path, content)
    data = path.read_bytes()
    name = next(name for name, weight in content.quantized.items() if weight.num_bits in (2, 4))
    entry = data.index(f'"{name}_scale"'.encode())
    begin, end = map(int, data[data.index(b"[", data.index(b"data_offsets", entry)) + 1 :].split(b"]")[0].split(b","))
    start = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(data[: start + begin] + b"\xff" * (end - begin) + data[start + end :])  # NaN
    mapped = map_artifact(path)
    with pytest.raises(AsrCompressError, match="is damaged .*scale"):
        mapped.quantized[name]
