"""The audit of sparse files: every group and every zero counted from the file, and files written to claim what they do not hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from asrcompress.artifact import load_artifact, save_artifact
from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity
from asrcompress.ops.audit import audit_artifact
from asrcompress.ops.load import build_model, open_source
from asrcompress.ops.quantize import QuantizeConfig, quantize
from asrcompress.ops.sparsify import sparsify
from asrcompress.ops.sparsify_config import SparsifyConfig
from asrcompress.quantizers.rtn import quantize as round_to_nearest
from tests.test_artifact_hostile import rebuilt

MODEL = Path(__file__).parents[2] / "samples" / "kws" / "crnn_computer.pt"
NAME = "gru.weight_ih_l0"


def audited(path: Path) -> dict[str, Any]:
    source = open_source(path)
    return audit_artifact(source, build_model(source))


def made(folder: Path, **options: Any) -> Path:
    """sparsify, then quantize where there are bits."""
    num_bits = options.pop("num_bits", None)
    path = folder / "sparse.safetensors"
    sparsify(MODEL, path, SparsifyConfig(**options))
    if num_bits:
        quantize(path, folder / "packed.safetensors", QuantizeConfig(num_bits=num_bits))
        return folder / "packed.safetensors"
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Honest files."""
    kinds: dict[str, dict[str, Any]] = {
        "2:4": {"pattern": "2:4"},
        "half": {"sparsity": 0.5, "entropy_coding": "zstd"},
        "int4+2:4": {"pattern": "2:4", "num_bits": 4},
        "int4+half": {"sparsity": 0.5, "num_bits": 4},
    }
    return {kind: made(tmp_path_factory.mktemp("sparse"), **options) for kind, options in kinds.items()}


def rewritten(path: Path, out: Path, **changes: object) -> Path:
    save_artifact(out, dataclasses.replace(load_artifact(path), **changes))
    return out


def recipe(path: Path, **changes: object) -> dict[str, Any]:
    return {key: value for key, value in (load_artifact(path).recipe | changes).items() if value is not None}


def test_every_group_of_every_sparse_weight_is_counted(files: dict[str, Path]) -> None:
    for kind, table in (("2:4", "sparse"), ("int4+2:4", "codes")):
        content, found = load_artifact(files[kind]), audited(files[kind])
        weights = content.sparse | content.quantized
        rows = {row["name"]: row for row in found[table]}
        assert found["violations"] == []
        assert rows.keys() == weights.keys() and len(rows) == 8
        for name, row in rows.items():
            values = weights[name].dequantize().reshape(-1, 4)
            counts = (values != 0).sum(dim=1)
            assert sum(row["kept_per_group"]) == len(values)
            assert sum(row["kept_per_group"][3:]) == 0
            assert row["pattern"] in ("2:4", "1:4")
            if table == "codes":  # of floats the mask is counted: a kept value may be 0
                assert row["kept_per_group"] == torch.bincount(counts, minlength=5).tolist()


def test_every_bit_of_a_bitmask_is_counted(files: dict[str, Path]) -> None:
    for kind, table in (("half", "sparse"), ("int4+half", "codes")):
        content, found = load_artifact(files[kind]), audited(files[kind])
        assert found["violations"] == []
        for row in found[table]:
            weight = (content.sparse | content.quantized)[row["name"]]
            assert (row["pattern"], row["kept_per_group"]) == ("unstructured", None)
            assert row["num_kept"] == int((weight.dequantize() != 0).sum())


def test_the_bytes_of_sparse_weights_add_up(files: dict[str, Path]) -> None:
    for path in files.values():
        rows = audited(path)["coverage"]
        assert sum(row["size_bytes"] for row in rows) == path.stat().st_size
        assert sum(row["num_params"] for row in rows) == 70_443


def lines_about(path: Path, name: str = NAME) -> list[str]:
    return [line for line in audited(path)["violations"] if line.startswith(f"{name}: ")]


@pytest.mark.parametrize(
    ("kind", "claim", "line"),
    [
        ("2:4", {"pattern": "1:4"}, "the recipe claims 1:4, but row 0 has 2 values in inputs 0..3 (and 6"),
        ("2:4", {"pattern": "2:8"}, "the recipe claims 2:8, but row 0 has 4 values in inputs 0..7"),
        ("2:4", {"pattern": None, "sparsity": 0.6}, "the recipe claims 16,589 zeros of 27,648 values, but has 13,824"),
        ("half", {"sparsity": 0.51}, "the recipe claims 14,100 zeros of 27,648 values, but has 13,824"),
        ("half", {"sparsity": None, "pattern": "2:4"}, "the recipe claims 2:4, but row "),
        ("int4+2:4", {"pattern": "1:4"}, "the recipe claims 1:4, but row "),
        ("int4+half", {"sparsity": 0.9}, "the recipe claims 24,883 zeros of 27,648 values, but has "),
        (
            "int4+half",
            {"rules": [{"modules": "gru", "pattern": "2:4"}, {"modules": "conv.0", "pattern": "none"}]},
            "the recipe claims 2:4, but row ",
        ),
    ],
)  # fmt: skip
def test_a_recipe_that_claims_other_zeros_is_caught(
    kind: str, claim: dict[str, Any], line: str, files: dict[str, Path], tmp_path: Path
) -> None:
    """The file is sound, weight by weight, and its recipe lies about it."""
    path = rewritten(files[kind], tmp_path / "x.safetensors", recipe=recipe(files[kind], **claim))
    found = lines_about(path)
    assert len(found) == 1 and found[0].startswith(f"{NAME}: {line}")


