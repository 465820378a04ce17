"""Utterances with references, from the three forms in which people have them.

A Fairseq S2T table (.tsv), a LibriSpeech folder (*.trans.txt), or lines of path<TAB>text. Which one it
is shows in the file itself. Nothing is dropped: a file that is not there is an error. Keyword clips
are keyword_datasets.py's.
"""

from __future__ import annotations

import os
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
from asrcompress.speech.folders import is_audio, list_folder, walk_files
from asrcompress.speech.tables import Row, named_columns, read_rows

_FAIRSEQ_COLUMNS = ("id", "audio", "tgt_text")
_FORMS = "a Fairseq S2T .tsv, a LibriSpeech folder (*.trans.txt), or lines of path<TAB>text"


@dataclass(frozen=True)
class Utterance:
    """One recording and what is said in it; an empty reference is a recording without words."""

    id: str
    audio: Path
    reference: str
    speaker: str | None = None


@dataclass(frozen=True)
class Dataset:
    """A test set. `sha256` is over ids, audio bytes and references in order: the same wherever it lies."""

    path: Path
    utterances: tuple[Utterance, ...]
    sha256: str

    @property
    def num_empty_references(self) -> int:
        """How many utterances have a reference without words."""
        return sum(not utterance.reference.split() for utterance in self.utterances)


def read_utterances(path: str | Path, *, audio_root: str | Path | None = None) -> Dataset:
    """Read a transcribed set and find out by itself in which form it is.

    Args:
        path: a Fairseq S2T table, a LibriSpeech folder (one subset, or several under one parent), or
            a text file with `path<TAB>text` lines.
        audio_root: where a table's relative paths start; the table's own folder when None.

    Raises:
        AsrCompressError: no set is there or its form is not clear, audio files are missing, an id is
            listed twice, a line is malformed, or no reference has a word.
    """
    path = Path(path)
    if os.path.isdir(path):
        if audio_root is not None:
            raise AsrCompressError(f"{path}: is a folder, which needs no --audio-root; leave it out")
        utterances = _read_librispeech(path)
        root = None
    elif os.path.exists(path):
        rows = read_rows(path)
        root = audio_root_of(path, audio_root)
        utterances = _read_table(path, rows, root)
    else:
        raise AsrCompressError(f"{path}: no such file or folder; give {_FORMS}")
    require_unique(path, (utterance.id for utterance in utterances))
    require_audio_files(path, [utterance.audio for utterance in utterances], root)
    if not any(utterance.reference.split() for utterance in utterances):
        raise AsrCompressError(
            f"{path}: none of its {len(utterances)} references has a word, so there is no word error rate; "
            "give a set with transcripts"
        )
    sha256 = content_sha256((utterance.id, utterance.audio, utterance.reference) for utterance in utterances)
    return Dataset(path, tuple(utterances), sha256)


def _read_table(path: Path, rows: list[Row], root: Path) -> list[Utterance]:
    header = rows[0].fields
    if "word" in header and "path" in header:
        raise AsrCompressError(f"{path}: is a table of keyword clips, not of transcripts; give {_FORMS}")
    if [name.lower() for name in header] in (["path", "text"], ["audio", "text"]):
        rows = rows[1:]
    elif {"audio", "tgt_text"} & set(header) and not is_audio(Path(header[0])):
        return _read_fairseq(path, rows, root)
    for row in rows:
        if len(row.fields) != 2:
            raise AsrCompressError(
                f"{path}:{row.line}: has {len(row.fields)} fields where path<TAB>text has 2; give {_FORMS}"
            )
    audio = [resolve(row.fields[0], root, path, row.line) for row in rows]
    ids = ids_from_paths(audio)
    return [Utterance(name, file, row.fields[1]) for name, file, row in zip(ids, audio, rows, strict=True)]


def _read_fairseq(path: Path, rows: list[Row], root: Path) -> list[Utterance]:
    utterances = []
    for line, fields in named_columns(path, rows, _FAIRSEQ_COLUMNS):
        audio = resolve(fields["audio"], root, path, line)
        utterances.append(Utterance(fields["id"], audio, fields["tgt_text"], fields.get("speaker") or None))
    return utterances


def _read_librispeech(path: Path) -> list[Utterance]:
    """Read SPEAKER/CHAPTER/*.trans.txt: a line is an id, a space and the text; the audio lies beside it."""
    files = list(walk_files(path))
    transcripts = [file for file in files if file.name.endswith(".trans.txt")]
    tables = [file.name for file in list_folder(path)[1] if file.suffix == ".tsv"]
    if tables and transcripts:
        raise AsrCompressError(
            f"{path}: holds tables ({', '.join(tables[:5])}) and *.trans.txt; give one table, or a subset's folder"
        )
    if tables:
        raise AsrCompressError(f"{path}: is a folder with tables; give one of them: {', '.join(tables[:10])}")
    if not transcripts:
        raise AsrCompressError(f"{path}: holds no *.trans.txt; give {_FORMS}")
    audio: dict[Path, Path] = {}
    for file in filter(is_audio, files):
        if file.with_suffix("") in audio:
            raise AsrCompressError(f"{file}: lies beside {audio[file.with_suffix('')].name}; keep one of the two")
        audio[file.with_suffix("")] = file
    utterances = []
    for transcript in transcripts:
        for row in read_rows(transcript):
            identifier, _, reference = "\t".join(row.fields).partition(" ")
            if not identifier or "\t" in identifier or "/" in identifier:
                raise AsrCompressError(f"{transcript}:{row.line}: does not start with an utterance id and a space")
            file = transcript.parent / identifier
            speaker = identifier.split("-")[0] if identifier.count("-") == 2 else None
            # A file that is not there keeps the name it should have, for the error that counts them.
            found = audio.pop(file, file.with_name(f"{identifier}.flac"))
            utterances.append(Utterance(identifier, found, reference, speaker))
    if audio:
        raise AsrCompressError(
            f"{path}: {len(audio)} audio files have no line in a .trans.txt beside them, the first is "
            f"{next(iter(audio.values()))}; add the lines, or move the files away"
        )
    return utterances
