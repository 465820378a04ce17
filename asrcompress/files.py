"""Whole files or none: sha256, atomic writes, JSON that has no NaN. Standard library only.

Does not know what the files mean; artifact.py and sidecar.py do.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from asrcompress.errors import AsrCompressError


def sha256_file(path: str | Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def require_absent(path: Path, *, force: bool) -> None:
    """Raise before any work is done when `path` exists and may not be replaced."""
    if path.is_dir():
        raise AsrCompressError(f"{path}: is a directory; give the name of a file to write")
    if path.exists() and not force:
        raise AsrCompressError(f"{path}: exists already; choose another name, or add --force to replace it")
    if not path.parent.is_dir():
        raise AsrCompressError(f"{path}: the folder {path.parent} does not exist; create it first")


@contextmanager
def atomic_write(path: str | Path, *, force: bool = False) -> Iterator[BinaryIO]:
    """Write `path` whole or not at all: a sibling temporary file, fsync, rename.

    The temporary file is opened with "xb", so that the umask decides who may read it
    (mkstemp would leave it readable by its owner only). On any error, an interrupt
    included, it is removed and `path` is as it was.
    """
    path = Path(path)
    require_absent(path, force=force)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
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
                require_absent(path, force=False)
            except OSError:  # a file system without hard links
                require_absent(path, force=False)
                os.replace(temporary, path)
    except OSError as error:
        raise AsrCompressError(f"{path}: could not be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


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