def test_a_recipe_is_held_to_what_it_speaks_of_alone(files: dict[str, Path], tmp_path: Path) -> None:
    claim = {"pattern": "1:4", "exclude": ["gru.*"]}
    path = rewritten(files["2:4"], tmp_path / "x.safetensors", recipe=recipe(files["2:4"], **claim))
    assert lines_about(path) == []
    assert lines_about(path, "conv.0.weight") != []


def test_dense_weights_that_the_recipe_calls_sparse_are_caught(files: dict[str, Path], tmp_path: Path) -> None:
    dense = {name: torch.randn(weight.shape) for name, weight in load_artifact(files["2:4"]).sparse.items()}
    floats = {**load_artifact(files["2:4"]).floats, **dense}
    path = rewritten(files["2:4"], tmp_path / "floats.safetensors", floats=floats, sparse={})
    assert "the recipe claims 2:4, but row 0 has 4 values in inputs 0..3" in lines_about(path)[0]
    packed = {
        name: round_to_nearest(weight, num_bits=4, granularity=Granularity("per_channel"))
        for name, weight in dense.items()
    }
    claimed = recipe(files["int4+2:4"], pattern="2:4")
    path = rewritten(files["int4+2:4"], tmp_path / "codes.safetensors", quantized=packed, recipe=claimed)
    found = audited(path)
    assert any(line.startswith(f"{NAME}: the recipe claims 2:4, but row ") for line in found["violations"])
    assert found["reached"] == "partial" and found["claimed"] == "stored"


@pytest.mark.parametrize(
    ("kind", "part", "change", "message"),
    [
        ("2:4", "pattern", lambda codes: torch.cat([codes[:1] | 7, codes[1:]]), "is none of the 6 choices"),
        ("2:4", "pattern", lambda codes: codes[:-1], "bytes are due"),
        ("2:4", "values", lambda values: values[:, :-1].contiguous(), "are kept"),
        ("2:4", "values", lambda values: torch.cat([values, values], dim=1), "are kept"),
        ("int4+2:4", "packed", lambda codes: torch.cat([codes, codes]), "packed bytes where"),
        ("int4+2:4", "pattern", lambda codes: torch.cat([codes[:1] | 7, codes[1:]]), "is none of the 6 choices"),
        ("int4+half", "bitmask", lambda bits: bits | 255, "packed bytes where"),
        ("int4+half", "packed", lambda codes: codes * 0, "stands for 0"),
    ],
)
def test_bytes_that_do_not_fit_the_count_are_refused(
    kind: str, part: str, change: Any, message: str, files: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"

    def alter(record: dict[str, Any], there: dict[str, torch.Tensor]) -> None:
        there[f"{NAME}_{part}"] = change(there[f"{NAME}_{part}"])

    path.write_bytes(rebuilt(path, files[kind].read_bytes(), alter))
    with pytest.raises(AsrCompressError) as caught:
        open_source(path)
    assert message in str(caught.value) and NAME in str(caught.value)


def test_a_group_with_a_value_too_many_is_named_at_any_level(files: dict[str, Path]) -> None:
    """No file holds one: the writer and the reader refuse it. So it is planted behind the reader."""
    source = open_source(files["2:4"])
    assert source.content is not None
    source.content.sparse[NAME].mask[3, 8:12] = True
    found = audit_artifact(source, build_model(source))
    assert f"{NAME}: claims 2:4, but row 3 has 4 values in inputs 8..11" in found["violations"]
    row = next(row for row in found["sparse"] if row["name"] == NAME)
    assert row["kept_per_group"][4] == 1 and row["pattern"] is None


def test_sparse_floats_could_be_packed_and_their_copies_are_found(files: dict[str, Path], tmp_path: Path) -> None:
    found = audited(files["half"])
    assert f"{NAME} (gru): could be packed and is stored in sparse float32" in found["prevents"]["stored"]
    copy = load_artifact(files["half"]).sparse[NAME].dequantize().half()
    content = load_artifact(files["half"])
    source = open_source(files["half"])
    planted = dataclasses.replace(content, floats={**content.floats, "hidden": copy})
    found = audit_artifact(dataclasses.replace(source, content=planted), build_model(source))
    assert any(
        line.startswith(f"hidden: is a float16 copy of the sparse weight {NAME}")
        for line in found["prevents"]["stored"]
    )


def test_a_damaged_recipe_is_one_line(files: dict[str, Path], tmp_path: Path) -> None:
    for number, claim in enumerate(({"pattern": "9:4"}, {"pattern": ["2:4"]}, {"pattern": None, "sparsity": "half"})):
        path = rewritten(files["2:4"], tmp_path / f"{number}.safetensors", recipe=recipe(files["2:4"], **claim))
        with pytest.raises(AsrCompressError) as caught:
            audited(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
