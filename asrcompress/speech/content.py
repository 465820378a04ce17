"""What any set of audio needs: ids that do not move with the folder, a content hash, no missing file.

Knows audio and text, not where they were listed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from asrcompress.errors import AsrCompressError
from asrcompress.speech.audio import audio_file, read_audio_bytes


def content_sha256(entries: Iterable[tuple[str, Path, str]]) -> str:
    """Hex sha256 over (id, audio, text), in order; the audio counts by its bytes, not by where it lies.

    Each of the three enters as its own sha256, so that no two different sets read the same.
    """
    digest = hashlib.sha256()
    for identifier, audio, text in entries:
        for part in (_bytes(identifier), read_audio_bytes(audio), _bytes(text)):
            digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # file names need not be UTF-8


def ids_from_paths(paths: Sequence[Path]) -> list[str]:
    """Names for files that have none: each path below the folder all of them share, with forward slashes."""
    absolute = [Path(os.path.abspath(path)) for path in paths]
    shared = Path(os.path.commonpath([path.parent for path in absolute])) if absolute else Path()
    return [path.relative_to(shared).as_posix() for path in absolute]


def require_unique(path: Path, ids: Iterable[str]) -> None:
    """Raise when an id names two recordings: per-utterance results could not be told apart."""
    seen: set[str] = set()
    for identifier in ids:
        if identifier in seen:
            raise AsrCompressError(f"{path}: {identifier!r} is listed twice; give each recording one line")
        seen.add(identifier)


def require_audio_files(path: Path, audio: Sequence[Path], root: Path | None) -> None:
    """Raise, with their number and the first, when audio files are not there.

    Args:
        path: the table or folder that names them.
        audio: the files.
        root: what relative paths were taken from; None where they were found by listing.
    """
    missing = [entry for entry in audio if not os.path.isfile(audio_file(entry))]
    if missing:
        way_out = "restore them, or take them out of the table"
        if root is not None:
            way_out = f"relative paths start at {root}: give another --audio-root, or restore the files"
        raise AsrCompressError(
            f"{path}: {len(missing)} of {len(audio)} audio files are missing, the first is {missing[0]}; {way_out}"
        )


def resolve(written: str, root: Path, path: Path, line: int) -> Path:
    """The file that a table's line names: absolute as it is, relative below `root`."""
    if not written.strip():
        raise AsrCompressError(f"{path}:{line}: names no audio file; fill in its path")
    return root / written


def audio_root_of(path: Path, audio_root: str | Path | None) -> Path:
    """Where a table's relative paths start: the folder given, else the table's own."""
    if audio_root is None:
        return path.parent
    if not os.path.isdir(audio_root):
        raise AsrCompressError(f"{audio_root}: is not a folder; give --audio-root the folder that paths start at")
    return Path(audio_root)
