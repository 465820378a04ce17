"""Walks over folders of audio. Follows links to folders, each folder once; leaves hidden names out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from asrcompress.errors import AsrCompressError
from asrcompress.speech.audio import AUDIO_SUFFIXES


def walk_files(folder: Path) -> Iterator[Path]:
    """Every file below `folder` that is not hidden, in the order of its path.

    Corpora are often put together from links, which pathlib's rglob would pass over in silence.

    Raises:
        AsrCompressError: a folder cannot be listed.
    """

    def stop(error: OSError) -> None:
        raise AsrCompressError(f"{error.filename}: could not be listed: {error.strerror}") from error

    seen: set[str] = set()
    for parent, names, files in os.walk(folder, followlinks=True, onerror=stop):
        names[:] = sorted(name for name in names if not name.startswith("."))
        real = os.path.realpath(parent)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(parent, name)


def list_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """The sub-folders and the files of one folder, hidden ones left out, both sorted by name.

    Raises:
        AsrCompressError: the folder cannot be listed.
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise AsrCompressError(f"{folder}: could not be listed: {error.strerror or error}") from error
    folders = [entry for entry in entries if entry.is_dir()]
    return folders, [entry for entry in entries if not entry.is_dir()]


def is_audio(path: Path) -> bool:
    """Whether the name ends like an audio file's."""
    return path.suffix.lower() in AUDIO_SUFFIXES
