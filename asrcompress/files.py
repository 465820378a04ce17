"""Whole files or none: sha256, what may be written, atomic writes, JSON that has no NaN. Standard library only.

Does not know what the files mean; artifact.py and sidecar.py do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from asrcompress.errors import AsrCompressError


def sha256_file(path: str | Path) -> str:
    """Hex sha256 of a file's bytes."""
    import hashlib

    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path], *, force: bool) -> None:
    """Find, before any work, what would stop an output from being written, or would destroy an input.

    Creates and removes an empty file in each folder: what may be written there is only known by trying.

    Raises:
        AsrCompressError: an output is an input or another output, is there already (and `force` is False), is
            something else than a regular file, or cannot be created under its name; or a name is not UTF-8, which
            no sidecar could hold.
    """
    outputs, inputs = list(outputs), list(inputs)
    for path in (*inputs, *outputs):
        _require_text(path)
    seen: set[str] = set()
    for path in outputs:
        if any(_same(path, other) for other in inputs):
            raise AsrCompressError(f"{path}: is an input; choose another name for the output")
        if os.path.realpath(path) in seen:
            raise AsrCompressError(f"{path}: is named twice as an output; give each a file of its own")
        seen.add(os.path.realpath(path))
        require_absent(path, force=force)
        _probe(path)


def require_name(output: Path) -> None:
    """Raise for `.` and `/` (`-o ""` is the first), which no output can be called. Cheap, so done before anything else."""
    if not output.name:
        raise AsrCompressError(f"-o {output}: names no output; give it a name of its own")


def require_absent(path: Path, *, force: bool) -> None:
    """Raise when something is at `path` that may not be replaced, or when its folder is absent.

    A dangling link is something; a device or a pipe is never replaced.
    """
    if os.path.isdir(path):
        raise AsrCompressError(f"{path}: is a directory; give the name of a file to write")
    if os.path.exists(path) and not os.path.isfile(path):
        raise AsrCompressError(f"{path}: is a device or a pipe; give the name of a file to write")
    if os.path.lexists(path) and not force:
        raise AsrCompressError(f"{path}: exists already; choose another name, or add --force to replace it")
    if not os.path.isdir(path.parent):
        if os.path.exists(path.parent):
            raise AsrCompressError(f"{path}: {path.parent} is a file, not a folder; choose another name")
        raise AsrCompressError(f"{path}: the folder {path.parent} does not exist; create it first")


def _require_text(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise AsrCompressError(f"{str(path)!a}: the name is not UTF-8, so no sidecar can hold it; rename it") from None


def _same(path: Path, other: Path) -> bool:
    """One file under two names: links are followed."""
    try:
        return os.path.samefile(path, other)
    except OSError:  # one of them is absent
        return os.path.realpath(path) == os.path.realpath(other)


def _probe(path: Path) -> None:
    temporary = _temporary(path)
    try:
        with suppress(FileNotFoundError):
            os.lstat(path)  # refuses a name too long for the file system
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise AsrCompressError(
            f"{path}: cannot be written: {error.strerror or error}; choose another name or folder"
        ) from error
    finally:
        _remove(temporary)


def _temporary(path: Path) -> Path:
    """A name of its own beside `path`, short whatever the length of that."""
    return path.with_name(f".{os.urandom(8).hex()}.part")


def _remove(temporary: Path) -> None:
    with suppress(OSError):  # an error on the way here says more
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: str | Path, *, force: bool = False) -> Iterator[BinaryIO]:
    """Write `path` whole or not at all: a sibling temporary file, fsync, rename.

    The temporary file is opened with "xb", so that the umask decides who may read it
    (mkstemp would leave it readable by its owner only). On any error, an interrupt
    included, it is removed and `path` is as it was.
    """
    path = Path(path)
    require_absent(path, force=force)
    temporary = _temporary(path)
    try:
        with open(temporary, "xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        if force:
            os.replace(temporary, path)
        else:
            # link() refuses to replace a file that came into being meanwhile; rename() would not.
            try:
                os.link(temporary, path)
            except FileExistsError:
                raise AsrCompressError(f"{path}: exists already, since a moment ago; choose another name") from None
            except OSError:  # a file system without hard links
                require_absent(path, force=False)
                os.replace(temporary, path)
    except OSError as error:
        raise AsrCompressError(f"{path}: could not be written: {error.strerror or error}") from error
    finally:
        _remove(temporary)


def write_json(path: str | Path, record: dict[str, Any], *, force: bool = False) -> None:
    """Write a record as indented JSON with a final newline.

    Raises:
        ValueError: the record holds NaN or infinity, which JSON does not have (a bug: use None).
    """
    text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    with atomic_write(path, force=force) as handle:
        handle.write(text.encode())


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object, with a one-line error for everything that can be wrong with the file."""
    path = Path(path)
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise AsrCompressError(f"{path}: no such file") from None
    except OSError as error:
        raise AsrCompressError(f"{path}: could not be read: {error.strerror or error}") from error
    except (ValueError, RecursionError):  # undecodable bytes, or not JSON
        raise AsrCompressError(f"{path}: is not JSON; give a sidecar that asrcompress wrote") from None
    if not isinstance(record, dict):
        raise AsrCompressError(f"{path}: holds no JSON object; give a sidecar that asrcompress wrote")
    return record
