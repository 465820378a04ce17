"""Clips of single words for keyword spotting: a Speech Commands folder, or a table of path and word.

Every clip of the set counts, as the keyword or as anything else. Scores and labels are metrics/detection.py's.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Sequence
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
from asrcompress.speech.folders import is_audio
from asrcompress.speech.keyword_tree import read_tree
from asrcompress.speech.splits import ALL, select, split_name
from asrcompress.speech.tables import Row, named_columns, read_rows

_NUM_WORDS_SHOWN = 10
_FORMS = "a folder with one folder of clips per word, or a table with the columns path, word and perhaps split"


@dataclass(frozen=True)
class KeywordClip:
    """One clip and the word in it."""

    id: str
    audio: Path
    word: str
    is_keyword: bool


@dataclass(frozen=True)
class KeywordDataset:
    """Clips of one split. `sha256` is over ids, audio bytes and words in order: the same wherever it lies.

    `num_background_noise` and `num_not_audio` count the files of a folder that are no clips.
    """

    path: Path
    keyword: str
    split: str | None
    clips: tuple[KeywordClip, ...]
    sha256: str
    num_background_noise: int = 0
    num_not_audio: int = 0

    @property
    def num_positives(self) -> int:
        """How many clips hold the keyword."""
        return sum(clip.is_keyword for clip in self.clips)

    @property
    def num_negatives(self) -> int:
        """How many clips hold anything else."""
        return len(self.clips) - self.num_positives

    @property
    def counts(self) -> dict[str, int]:
        """All counts by name."""
        return {
            "num_clips": len(self.clips),
            "num_positives": self.num_positives,
            "num_negatives": self.num_negatives,
            "num_background_noise": self.num_background_noise,
            "num_not_audio": self.num_not_audio,
        }


def read_keyword_clips(
    path: str | Path,
    *,
    keyword: str | None,
    split: str | None = None,
    audio_root: str | Path | None = None,
    defaults: tuple[str, ...] = (),
    option: str = "--split",
) -> KeywordDataset:
    """Read the clips of a keyword set.

    Args:
        path: a folder in the manner of Speech Commands (one folder per word; `testing_list.txt` and
            `validation_list.txt` make splits; `_background_noise_` is no word), or a table.
        keyword: the word to find; every other word is a negative.
        split: `train`, `val`, `test` (or a table's own names), or `all`. None is allowed where the set
            has no splits, or one, or one of `defaults`.
        audio_root: where a table's relative paths start; the table's own folder when None.
        defaults: splits, the first of which that is there is taken where `split` is None and the set has several.
        option: what the split is given with, for errors.

    Raises:
        AsrCompressError: no set is there, the keyword or the split is not given or not found, no clip
            is negative, audio files are missing, or a clip is listed twice.
    """
    path = Path(path)
    found = _find(path, split, audio_root, defaults=defaults, option=option)
    entries, chosen, ids = found.entries, found.chosen, found.ids
    word = _require_keyword(path, keyword, [word for _, word in entries])
    require_audio_files(path, [audio for audio, _ in entries], found.root)
    clips = tuple(
        KeywordClip(ids[index], audio, spoken, spoken == word)
        for index, (audio, spoken) in zip(chosen, entries, strict=True)
    )
    sha256 = content_sha256((clip.id, clip.audio, clip.word) for clip in clips)
    return KeywordDataset(path, word, found.split, clips, sha256, found.num_background_noise, found.num_not_audio)


def read_clip_files(
    path: str | Path,
    *,
    split: str | None = None,
    audio_root: str | Path | None = None,
    option: str = "--calibration-split",
) -> tuple[list[Path], str]:
    """The audio files of a keyword set, whatever is said in them, and the sha256 of what was read: for calibration.

    Args:
        path: as for `read_keyword_clips`.
        split: None: `train`, else `val`, where the set has several.
        audio_root: as for `read_keyword_clips`.
        option: what the split is given with, for errors.

    Raises:
        AsrCompressError: no set is there, the split is not found, or audio files are missing.
    """
    path = Path(path)
    found = _find(path, split, audio_root, defaults=("train", "val"), option=option)
    files = [audio for audio, _ in found.entries]
    require_audio_files(path, files, found.root)
    ids = [found.ids[index] for index in found.chosen]
    words = [word for _, word in found.entries]
    return files, content_sha256(zip(ids, files, words, strict=True))


@dataclass(frozen=True)
class _Found:
    """(audio, word) of the chosen split, their numbers among all, the ids of all, its name, and what was left out."""

    entries: list[tuple[Path, str]]
    chosen: list[int]
    ids: list[str]
    root: Path | None
    split: str | None
    num_background_noise: int = 0
    num_not_audio: int = 0


def _find(
    path: Path,
    split: str | None,
    audio_root: str | Path | None,
    *,
    defaults: tuple[str, ...] = (),
    option: str = "--split",
) -> _Found:
    num_background_noise = num_not_audio = 0
    root = None
    if os.path.isdir(path):
        if audio_root is not None:
            raise AsrCompressError(f"{path}: is a folder, which needs no --audio-root; leave it out")
        tree = read_tree(path)
        entries, splits = tree.entries, tree.splits
        num_background_noise, num_not_audio = tree.num_background_noise, tree.num_not_audio
    elif os.path.exists(path):
        rows = read_rows(path)
        root = audio_root_of(path, audio_root)
        entries, splits = _read_table(path, rows, root)
    else:
        raise AsrCompressError(f"{path}: no such file or folder; give {_FORMS}")
    ids = list(ids_from_paths([audio for audio, _ in entries]))
    require_unique(path, ids)
    if split is None and len(set(splits)) > 1:
        split = next((name for name in defaults if name in splits), None)
    chosen = select(path, splits, split, option=option)
    name = None if split is None else split_name(split)
    return _Found([entries[index] for index in chosen], chosen, ids, root, name, num_background_noise, num_not_audio)


def _require_keyword(path: Path, keyword: str | None, words: Sequence[str]) -> str:
    counts = Counter(words)
    if keyword is not None and keyword in counts:
        if len(counts) == 1:
            raise AsrCompressError(
                f"{path}: every one of the {len(words)} clips is {keyword!r}; "
                "add clips of other words, without them there are no false accepts to count"
            )
        return keyword
    likely = difflib.get_close_matches((keyword or "").lower(), counts, n=3)
    shown = [*likely, *(word for word in sorted(counts) if word not in likely)][:_NUM_WORDS_SHOWN]
    known = ", ".join(shown) + (", ..." if len(counts) > len(shown) else "")
    if not keyword:
        raise AsrCompressError(f"{path}: which word is the keyword? Add --keyword WORD, one of: {known}")
    raise AsrCompressError(f"{path}: no clip has the keyword {keyword!r}; its words are: {known}")


def _read_table(path: Path, rows: list[Row], root: Path) -> tuple[list[tuple[Path, str]], list[str]]:
    """Read (audio, word) of every row, and every row's split (`all` where the table has no such column)."""
    header = rows[0].fields
    if is_audio(Path(header[0])) and len(header) in (2, 3):  # no header: path, word[, split]
        names = ("path", "word", "split")[: len(header)]
        rows = [Row(0, names), *rows]
    elif "path" not in header or "word" not in header:
        raise AsrCompressError(f"{path}: the first line names no columns path and word; give {_FORMS}")
    entries, splits = [], []
    for line, fields in named_columns(path, rows, ("path", "word")):
        word = fields["word"].strip()
        if not word:
            raise AsrCompressError(f"{path}:{line}: has no word; name what is said, or a class such as 'noise'")
        if not fields.get("split", ALL).strip():
            raise AsrCompressError(f"{path}:{line}: has no split; fill the column in for every clip, or take it out")
        entries.append((resolve(fields["path"], root, path, line), word))
        splits.append(split_name(fields.get("split", ALL)))
    return entries, splits
