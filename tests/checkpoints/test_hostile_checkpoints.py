"""Whatever a file holds: nothing of it runs, and the error is an AsrCompressError of one line that names the file."""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from asrcompress.checkpoints import read_checkpoint, unsafe_globals
from asrcompress.errors import AsrCompressError


def message_for(path: Path, **options: Any) -> str:
    with pytest.raises(AsrCompressError) as caught:
        read_checkpoint(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    assert "; " in message  # cause; way out
    return message


class Runs:
    """Pickles to a call of os.system that would leave a marker."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


class Custom(nn.Linear):
    """A class that no reader knows."""


@pytest.mark.parametrize("how", ["zip", "legacy", "bare pickle", "bare protocol 4"])
def test_nothing_runs(tmp_path: Path, how: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    state = {"model": {"w": torch.ones(2)}, "extra": Runs(marker)}
    if how.startswith("bare"):
        path.write_bytes(pickle.dumps(Runs(marker), protocol=4 if "4" in how else 2))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=how == "zip")
    message = message_for(path)
    assert "posix.system" in message or "nt.system" in message
    assert "--trust-checkpoint" in message
    assert unsafe_globals(path) == [f"{os.name}.system"]
    assert not marker.exists()
    if not how.startswith("bare"):
        assert list(read_checkpoint(path, trust=True).tensors) == ["w"]
        assert marker.exists()  # trust means trust


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickled_module_needs_trust(tmp_path: Path, is_zip: bool) -> None:
    path = tmp_path / "module.pt"
    torch.save({"model": Custom(2, 3)}, path, _use_new_zipfile_serialization=is_zip)
    assert "Custom" in message_for(path)
    assert any(name.endswith(".Custom") for name in unsafe_globals(path))
    assert list(read_checkpoint(path, trust=True).tensors) == ["weight", "bias"]


def test_trust_of_a_class_that_is_not_installed(tmp_path: Path) -> None:
    data = b"\x80\x02}X\x05\x00\x00\x00modelcnot_installed\nThing\n)\x81s."
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", data)
        archive.writestr("x/version", "3")
    assert "install" in message_for(tmp_path / "x.pt", trust=True)


def _zip_with(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/version", "3")
    return buffer.getvalue()


def _saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def _repacked(compression: int) -> bytes:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(_saved({"w": torch.ones(3)}))) as old,
        zipfile.ZipFile(buffer, "w", compression) as new,
    ):
        for info in old.infolist():
            new.writestr(info.filename, old.read(info), compress_type=compression)
    return buffer.getvalue()


def _other_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("folder/readme.txt", "hello")
    return buffer.getvalue()


LEGACY = {"_use_new_zipfile_serialization": False}
WEIGHTS = {"w": torch.arange(1000.0), "b": torch.ones(7)}
# A tuple in a tuple, a million deep, as a key of a dict: hashing it would overrun the C stack.
DEEP_TUPLE = b"\x80\x02)" + b"\x85" * 1_000_000 + b"q\x00}h\x00Ns."
SPARSE = torch.eye(3).to_sparse()
QUANTIZED = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
CASES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"wer 4.5\n" * 100, "text file"),
    "UTF-8 text": ("réseau ".encode() * 100, "text file"),
    "binary": (bytes(range(1, 256)), "no file that torch or safetensors wrote"),
    "zip cut short": (_saved(WEIGHTS)[:-300], "cut short"),
    "zip cut to its first bytes": (_saved(WEIGHTS)[:50], "cut short"),
    "legacy cut short in the numbers": (_saved(WEIGHTS, **LEGACY)[:-300], "cut short"),
    "legacy cut short in the pickle": (_saved(WEIGHTS, **LEGACY)[:200], "cut short"),
    "another kind of zip": (_other_zip(), "torch did not write"),
    "repacked zip": (_repacked(zipfile.ZIP_DEFLATED), "repacked with compression"),
    "plain pickle": (pickle.dumps({"w": [1.0]}, protocol=2), "torch.save did not write"),
    "safetensors cut short": (b"\x10\0\0\0\0\0\0\0{" + b" " * 40, "damaged or cut short"),
    "a list": (_saved([torch.ones(2)]), "holds a list"),
    "a tensor": (_saved(torch.ones(2)), "holds a Tensor"),
    "nothing": (_saved({}), "no model tensors"),
    "numbers only": (_saved({"epoch": 1, "best": 0.5}), "no model tensors.*'epoch'"),
    "an empty model": (_saved({"model": {}, "cfg": {}}), "no model tensors"),
    "a number among tensors": (_saved({"w": torch.ones(2), "epoch": 3}), "'epoch' is a int, not a tensor"),
    "a name that is no text": (_saved({"w": torch.ones(2), 3: torch.ones(2)}), "name that is not text"),
    "quantized": (_saved({"w": QUANTIZED}), "quantized already"),
    "sparse": (_saved({"w": SPARSE}), "sparse"),
    "meta": (_saved({"w": torch.ones(3, device="meta")}), "holds no data"),
    "expanded": (_saved({"w": torch.ones(1).expand(1000)}), "repeats its elements"),
    "cfg that is no configuration": (_saved({"model": {"w": torch.ones(2)}, "cfg": 3}), "configuration"),
    "tuples nested deeply": (_zip_with(DEEP_TUPLE), "nest more than"),
    "lists nested deeply": (_zip_with(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."), "holds a list"),
    "storage beyond the file": (_saved({"w": torch.ones(300)}).replace(b"M,\x01", b"M,\x7f"), "damaged"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_for_every_bad_file(tmp_path: Path, case: str) -> None:
    content, expected = CASES[case]
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    message = message_for(path)
    assert re.search(expected, message), message


def test_missing_files_and_directories(tmp_path: Path) -> None:
    assert "no such file" in message_for(tmp_path / "gone.pt")
    (tmp_path / "checkpoint_last.pt").write_bytes(b"")
    assert str(tmp_path / "checkpoint_last.pt") in message_for(tmp_path)


def _configuration_that_holds_itself() -> Any:
    cfg: dict[str, Any] = {"model": {}}
    cfg["model"]["again"] = cfg
    return cfg


def _configuration_that_doubles() -> Any:
    cfg: Any = ["x"]
    for _ in range(60):
        cfg = [cfg, cfg]
    return {"model": {"bomb": cfg}}


@pytest.mark.parametrize(
    "cfg",
    [
        _configuration_that_holds_itself(),
        _configuration_that_doubles(),
        {"model": {str(i): "${model}" for i in range(20)}},
    ],
    ids=["holds itself", "doubles 60 times", "refers to itself"],
)
def test_configurations_without_end(tmp_path: Path, cfg: Any) -> None:
    path = tmp_path / "x.pt"
    torch.save({"model": {"w": torch.ones(2)}, "cfg": cfg}, path)
    assert "without end" in message_for(path)


@pytest.fixture(scope="module")
def valid_files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("valid")
    state = {"w": torch.ones(3), "b": torch.arange(4)}
    torch.save({"model": state, "cfg": {"model": {"_name": "x"}}}, folder / "zip.pt")
    torch.save(state, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.jit.script(nn.Linear(2, 2)).save(str(folder / "script.pt"))
    save_file(state, folder / "x.safetensors")
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return bytes(changed[: draw(st.one_of(st.just(len(changed)), st.integers(0, len(changed))))])


@st.composite
def damaged_inside(draw: st.DrawFn, content: bytes) -> bytes:
    """A zip file whose pickle is damaged and whose checksums are right, so that the pickle is really read."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for info in old.infolist():
            record = old.read(info)
            new.writestr(info.filename, draw(damaged(record)) if info.filename.endswith("data.pkl") else record)
    return buffer.getvalue()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_never_raises_anything_else(tmp_path: Path, valid_files: list[bytes], data: st.DataObject) -> None:
    content = data.draw(st.sampled_from(valid_files))
    kinds = [damaged(content)] + ([damaged_inside(content)] if content.startswith(b"PK") else [])
    path = tmp_path / "damaged.pt"
    path.write_bytes(data.draw(st.one_of(kinds)))
    for read in (read_checkpoint, unsafe_globals):
        message = ""
        try:
            read(path)
        except AsrCompressError as error:
            message = str(error)
        assert "\n" not in message


class LooksUp:
    """Pickles to getattr(owner, name), as Python 3.11.0 to 3.11.3 does with members of enumerations."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, str]]:
        return getattr, (self.owner, self.name)


@pytest.mark.parametrize("how", ["zip", "legacy"])
def test_an_attribute_is_looked_up_of_classes_of_data_alone(tmp_path: Path, how: str) -> None:
    from fairseq.data.multilingual.multilingual_utils import LangTokSpec

    path, zipped = tmp_path / "c.pt", how == "zip"
    state = {"model": {"w": torch.ones(2)}}
    args = Namespace(style=LooksUp(LangTokSpec, "main"), arch="x")
    torch.save(state | {"args": args}, path, _use_new_zipfile_serialization=zipped)
    assert read_checkpoint(path).config["model"]["style"] == "main"
    for owner, name in (("text", "upper"), ([], "append")):
        torch.save(
            state | {"args": Namespace(style=LooksUp(owner, name), arch="x")},
            path,
            _use_new_zipfile_serialization=zipped,
        )
        assert "no class of data" in message_for(path)


def test_a_trusted_file_looks_up_what_it_likes(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save({"model": {"w": torch.ones(2)}, "extra": LooksUp(Custom, "forward"), "args": Namespace(arch="x")}, path)
    assert "Custom" in message_for(path)
    assert list(read_checkpoint(path, trust=True).tensors) == ["w"]
