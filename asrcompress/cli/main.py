"""The `asrcompress` command: subcommands, exit codes, one-line errors. Loads nothing heavy."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from asrcompress.cli.output import say
from asrcompress.errors import EXIT_BROKEN_PIPE, EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, EXIT_USER, AsrCompressError

COMPLETION = "_ASRCOMPRESS_COMPLETE"  # set by a shell that asks typer what may come next

if TYPE_CHECKING:
    from typer import Typer

    app: Typer


def __getattr__(name: str) -> Any:
    """`app`, with all its commands, for whoever asks for it; a run needs one of them."""
    if name != "app":
        raise AttributeError(name)
    from asrcompress.cli.commands import build

    return build()


def main() -> None:
    """Entry point. Exit codes: 0 ok, 1 gate failed, 2 the user can fix it, 3 a bug, 130 Ctrl-C, 141 broken pipe."""
    if sys.stderr is None:  # closed by the caller: print would write to stdout instead
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (for as long as we run)
    if sys.stdout is None:
        say("asrcompress: stdout is closed, and results go there; send it somewhere, if only to /dev/null")
        sys.exit(EXIT_USER)
    # Like Ctrl-C, a termination unwinds the stack, so that temporary files are removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # At its end Python looks for cycles among all that torch ever made, which takes a fifth of a second and frees nothing.
    atexit.register(gc.freeze)
    try:
        code = _run()
    except AsrCompressError as error:
        code = EXIT_USER
        with suppress(BrokenPipeError):
            if not error.is_said:
                say(f"asrcompress: {error}")
    except Exception as error:  # noqa: BLE001 (the last resort)
        code = _usage_or_bug(error)
    if code == EXIT_INTERRUPTED and os.environ.get("RANK", "0") == "0":
        with suppress(BrokenPipeError):
            say("asrcompress: interrupted; nothing was left half-written")
    sys.exit(code)


def _run() -> int:
    """Run the command; Ctrl-C gives 130 and a broken pipe 141, whoever meets it."""
    try:
        code = _call()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _drop_stdout()  # files have errors of their own (files.py)
        where = error.filename or "stdout"
        raise AsrCompressError(
            f"{where}: could not be written: {error.strerror}; make room, or write elsewhere"
        ) from error
    except SystemExit as error:
        # On a broken pipe typer exits with 1, and has wrapped stdout.
        if type(sys.stdout).__name__ == "PacifyFlushWrapper":
            _drop_stdout()
            return EXIT_BROKEN_PIPE
        raise error
    return code


def _call() -> int:
    """`report` at once where its arguments are plain; everything else through typer, which takes longer to load than report runs."""
    first, *rest = sys.argv[1:] or [""]
    if first == "report" and COMPLETION not in os.environ:
        from asrcompress.cli.plain_arguments import read_report

        options = read_report(rest)
        if options is not None:
            return _report(options)
    import typer

    from asrcompress.cli.commands import COMMANDS, build

    is_plain = first in (*COMMANDS, "", "--help", "-h", "--version") and COMPLETION not in os.environ
    try:
        return int(build(first if is_plain else None)(standalone_mode=False) or EXIT_OK)
    except typer.Abort:
        return EXIT_INTERRUPTED


def _report(options: dict[str, Any]) -> int:
    from asrcompress.cli.report_command import run_report

    if "SOURCE_DATE_EPOCH" in os.environ:  # a wrong one is an error of every command
        from asrcompress.sidecar import created_at

        created_at()
    return run_report(**options)


def _drop_stdout() -> None:
    """Nobody reads any more: the interpreter's own flush at exit must not fail, too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _usage_or_bug(error: Exception) -> int:
    """Click's usage errors are the user's; anything else is ours, with the traceback that a report needs."""
    if type(error).__name__ == "NoArgsIsHelpError":
        say(error.format_message())  # type: ignore[attr-defined]
        return EXIT_USER
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        say(f"asrcompress: {' '.join(error.format_message().split())}; see --help")
        return EXIT_USER
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("asrcompress"):
        say(f"asrcompress: {error.name} is not installed here, and only report works without it; see docs/install.md")
        return EXIT_USER
    import traceback

    traceback.print_exception(error)
    say(f"asrcompress: bug: {type(error).__name__}: {error}; please report the lines above")
    return EXIT_BUG


if __name__ == "__main__":
    main()
