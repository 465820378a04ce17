"""export: a checkpoint or an artifact -> a folder of files that another program runs, and the sidecar that describes them.

Does not know what the files are; exporters/ does.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.exporters import Exported, Folder, Subject, get_exporter
from asrcompress.files import check_outputs, read_json, require_name, sha256_file, write_json
from asrcompress.ops.load import build_model, count_params, describe, environment, open_source, require_model_file
from asrcompress.sidecar import build

# What a folder is not named, since the files in it are.
FILE_SUFFIXES = (".pt", ".onnx", ".c", ".h", ".safetensors", ".json")


@dataclass(frozen=True)
class WrittenExport:
    """What was written, what a program is given of it (a file or the folder), the sidecar, and lines for the person."""

    folder: Path
    main: Path
    sidecar: Path
    record: dict[str, Any]
    notes: tuple[str, ...] = ()


def export(
    path: str | Path,
    to: str,
    *,
    output: str | Path | None = None,
    data_dir: Path | None = None,
    trust: bool = False,
    force: bool = False,
) -> WrittenExport:
    """Write `path` in the format `to` into the folder `output`, and describe that in `<output>.json`.

    Args:
        path: checkpoint or artifact.
        to: a name in EXPORTERS.
        output: the folder; by default beside `path` and named after it.
        data_dir: where a Fairseq checkpoint's vocabulary files lie.
        trust: let a pickled checkpoint run code.
        force: replace a folder that an export wrote.

    Raises:
        AsrCompressError: unreadable input, a model that the format has no form for, or a folder that exists. Nothing is
            written then.
    """
    path = Path(path)
    exporter = get_exporter(to)
    require_model_file(path)
    folder = Path(output) if output else path.with_name(path.stem + exporter.DEFAULT_SUFFIX)
    require_name(folder)
    sidecar = folder.with_name(folder.name + ".json")
    _check_folder(folder, sidecar, path, force=force)
    source = open_source(path, data_dir=data_dir, trust=trust)
    model = describe(source, count_params(source))
    subject = Subject(
        path, source.sha256, source.size_bytes, source.family, source.spec, source.content, build_model(source).module, data_dir
    )  # fmt: skip
    with _appearing(folder) as (staging, appear):
        files = Folder(staging, folder.name.removesuffix(exporter.DEFAULT_SUFFIX))
        exported: Exported = exporter.export(subject, files)
        described = _describe_files(staging, files)
        record = build(
            "export",
            model=model,
            environment=environment("cpu"),
            export={"format": to, "folder": folder.name, "main": exported.main, "files": described, **exported.record},
            metrics={
                f"{to}_size_bytes": sum(file["size_bytes"] for file in described),
                **{f"{to}_{name}": value for name, value in exported.metrics.items()},
            },
        )
        appear()
        write_json(sidecar, record, force=force)
    main = folder / exported.main if exported.main else folder
    return WrittenExport(folder, main, sidecar, record, exported.notes)


def _check_folder(folder: Path, sidecar: Path, path: Path, *, force: bool) -> None:
    """Find, before any work, what would stop the folder and its sidecar from being written, or would lose something."""
    if folder.suffix in FILE_SUFFIXES:
        raise AsrCompressError(
            f"-o {folder}: export writes a folder of files; give a folder's name, such as {folder.with_suffix('')}"
        )
    if os.path.lexists(folder):
        _require_own(folder, sidecar)  # first: where --force does not help, it is not offered
        if not force:
            raise AsrCompressError(f"{folder}: exists already; choose another name, or add --force to replace it")
    else:
        check_outputs([folder], [path], force=False)
    check_outputs([sidecar], [path], force=force)


def _require_own(folder: Path, sidecar: Path) -> None:
    """Raise unless all that lies in the folder is what its sidecar lists: --force replaces exports, and no other folder."""
    listed: set[str] = set()
    if sidecar.is_file():
        block = read_json(sidecar).get("export")
        files = block.get("files") if isinstance(block, dict) else None
        listed = {str(file.get("file")) for file in files or () if isinstance(file, dict)}
    if folder.is_symlink() or not folder.is_dir() or not {entry.name for entry in folder.iterdir()} <= listed:
        raise AsrCompressError(
            f"{folder}: holds something that no export wrote, so --force does not replace it; choose another name"
        )


@contextmanager
def _appearing(folder: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A folder to fill under another name, and what syncs it and gives it its own.

    Whatever ends the block early, an interrupt included, leaves things as they were: the new folder is gone, and one that it
    replaced is back.
    """
    staging = folder.with_name(f".{os.urandom(8).hex()}.part")
    aside = folder.with_name(f".{os.urandom(8).hex()}.part")
    has_appeared = False

    def appear() -> None:
        nonlocal has_appeared
        for file in staging.iterdir():
            _sync(file)
        _sync(staging)
        if os.path.lexists(folder):
            os.rename(folder, aside)
        os.rename(staging, folder)
        has_appeared = True

    try:
        staging.mkdir()
        yield staging, appear
    except BaseException as error:
        if has_appeared:
            shutil.rmtree(folder, ignore_errors=True)
        if os.path.lexists(aside):
            os.rename(aside, folder)
        if isinstance(error, OSError):
            raise AsrCompressError(f"{folder}: could not be written: {error.strerror or error}") from error
        raise
    finally:
        for left in (staging, aside):
            with suppress(OSError):
                shutil.rmtree(left, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _describe_files(staging: Path, files: Folder) -> list[dict[str, Any]]:
    """Every file with its role, size and hash, read from the disk.

    Raises:
        ValueError: what lies there is not what the exporter said that it wrote (a bug of the exporter).
    """
    found = {entry.name for entry in staging.iterdir()}
    if found != set(files.roles) or not found:
        raise ValueError(f"the exporter wrote {sorted(found)} and told of {sorted(files.roles)}")
    return [
        {"file": name, "role": role, "size_bytes": (staging / name).stat().st_size, "sha256": sha256_file(staging / name)}
        for name, role in files.roles.items()
    ]  # fmt: skip
