"""Clips in folders as Speech Commands has them: one folder per word, lists of files for the splits.

Looks at names only. Which word is the keyword is for keyword_datasets.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asrcompress.errors import AsrCompressError
from asrcompress.speech.folders import is_audio, list_folder
from asrcompress.speech.splits import ALL
from asrcompress.speech.tables import read_rows

BACKGROUND_NOISE = "_background_noise_"
_LISTS = {"test": "testing_list.txt", "val": "validation_list.txt"}


@dataclass(frozen=True)
class KeywordTree:
    """Clips as (file, word) with their splits, and how many files are no clips."""

    entries: list[tuple[Path, str]]
    splits: list[str]
    num_background_noise: int
    num_not_audio: int


def read_tree(folder: Path) -> KeywordTree:
    """List the clips of a folder in which every sub-folder is a word.

    Splits come from `testing_list.txt` and `validation_list.txt`; what neither names is `train`. With
    neither, every clip is in `all`. `_background_noise_` is long recordings without a word: counted only.

    Raises:
        AsrCompressError: no sub-folder holds audio, a table lies there too, audio lies outside the words'
            folders, or a list names a clip that is not there.
    """
    words, beside = list_folder(folder)
    entries: list[tuple[Path, str]] = []
    num_background_noise = num_not_audio = 0
    for word in words:
        folders, files = list_folder(word)
        clips = [file for file in files if is_audio(file)]
        if word.name == BACKGROUND_NOISE:
            num_background_noise = len(clips)
            continue
        if folders:
            raise AsrCompressError(
                f"{folder}: {word.name} is no word's folder, it holds the folder {folders[0].name}; give the "
                f"folder with one folder of clips per word, such as {word}, or a table{_tables(beside)}"
            )
        num_not_audio += len(files) - len(clips)
        entries += [(clip, word.name) for clip in clips]
    if not entries:
        raise AsrCompressError(
            f"{folder}: no folder in it holds .wav or .flac clips; give the folder with one folder of "
            f"clips per word, or a table{_tables(beside)}"
        )
    loose = [file.name for file in beside if is_audio(file)]
    if loose:
        raise AsrCompressError(
            f"{folder}: {len(loose)} clips lie outside the words' folders, the first is {loose[0]}; "
            "move each into the folder of its word"
        )
    if _tables(beside):
        raise AsrCompressError(f"{folder}: holds words' folders and a table; give the table{_tables(beside)}")
    return KeywordTree(entries, _read_splits(folder, entries), num_background_noise, num_not_audio)


def _read_splits(folder: Path, entries: list[tuple[Path, str]]) -> list[str]:
    names = [clip.relative_to(folder).as_posix() for clip, _ in entries]
    known = set(names)
    split_of: dict[str, str] = {}
    found = [(split, folder / name) for split, name in _LISTS.items() if (folder / name).exists()]
    for split, path in found:
        listed = list(dict.fromkeys(row.fields[0].strip() for row in read_rows(path)))
        missing = [name for name in listed if name not in known]
        if missing:
            raise AsrCompressError(
                f"{path}: {len(missing)} of the {len(listed)} clips it lists are missing, the first is {missing[0]}; "
                "restore them, or take their lines out"
            )
        for name in listed:
            if split_of.setdefault(name, split) != split:
                raise AsrCompressError(f"{path}: {name} is in {_LISTS[split_of[name]]} too; take it out of one")
    return [split_of.get(name, "train" if found else ALL) for name in names]


def _tables(files: list[Path]) -> str:
    tables = [str(file) for file in files if file.suffix == ".tsv"]
    return f", such as {tables[0]}" if tables else ""
