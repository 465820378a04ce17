"""The report as plain text, for a terminal or a pipe.

In a pipe a model is one line, however long. On a terminal that is too narrow for that the table is turned
round: a line per column, as many models side by side as fit. Nothing is left out or read as markup.
Colour is the caller's decision, since only it knows whether a person is looking.
"""

from __future__ import annotations

import re
import unicodedata

from asrcompress.gate import Result
from asrcompress.report.rows import Column, Report, columns, printable

GAP = "  "
NAME_WIDTH = 17  # of a name over a column: about as wide as the widest number, an interval
STATUS = {"passed": ("PASS", "32"), "failed": ("FAIL", "31"), "error": ("ERROR", "33")}


def render(report: Report, *, width: int | None = None, color: bool = False) -> str:
    """Text with a final newline.

    Args:
        report: what to show.
        width: characters in a line of the terminal; None for a pipe, which has no width.
        color: mark headings and verdicts with ANSI colours.
    """
    shown = columns(report)
    table = _grid(shown)
    if width is not None and max(map(text_width, table)) > width:
        lines = _turned(shown, width, color)
    else:
        lines = [_paint(table[0], "1", color), *table[1:]]
    if report.results:
        lines += ["", *(line for result in report.results for line in _gate(result, color))]
    if report.notes:
        lines += ["", *report.notes]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _gate(result: Result, color: bool) -> list[str]:
    word, code = STATUS[result.status]
    verdict = _paint(f"{word:5}", code, color)
    return [f"{verdict} {result.label}: {printable(result.requirement)}", f"      {printable(result.message)}"]


def _grid(shown: list[Column]) -> list[str]:
    """A heading line and a line per row; numbers to the right."""
    padded = []
    for column in shown:
        cells = [column.heading, *(cell or "-" for cell in column.cells)]
        wide = max(map(text_width, cells))
        padded.append([_pad(cell, wide, column.is_number) for cell in cells])
    return [GAP.join(line).rstrip() for line in zip(*padded, strict=True)]


def _turned(shown: list[Column], width: int, color: bool) -> list[str]:
    """Blocks of models side by side, each with the headings on its left."""
    num_rows = len(shown[0].cells)
    lines: list[str] = []
    start = 0
    while start < num_rows:
        stop = start + 1
        while stop < num_rows and _block_width(shown, start, stop + 1) <= width:
            stop += 1
        lines += ([""] if start else []) + _block(shown, start, stop, color)
        start = stop
    return lines


def _block(shown: list[Column], start: int, stop: int, color: bool = False) -> list[str]:
    """The models from `start` to `stop`, each a column under its name."""
    names = [_fold(shown[0].cells[row], NAME_WIDTH) for row in range(start, stop)]
    num_lines = max(map(len, names))
    headings = (shown[0].heading, *[" "] * (num_lines - 1), *(column.heading for column in shown[1:]))
    turned = [Column("", headings, False)]
    for row, name in zip(range(start, stop), names, strict=True):
        cells = (column.cells[row] for column in shown[1:])
        turned.append(Column("", (*name, *[" "] * (num_lines - len(name)), *cells)))
    lines = _grid(turned)[1:]
    return [*(_paint(line, "1", color) for line in lines[:num_lines]), *lines[num_lines:]]


def _fold(name: str, wide: int) -> list[str]:
    """A name in lines of at most `wide` cells, broken after a dot, dash, underscore or space where there is one."""
    lines = [""]
    for piece in re.findall(r"[^._\- ]*[._\- ]?", name):
        while text_width(piece) > wide:
            piece, lines = piece[wide // 2 :], [*lines, piece[: wide // 2]]
        if text_width(lines[-1] + piece) <= wide:
            lines[-1] += piece
        else:
            lines.append(piece)
    return [line.strip() for line in lines if line.strip()]


def _block_width(shown: list[Column], start: int, stop: int) -> int:
    return max(map(text_width, _block(shown, start, stop)))


def text_width(text: str) -> int:
    """Terminal cells that a text takes: two for a wide character, none for a combining one."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _pad(text: str, wide: int, to_the_right: bool) -> str:
    space = " " * (wide - text_width(text))
    return space + text if to_the_right else text + space


def _paint(text: str, code: str, color: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if color else text
