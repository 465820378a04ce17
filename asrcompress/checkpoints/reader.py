"""Tells a checkpoint's format by its first bytes and has it read; every failure becomes one line.

Leaves the formats to pickled.py with layout.py, torchscript.py and safetensors_file.py.
"""

from __future__ import annotations

from pathlib import Path

from asrcompress.checkpoints.layout import read_layout
from asrcompress.checkpoints.pickled import load_pickled, printable, scan_names, unsafe_names
from asrcompress.checkpoints.record import Checkpoint, Contents
from asrcompress.checkpoints.safetensors_file import looks_like_safetensors, read_safetensors
from asrcompress.checkpoints.torch_zip import TorchZip, open_torch_zip
from asrcompress.checkpoints.torchscript import read_torchscript
from asrcompress.errors import AsrCompressError
from asrcompress.file_hash import FileHash

HEAD_SIZE = 512
_ZIP, _PICKLE, _SAFETENSORS = "zip", "pickle", "safetensors"


def read_checkpoint(path: str | Path, *, trust: bool = False) -> Checkpoint:
    """Read a Fairseq checkpoint, a state dict, a TorchScript archive or a safetensors file.

    No code of the file runs, unless `trust` is set: then classes that are not known to be harmless
    are imported and built as pickle does (`unsafe_globals` says which).

    Args:
        path: the file; its name does not matter, its first bytes do.
        trust: run what the file wants run.

    Raises:
        AsrCompressError: whatever is wrong with the file; the message names it, the cause and the way out.
    """
    path = Path(path)
    try:
        kind = _sniff(path)
        size_bytes = path.stat().st_size
        hashed = FileHash(path)
        contents = _read(path, kind, size_bytes, trust=trust)
    except AsrCompressError:
        raise
    except Exception as error:  # a hostile file can make torch, zipfile and pickle raise anything
        raise _damaged(path, error) from error
    return Checkpoint(
        path=path,
        format=contents.format,
        tensors=contents.tensors,
        config=contents.config,
        arch=contents.arch,
        symbols=contents.symbols,
        size_bytes=size_bytes,
        hashed=hashed,
        ledger=contents.ledger,
    )


def unsafe_globals(path: str | Path) -> list[str]:
    """The names, sorted, that `read_checkpoint(path, trust=True)` would import and run; nothing is run here.

    Raises:
        AsrCompressError: as for `read_checkpoint`.
    """
    path = Path(path)
    try:
        kind = _sniff(path)
        archive = open_torch_zip(path) if kind == _ZIP else None
        if kind == _SAFETENSORS or (archive is not None and archive.is_torchscript):
            return []
        return unsafe_names(scan_names(path, archive))
    except AsrCompressError:
        raise
    except Exception as error:  # as above
        raise _damaged(path, error) from error


def _read(path: Path, kind: str, size_bytes: int, *, trust: bool) -> Contents:
    if kind == _SAFETENSORS:
        return read_safetensors(path, size_bytes)
    archive: TorchZip | None = open_torch_zip(path) if kind == _ZIP else None
    if archive is not None and archive.is_torchscript:
        return read_torchscript(archive, size_bytes)
    return read_layout(path, load_pickled(path, archive, trust=trust), size_bytes)


def _sniff(path: Path) -> str:
    """Which kind of container a file is, by its first bytes."""
    if path.is_dir():
        example = next(iter(sorted(path.glob("*.pt"))), path / "checkpoint_best.pt")
        raise AsrCompressError(f"{path}: is a directory; give a checkpoint file in it, such as {example}")
    try:
        with open(path, "rb") as handle:
            head = handle.read(HEAD_SIZE)
            size_bytes = path.stat().st_size
    except FileNotFoundError:
        raise AsrCompressError(f"{path}: no such file; give the path of a checkpoint") from None
    except OSError as error:
        raise AsrCompressError(f"{path}: could not be read: {error.strerror or error}") from error
    if not head:
        raise AsrCompressError(f"{path}: is empty; copy it again from where it came")
    if looks_like_safetensors(head, size_bytes):  # first: its header's length may begin with any byte
        return _SAFETENSORS
    if head.startswith(b"PK\x03\x04"):
        return _ZIP
    if head.startswith(b"\x80"):
        return _PICKLE
    kind = "a text file" if _is_text(head) else "no file that torch or safetensors wrote"
    raise AsrCompressError(
        f"{path}: is {kind}; give a checkpoint (.pt of fairseq-train or torch.save, or .safetensors)"
    )


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", errors="ignore")
    return len(text.encode()) >= len(head) - 3 and all(c.isprintable() or c.isspace() for c in text)


def _damaged(path: Path, error: Exception) -> AsrCompressError:
    reason = printable([(str(error) or type(error).__name__).splitlines()[0]])
    return AsrCompressError(f"{path}: is damaged or cut short ({reason}); copy it again from where it came")
