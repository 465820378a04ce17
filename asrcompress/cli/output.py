"""The only module that prints. stdout carries data (a path, or JSON), everything else goes to stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asrcompress.errors import AsrCompressError

if TYPE_CHECKING:
    from asrcompress.ops.finetune_job import Report
    from asrcompress.training.trainer import Progress

PROGRESS_AFTER_S = 2.0


def say(message: str) -> None:
    """A line for the person, on stderr; a line of progress that is there goes first.

    Where stderr is full nobody can be told, and what was asked for is done and ends with its own code all the same.
    """
    try:
        _wipe()
        print(message, file=sys.stderr)
    except BrokenPipeError:
        raise
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


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
    """A progress line with an estimate, on a terminal and only once the work takes over two seconds; of ranks, the first's."""
    if not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0":
        return lambda done, total: None
    # When work began, and what was done by then, which took none of its time; when the line was written last.
    begin, first, last, shown = 0.0, -1, -1, 0.0

    def update(done: int, total: int) -> None:
        nonlocal begin, first, last, shown
        now = time.monotonic()
        if first < 0 or done < last:  # work began, or another piece of it
            begin, first = now, done
        last = done
        if done >= total:
            _wipe()
        elif done > first and now - begin > PROGRESS_AFTER_S and now - shown > 0.2:
            shown = now
            left = (now - begin) / (done - first) * (total - done)
            filled = 24 * done // total
            _show(f"{label} [{'#' * filled}{'.' * (24 - filled)}] {done}/{total}, {_duration(left)} left")

    return update


def finetune_progress() -> Report:
    """Training, told: a line of progress with the development metric on a terminal, plain lines otherwise."""
    from asrcompress.ops.finetune_job import Report

    is_terminal = sys.stderr.isatty()
    begin, first, shown = 0.0, -1, 0.0

    def value(number: float, metric: str) -> str:
        return f"WER {number:.2%}" if metric == "wer" else f"AU FA-FR {number:.3e}"

    def on_update(progress: Progress, total: int, metric: str) -> None:
        nonlocal begin, first, shown
        now = time.monotonic()
        if first < 0:
            begin, first = now, progress.update
        if not is_terminal or progress.update <= first or now - shown < 0.2:
            return
        shown = now
        left = (now - begin) / (progress.update - first) * (total - progress.update)
        filled = 24 * progress.update // total
        last, best = progress.history[-1].metric, progress.history[progress.best].metric
        _show(
            f"fine-tune [{'#' * filled}{'.' * (24 - filled)}] {progress.update}/{total}, {_duration(left)} left, "
            f"dev {value(last, metric)} (best {value(best, metric).rpartition(' ')[2]})"
        )

    def on_evaluation(progress: Progress, total: int, metric: str) -> None:
        line = progress.history[-1]
        parts = [f"dev {value(line.metric, metric)}, loss {line.loss:.4f}"]
        if line.training_loss is not None:
            parts.append(f"training loss {line.training_loss:.4f}")
        if line.mask_divergence:
            parts.append(f"masks changed {line.mask_divergence:.2%}")
        mark = " *" if progress.best == len(progress.history) - 1 else ""
        say(f"fine-tune: update {line.update}/{total} (epoch {line.epoch:.1f}): {', '.join(parts)}{mark}")

    def saved(path: Path, progress: Progress) -> None:
        done = progress.history[-1].update if progress.history else 0
        say(f"fine-tune: stopped; {path} holds update {done}, and the same command with --resume goes on from it")

    return Report(on_update, on_evaluation, progress_bar("read speech"), saved, progress_bar("teacher transcribes"))


_line: list[str] = []  # of progress, where one is on the screen


def _show(text: str) -> None:
    """A line of progress, in the place of the one before."""
    _wipe()
    _line.append(text)
    sys.stderr.write(text)
    sys.stderr.flush()


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
