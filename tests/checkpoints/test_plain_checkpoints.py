"""State dicts, TorchScript archives and safetensors of others: names, values, ties and bytes."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from asrcompress.checkpoints import read_checkpoint, tied_names
from asrcompress.errors import AsrCompressError


def assert_tensors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert type(found[name]) is torch.Tensor
        assert not found[name].requires_grad
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_state_dicts(keyword_model: nn.Module, tmp_path: Path, wrapper: str | None, is_zip: bool) -> None:
    state = keyword_model.state_dict()
    optimizer = torch.optim.SGD(keyword_model.parameters(), lr=0.1, momentum=0.9)
    saved: Any = state if wrapper is None else {wrapper: state, "optimizer": optimizer.state_dict(), "epoch": 3}
    path = tmp_path / "model.bin"
    torch.save(saved, path, _use_new_zipfile_serialization=is_zip)
    checkpoint = read_checkpoint(path)
    assert_tensors(checkpoint.tensors, state)
    assert list(checkpoint.tensors) == list(state)
    assert tied_names(checkpoint.tensors) == {"second.weight": "first.weight"}
    assert (checkpoint.format, checkpoint.config, checkpoint.symbols) == ("state_dict", None, None)
    assert sum(checkpoint.ledger.values()) == path.stat().st_size
    assert checkpoint.ledger["model"] == sum(t.nbytes for n, t in state.items() if n != "second.weight")


@pytest.mark.parametrize("is_zip", [True, False])
def test_every_storage_counts_once_and_whole(tmp_path: Path, is_zip: bool) -> None:
    storage = torch.arange(100.0)
    state = {
        "model": {
            "view": storage[:9].view(3, 3),
            "same": storage[:9].view(3, 3),
            "transposed": storage[:9].view(3, 3).t(),
            "shifted": storage[5:15],
        },
        "last_optimizer": {"shared": storage, "own": torch.zeros(7)},
        "extra": [torch.zeros(3), {"again": torch.zeros(0)}, storage[1:]],
    }
    path = tmp_path / "views.pt"
    torch.save(state, path, _use_new_zipfile_serialization=is_zip)
    checkpoint = read_checkpoint(path)
    ledger = dict(checkpoint.ledger)
    container = ledger.pop("container")
    assert ledger == {"model": 400, "optimizer": 28, "other": 12}
    assert container + 440 == path.stat().st_size
    assert tied_names(checkpoint.tensors) == {"same": "view"}


def test_parameters_other_dtypes_and_metadata(tmp_path: Path) -> None:
    state: Any = OrderedDict(
        half=nn.Parameter(torch.ones(2, 3, dtype=torch.bfloat16)),
        steps=torch.tensor(4),
        flags=torch.tensor([True]),
        strided=torch.arange(6).view(2, 3).t(),
        empty=torch.zeros(0, 4),
    )
    state._metadata = {"": {"version": 1}}
    torch.save(state, tmp_path / "x.pt")
    checkpoint = read_checkpoint(tmp_path / "x.pt")
    assert_tensors(checkpoint.tensors, {name: tensor.detach() for name, tensor in state.items()})
    assert checkpoint.tensors["strided"].stride() == (1, 3)


def test_the_real_keyword_checkpoint(kws_dir: Path) -> None:
    checkpoint = read_checkpoint(kws_dir / "crnn_happy.pt")
    assert sum(tensor.numel() for tensor in checkpoint.tensors.values()) == 70_443
    assert checkpoint.ledger["model"] == 4 * 70_443
    assert sum(checkpoint.ledger.values()) == (kws_dir / "crnn_happy.pt").stat().st_size


@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_agrees_with_torch_jit_load(keyword_model: nn.Module, tmp_path: Path, how: str) -> None:
    path = tmp_path / "model.pt"
    if how == "script":
        torch.jit.script(keyword_model).save(str(path))
    else:
        torch.jit.trace(keyword_model, torch.zeros(1, 4, 9)).save(str(path))
    checkpoint = read_checkpoint(path)
    assert_tensors(checkpoint.tensors, torch.jit.load(path).state_dict())
    assert tied_names(checkpoint.tensors) == {"second.weight": "first.weight"}
    assert checkpoint.format == "torchscript"
    assert checkpoint.ledger["model"] == sum(
        t.nbytes for n, t in keyword_model.state_dict().items() if n != "second.weight"
    )
    with zipfile.ZipFile(path) as archive:
        stored = sum(i.file_size for i in archive.infolist() if "/data/" in i.filename or "/constants/" in i.filename)
    assert checkpoint.ledger["model"] + checkpoint.ledger["other"] == stored
    assert checkpoint.ledger["other"] >= 12  # the loose tensor, which a state dict does not have
    assert sum(checkpoint.ledger.values()) == path.stat().st_size


def test_torchscript_that_has_no_float_parameters_left(keyword_model: nn.Module, tmp_path: Path) -> None:
    torch.jit.freeze(torch.jit.script(keyword_model)).save(str(tmp_path / "frozen.pt"))
    with pytest.raises(AsrCompressError, match=r"before torch[.]jit[.]freeze"):
        read_checkpoint(tmp_path / "frozen.pt")
    quantized = torch.ao.quantization.quantize_dynamic(keyword_model, {nn.Linear, nn.GRU})
    torch.jit.script(quantized).save(str(tmp_path / "quantized.pt"))
    with pytest.raises(AsrCompressError, match=r"quantized.*give the float model"):
        read_checkpoint(tmp_path / "quantized.pt")


def test_safetensors(keyword_model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(keyword_model, str(path))  # leaves one of the tied weights out and notes its name
    checkpoint = read_checkpoint(path)
    assert_tensors(checkpoint.tensors, keyword_model.state_dict())
    tied = tied_names(checkpoint.tensors)
    assert len(tied) == 1
    assert {*tied, *tied.values()} == {"first.weight", "second.weight"}
    assert checkpoint.format == "safetensors"
    header_size = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert checkpoint.ledger["container"] == header_size
    assert sum(checkpoint.ledger.values()) == path.stat().st_size


def test_an_artifact_is_sent_to_its_own_reader(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"format": "asrcompress.v1"})
    with pytest.raises(AsrCompressError, match="compressed artifact, not a checkpoint"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_a_safetensors_header_as_long_as_a_pickle_begins(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for padding in range(0, 256, 8):
        save_file({"w": torch.ones(2)}, path, metadata={"note": "x" * padding})
        if path.read_bytes()[0] == 0x80:  # the byte that every pickle starts with
            break
    else:
        pytest.fail("no header of a length that ends in 0x80 was made")
    assert read_checkpoint(path).format == "safetensors"
