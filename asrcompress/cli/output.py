"""The only module that prints. stdout carries data (a path, or JSON), everything else goes to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from asrcompress.errors import AsrCompressError

PROGRESS_AFTER_S = 2.0


def say(message: str) -> None:
    """A line for the person, on stderr; a line of progress that is there goes first."""
    _wipe()
    print(message, file=sys.stderr)


def emit(text: str) -> None:
    """Data, on stdout."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def emit_json(record: dict[str, Any]) -> None:
    """A record as JSON, on stdout."""
    emit(json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False))


def format_bytes(size: int) -> str:
    """11285451 -> '11.29 MB'; bytes below 10 kB are shown in full."""
    if size < 10_000:
        return f"{size} B"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size} B"


def path_from_stdin(what: str) -> str:
    """The path that the command before us in a pipe printed.

    Raises:
        AsrCompressError: there is no pipe, or nothing came through it.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise AsrCompressError(f"no {what} given: name a file, or pipe its path in")
    lines = [line.strip() for line in sys.stdin.read().splitlines() if line.strip()]
    if not lines:
        raise AsrCompressError(f"no {what} came through the pipe: the command before it failed, or name a file")
    if len(lines) > 1:
        raise AsrCompressError(f"{len(lines)} paths came through the pipe, one {what} is needed")
    return lines[0]


def progress_bar(label: str) -> Callable[[int, int], None]:
    """A progress line with an estimate, on a terminal and only once the work takes over two seconds."""
    if not sys.stderr.isatty():
        return lambda done, total: None
    # When work began, and what was done by then, which took none of its time; when the line was written last.
    begin, first, shown = 0.0, -1, 0.0

    def update(done: int, total: int) -> None:
        nonlocal begin, first, shown
        now = time.monotonic()
        if first < 0:
            begin, first = now, done
        if done >= total:
            _wipe()
        elif done > first and now - begin > PROGRESS_AFTER_S and now - shown > 0.2:
            shown = now
            left = (now - begin) / (done - first) * (total - done)
            filled = 24 * done // total
            _wipe()
            _line.append(f"{label} [{'#' * filled}{'.' * (24 - filled)}] {done}/{total}, {_duration(left)} left")
            sys.stderr.write(_line[0])
            sys.stderr.flush()

    return update


_line: list[str] = []  # of progress, where one is on the screen


def _wipe() -> None:
    if _line:
        _line.clear()
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns side by side: words to the left, numbers to the right; never wrapped, never coloured."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    numbers = [
        column
        for column in range(len(widths))
        if rows[1][column].replace(",", "").isdigit() or rows[0][column] in ("params", "bytes", "MACs")
    ]
    return [
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
