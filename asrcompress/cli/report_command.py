"""What `report` does with its arguments: read, gate, show, write. Loads no typer, which takes longer than the work.

Building the rows and the formats is report/'s work, judging is gate.py's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from asrcompress.cli.output import emit, say
from asrcompress.errors import EXIT_GATE_FAILED, EXIT_OK, AsrCompressError

if TYPE_CHECKING:
    from asrcompress.report.rows import Report
    from asrcompress.sidecar import Sidecar


def run_report(
    *,
    sidecars: list[Path] | None = None,
    baseline: list[Path] | None = None,
    require: list[str] | None = None,
    text_format: str = "table",
    html: Path | None = None,
    junit: Path | None = None,
    markdown: Path | None = None,
    csv: Path | None = None,
    json: Path | None = None,
    svg: Path | None = None,
    plots: Path | None = None,
    history_csv: Path | None = None,
    plan: Path | None = None,
    force: bool = False,
) -> int:
    """The options of `asrcompress report`, by name; returns the exit code.

    Raises:
        AsrCompressError: an input is wrong, or a gate cannot be judged.
    """
    from asrcompress import gate
    from asrcompress import report as formats
    from asrcompress.files import check_outputs
    from asrcompress.report.rows import build_report
    from asrcompress.sidecar import read

    requirements = [gate.parse(text) for text in require or []]
    paths = _paths(sidecars or [])
    outputs = {"html": html, "junit": junit, "markdown": markdown, "csv": csv, "json": json, "svg": svg,
               "history_csv": history_csv}  # fmt: skip
    chosen = {name: path for name, path in outputs.items() if path is not None}
    inputs = [*paths, *(baseline or []), *([plan] if plan else [])]
    check_outputs(chosen.values(), inputs, force=force)
    given = [read(path) for path in paths]
    tables = [sidecar for sidecar in given if sidecar.kind == "sensitivity"]
    if tables and len(given) == 1:
        unfit = {
            "--baseline": baseline,
            "--require": require,
            "--junit": junit,
            "--plots": plots,
            "--history-csv": history_csv,
        }
        _show_sensitivity(tables[0], chosen, text_format, plan, [name for name, value in unfit.items() if value], force)
        return EXIT_OK
    if (svg or plan) and not tables:
        option = "--svg" if svg else "--plan"
        raise AsrCompressError(
            f"{option}: is for the heat map of a sensitivity table; give one alone, or leave {option} out"
        )
    built = build_report(given, [read(path) for path in baseline or []], requirements)

    if history_csv and not any(row.training for row in built.rows):
        raise AsrCompressError(
            f"--history-csv {history_csv}: no sidecar tells of a training; give those beside the trained files (x.safetensors.json)"
        )
    texts = {path: formats.render(name, built) for name, path in chosen.items()}
    if plots is not None:
        texts |= _plots(built, plots, [*inputs, *chosen.values()], force)
    shown = _table(built) if text_format == "table" else formats.render(text_format, built)
    _write(texts, force)
    _print(shown)
    if text_format != "table":
        for note in built.notes:
            say(f"note: {note}")
    errors = [result for result in built.results if result.status == "error"]
    failed = [result for result in built.results if result.status == "failed"]
    for result in failed:
        say(f"gate failed: {result.label}: {result.requirement}: {result.message}")
    if errors:
        more = f" (and {len(errors) - 1} more gates that could not be judged)" if len(errors) > 1 else ""
        raise AsrCompressError(f"--require '{errors[0].requirement}': {errors[0].message}{more}")
    if failed:
        return EXIT_GATE_FAILED
    return EXIT_OK


def _show_sensitivity(
    sidecar: Sidecar, outputs: dict[str, Path], text_format: str, plan: Path | None, unfit: list[str], force: bool
) -> None:
    """A sensitivity table on stdout and in the files that are asked for."""
    from asrcompress.report import render_sensitivity
    from asrcompress.report.sensitivity_rows import read_sensitivity

    if unfit:
        raise AsrCompressError(
            f"{sidecar.path}: is a sensitivity table, which has nothing to gate or compare; leave out {' and '.join(unfit)}"
        )
    found = read_sensitivity(sidecar.record, sidecar.path)
    chosen = None
    if plan is not None:
        from asrcompress.report.plan_choice import read_choice

        chosen = read_choice(plan, found)
    texts = {path: render_sensitivity(name, found, chosen) for name, path in outputs.items()}
    if text_format == "table":
        from asrcompress.report.sensitivity_table import render

        width = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else None
        shown = render(found, chosen, width=width)
    else:
        shown = render_sensitivity(text_format, found, chosen)
    _write(texts, force)
    _print(shown)


def _paths(given: list[Path]) -> list[Path]:
    """The arguments, with the lines of stdin in the place of "-", or alone where there are no arguments."""
    if not given and sys.stdin.isatty():
        raise AsrCompressError("no sidecars; give them as arguments, or their paths on stdin, one a line")
    paths: list[Path] = []
    for path in given or [Path("-")]:
        if str(path) != "-":
            paths.append(path)
        else:
            paths.extend(_stdin_paths())
    if not paths:
        raise AsrCompressError("stdin named no sidecars; the command before the pipe may have failed")
    return paths


def _stdin_paths() -> list[Path]:
    try:
        lines = sys.stdin.read().splitlines()
    except UnicodeDecodeError:
        raise AsrCompressError(
            "stdin is not text; pipe the paths of sidecars, one a line, not a file's bytes"
        ) from None
    return [Path(line.strip()) for line in lines if line.strip()]


def _plots(built: Report, folder: Path, taken: list[Path], force: bool) -> dict[Path, str]:
    """What goes into which file of a folder, which is made where there is none. `taken`: no picture may be one of these."""
    from asrcompress.files import check_outputs
    from asrcompress.report.gallery import svg_files

    files = {folder / name: text for name, text in svg_files(built).items()}
    if not files:
        raise AsrCompressError(
            "--plots: nothing to draw; give sidecars of eval, or of files that were trained, or leave --plots out"
        )
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise AsrCompressError(
            f"{folder}: cannot be a folder for pictures: {error.strerror or error}; name another for --plots"
        ) from error
    check_outputs(files, taken, force=force)
    return files


def _write(texts: dict[Path, str], force: bool) -> None:
    from asrcompress.files import atomic_write

    for path, text in texts.items():
        with atomic_write(path, force=force) as handle:
            handle.write(text.encode())


def _table(built: Report) -> str:
    """The table as the terminal can show it. A pipe gets one line per model and no colour, whatever FORCE_COLOR says."""
    from asrcompress.report.table import render

    if not sys.stdout.isatty():
        return render(built)
    color = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return render(built, width=os.get_terminal_size(sys.stdout.fileno()).columns, color=color)


def _print(text: str) -> None:
    """To stdout; a character that its encoding lacks is written as an escape and stops nothing."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    emit(text.encode(encoding, "backslashreplace").decode(encoding))
