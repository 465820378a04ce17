"""Speech without the keyword, to count false accepts on: transcribed sets, or audio that nobody transcribed.

Utterances whose reference has the keyword are left out and counted. What is said in audio without a transcript is
taken on trust; only what lies in a folder of the keyword's name is left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from asrcompress.errors import AsrCompressError
from asrcompress.speech.content import (
    audio_root_of,
    content_sha256,
    ids_from_paths,
    require_audio_files,
    require_unique,
    resolve,
)
from asrcompress.speech.datasets import Utterance, read_utterances
from asrcompress.speech.folders import is_audio, list_folder, walk_files
from asrcompress.speech.tables import read_rows

_FORMS = "a Fairseq S2T .tsv, a LibriSpeech folder, lines of path<TAB>text, a folder of audio, or a list of audio files"


@dataclass(frozen=True)
class NegativeSpeech:
    """Utterances in order. `sha256` is over ids, audio bytes and references of what was kept.

    `num_left_out` have the keyword. `is_transcribed`: False where what is said is known from nowhere.
    """

    path: Path
    utterances: tuple[Utterance, ...]
    sha256: str
    num_left_out: int
    is_transcribed: bool


def read_negatives(
    path: str | Path, has_keyword: Callable[[str], bool], *, audio_root: str | Path | None = None
) -> NegativeSpeech:
    """Read speech and leave out what has the keyword.

    Args:
        path: what `read_utterances` takes (S2T table, LibriSpeech folder, lines of path<TAB>text); or a folder of audio
            without transcripts, or a list of audio files, one a line.
        has_keyword: of a reference, or of a folder's name where there is no reference.
        audio_root: where a table's or list's relative paths start; its own folder when None.

    Raises:
        AsrCompressError: no speech is there, audio files are missing, or nothing is left without the keyword.
    """
    path = Path(path)
    found = _untranscribed(path, audio_root)
    is_transcribed = found is None
    if found is None:
        utterances = read_utterances(path, audio_root=audio_root).utterances
        kept = tuple(utterance for utterance in utterances if not has_keyword(utterance.reference))
    else:
        utterances = found
        kept = tuple(u for u in utterances if not any(has_keyword(part) for part in Path(u.id).parts[:-1]))
    if not kept:
        raise AsrCompressError(f"{path}: all {len(utterances)} utterances have the keyword; give speech without it")
    sha256 = content_sha256((utterance.id, utterance.audio, utterance.reference) for utterance in kept)
    return NegativeSpeech(path, kept, sha256, len(utterances) - len(kept), is_transcribed)


def _untranscribed(path: Path, audio_root: str | Path | None) -> tuple[Utterance, ...] | None:
    """Audio that has no references, or None where there are some, or where it takes `read_utterances` to say what is wrong."""
    root = None
    if os.path.isdir(path):
        files = list(walk_files(path))
        audio = [file for file in files if is_audio(file)]
        is_set = any(file.name.endswith(".trans.txt") for file in files)
        if is_set or any(file.suffix == ".tsv" for file in list_folder(path)[1]):
            return None
        if not audio:
            raise AsrCompressError(f"{path}: holds no audio; give {_FORMS}")
        if audio_root is not None:
            raise AsrCompressError(f"{path}: is a folder, which needs no --audio-root; leave it out")
        ids = [file.relative_to(path).as_posix() for file in audio]
    elif os.path.exists(path):
        rows = read_rows(path)
        if not all(len(row.fields) == 1 and is_audio(Path(row.fields[0].strip())) for row in rows):
            return None
        root = audio_root_of(path, audio_root)
        audio = [resolve(row.fields[0].strip(), root, path, row.line) for row in rows]
        ids = ids_from_paths(audio)
    else:
        raise AsrCompressError(f"{path}: no such file or folder; give {_FORMS}")
    require_unique(path, ids)
    require_audio_files(path, audio, root)
    return tuple(Utterance(identifier, file, "") for identifier, file in zip(ids, audio, strict=True))
