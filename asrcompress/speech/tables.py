"""Tab-separated text files, as Fairseq reads them: no quoting, no escapes, one record a line.

Knows lines and columns; what the columns mean is for datasets.py and keyword_datasets.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asrcompress.errors import AsrCompressError


@dataclass(frozen=True)
class Row:
    """One line of a table: its number in the file, from 1, and its fields as they are written."""

    line: int
    fields: tuple[str, ...]


def read_rows(path: Path) -> list[Row]:
    """Every line of a UTF-8 text file that is not empty, split at tabs; a byte-order mark is dropped.

    Raises:
        AsrCompressError: the file is missing, unreadable, no UTF-8 text, or empty.
    """
    try:
        with open(path, "rb") as handle:
            content = handle.read(4096)
            if b"\0" not in content:
                content += handle.read()
    except OSError as error:
        raise AsrCompressError(f"{path}: could not be read: {error.strerror or error}") from error
    if b"\0" in content:
        raise AsrCompressError(
            f"{path}: is not a text file; give the table that lists the audio and what is said in it"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise AsrCompressError(f"{path}:{line}: is not UTF-8 text; convert it with iconv -t UTF-8") from None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    rows = [Row(number, tuple(line.split("\t"))) for number, line in enumerate(lines, start=1) if line]
    if not rows:
        raise AsrCompressError(f"{path}: is empty; give a table of audio files and what is said in them")
    return rows


def named_columns(path: Path, rows: list[Row], required: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Read rows under a header: the line number and the fields by column name, for each row after the first.

    Raises:
        AsrCompressError: a required column is absent or named twice, there is no row, or a row has
            more or fewer fields than the header.
    """
    header = rows[0].fields
    for name in required:
        if header.count(name) != 1:
            what = "names more than one column" if name in header else "has no column"
            raise AsrCompressError(f"{path}: the header {what} {name!r}; its columns are {', '.join(header)}")
    if len(rows) == 1:
        raise AsrCompressError(f"{path}: has a header and nothing under it; add a line for each audio file")
    for row in rows[1:]:
        if len(row.fields) != len(header):
            raise AsrCompressError(
                f"{path}:{row.line}: has {len(row.fields)} fields where the header has {len(header)}; "
                "separate fields with one tab, and leave tabs and line ends out of texts"
            )
    return [(row.line, dict(zip(header, row.fields, strict=True))) for row in rows[1:]]
