"""export: a folder that appears whole or not at all, what --force may replace, and the sidecar beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asrcompress import gate
from asrcompress.errors import AsrCompressError
from asrcompress.exporters import EXPORTERS, Exported, Folder, Subject, get_exporter
from asrcompress.files import sha256_file
from asrcompress.ops.export import export
from asrcompress.report import render
from asrcompress.report.rows import build_report
from asrcompress.sidecar import merge, read

ROOT = Path(__file__).parents[2]


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """In the place of c: writes two files, one named after the folder."""
    module = ModuleType("an_exporter")

    def write(subject: Subject, files: Folder) -> Exported:
        assert not subject.module.training
        files.write(f"{files.stem}.c", "code", f"/* {subject.sha256} */\n")
        files.path("table.bin", "numbers").write_bytes(b"\0" * 100)
        return Exported(f"{files.stem}.c", {}, {"ram_bytes": 17, "flash_bytes": None}, ("said",))

    module.DEFAULT_SUFFIX = "-c"  # type: ignore[attr-defined]
    module.export = write  # type: ignore[attr-defined]
    monkeypatch.setitem(EXPORTERS, "c", "an_exporter")
    monkeypatch.setitem(__import__("sys").modules, "an_exporter", module)
    yield module


@pytest.fixture
def model(tiny_kws: Path, tmp_path: Path) -> Path:
    (tmp_path / "crnn.pt").write_bytes(tiny_kws.read_bytes())
    return tmp_path / "crnn.pt"


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", EXPORTERS)
def test_every_exporter_keeps_the_contract(name: str) -> None:
    module = get_exporter(name)
    assert re.fullmatch(r"[-.][a-z]+", module.DEFAULT_SUFFIX)
    assert callable(module.export) and module.__doc__


def test_an_unknown_format_is_an_error_that_names_the_known_ones(model: Path) -> None:
    with pytest.raises(AsrCompressError, match="--to tflite: is not known; use one of onnx, fairseq, c"):
        export(model, "tflite")


def test_folder_and_sidecar_say_what_is_on_disk(exporter: ModuleType, model: Path, validator: Any) -> None:
    written = export(model, "c")
    folder = model.with_name("crnn-c")
    assert (written.folder, written.main, written.notes) == (folder, folder / "crnn.c", ("said",))
    assert listing(folder) == {"crnn.c", "table.bin"}
    record = json.loads(folder.with_name("crnn-c.json").read_text())
    validator.validate(record)
    assert record == written.record
    assert record["model"]["sha256"] == sha256_file(model) and record["model"]["file"] == "crnn.pt"
    for file in record["export"]["files"]:
        assert (file["size_bytes"], file["sha256"]) == (
            (folder / file["file"]).stat().st_size, sha256_file(folder / file["file"]),
        )  # fmt: skip
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert record["metrics"] == {"c_size_bytes": total, "c_ram_bytes": 17, "c_flash_bytes": None}


def test_report_joins_it_with_the_model(exporter: ModuleType, model: Path) -> None:
    sidecar = read(export(model, "c").sidecar)
    joined = merge([sidecar])
    assert joined[0].metrics["c_ram_bytes"].value == 17 and joined[0].file == "crnn.pt"
    shown = render("table", build_report([sidecar], [], [gate.parse("c_ram_bytes<=17")]))
    assert "c_ram_bytes" in shown.splitlines()[0] and " 17" in shown.splitlines()[1]


def test_a_gate_on_what_was_not_exported_says_so(model: Path) -> None:
    sidecar = read(ROOT / "tests" / "examples" / "crnn_happy.pt.eval.json")
    (result,) = build_report([sidecar], [], [gate.parse("c_flash_bytes<=16384")]).results
    assert result.status == "error" and "give the sidecar of `asrcompress export" in result.message


def test_the_same_input_gives_the_same_bytes(
    exporter: ModuleType, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    first, again = (export(model, "c", output=model.with_name(name)) for name in ("a-c", "b-c"))
    assert (first.folder / "a.c").read_bytes() == (again.folder / "b.c").read_bytes()


def test_an_export_is_replaced_with_force_only(exporter: ModuleType, model: Path) -> None:
    written = export(model, "c")
    with pytest.raises(AsrCompressError, match="exists already"):
        export(model, "c")
    written.main.write_text("old")
    export(model, "c", force=True)
    assert written.main.read_text() != "old"
    assert listing(model.parent) == {"crnn.pt", "crnn-c", "crnn-c.json", "crnn-c/crnn.c", "crnn-c/table.bin"}


def test_force_replaces_no_folder_with_something_else_in_it(exporter: ModuleType, model: Path) -> None:
    written = export(model, "c")
    (written.folder / "mine.txt").write_text("kept")
    for force in (True, False):  # --force is not offered where it does not help
        with pytest.raises(AsrCompressError, match="no export wrote"):
            export(model, "c", force=force)
    with pytest.raises(AsrCompressError, match="no export wrote"):
        export(model, "c", output=model.parent, force=True)
    assert (written.folder / "mine.txt").read_text() == "kept" and model.is_file()


@pytest.mark.parametrize("name", ["model.pt", "model.onnx", "model.c"])
def test_a_files_name_is_refused(exporter: ModuleType, model: Path, name: str) -> None:
    with pytest.raises(AsrCompressError, match=r"give a folder's name, such as .*/model$"):
        export(model, "c", output=model.with_name(name))


def test_a_failure_leaves_nothing_and_what_was_there(exporter: ModuleType, model: Path) -> None:
    written = export(model, "c")
    before = {path: path.read_bytes() for path in model.parent.rglob("*") if path.is_file()}

    def fail(subject: Subject, files: Folder) -> Exported:
        files.write("half.c", "code", "int")
        raise AsrCompressError(f"{subject.path}: cannot")

    exporter.export = fail  # type: ignore[attr-defined]
    for output in (written.folder, model.with_name("other")):
        with pytest.raises(AsrCompressError, match="cannot"):
            export(model, "c", output=output, force=True)
    assert {path: path.read_bytes() for path in model.parent.rglob("*") if path.is_file()} == before


def test_a_folder_without_its_sidecar_does_not_stay(
    exporter: ModuleType, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("asrcompress.ops.export.write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        export(model, "c")
    assert listing(model.parent) == {"crnn.pt"}


def test_without_the_new_sidecar_the_replaced_folder_is_back(
    exporter: ModuleType, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(model, "c")
    before = {path: path.read_bytes() for path in model.parent.rglob("*") if path.is_file()}

    def fail(*arguments: Any, **options: Any) -> None:
        raise AsrCompressError("disk full")

    monkeypatch.setattr("asrcompress.ops.export.write_json", fail)
    with pytest.raises(AsrCompressError, match="disk full"):
        export(model, "c", force=True)
    assert {path: path.read_bytes() for path in model.parent.rglob("*") if path.is_file()} == before


def test_what_an_exporter_did_not_tell_of_is_a_bug(exporter: ModuleType, model: Path) -> None:
    def careless(subject: Subject, files: Folder) -> Exported:
        files.path("a.c", "code").with_name("b.c").write_text("")
        return Exported("a.c")

    exporter.export = careless  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="b.c"):
        export(model, "c")
    assert listing(model.parent) == {"crnn.pt"}


@pytest.mark.parametrize("name", ["a/b", "../b", "..", ""])
def test_files_have_plain_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no plain name"):
        Folder(tmp_path, "x").path(name, "code")
