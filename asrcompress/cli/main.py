"""The `asrcompress` command: subcommands, exit codes, one-line errors. Loads nothing heavy."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import Annotated

import typer

import asrcompress
from asrcompress.cli.analyze import analyze
from asrcompress.cli.distill import distill
from asrcompress.cli.evaluate import evaluate
from asrcompress.cli.export import export
from asrcompress.cli.output import emit, say
from asrcompress.cli.quantize import quantize
from asrcompress.cli.report import report
from asrcompress.cli.sensitivity import sensitivity
from asrcompress.cli.sparsify import sparsify
from asrcompress.errors import EXIT_BROKEN_PIPE, EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, EXIT_USER, AsrCompressError

app = typer.Typer(
    name="asrcompress",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command()(analyze)
app.command()(quantize)
app.command()(sparsify)
app.command()(distill)
app.command("eval")(evaluate)
app.command()(sensitivity)
app.command()(report)
app.command()(export)


def _version(value: bool) -> None:
    if value:
        emit(f"asrcompress {asrcompress.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compress trained speech-recognition checkpoints. What is on disk is what is measured.

    \b
    Commands chain through files; each prints the path of what it wrote:
      asrcompress quantize model.pt --bits 8 --activations int8 -o model.int8.safetensors |
        asrcompress eval --data test.tsv | asrcompress report --require 'wer<=0.05'

    SOURCE_DATE_EPOCH, where it is set, is the time that sidecars carry: the same run then gives the same bytes.
    """
    from asrcompress.sidecar import created_at

    created_at()  # a wrong SOURCE_DATE_EPOCH is an error before the work and not behind it


def main() -> None:
    """Entry point. Exit codes: 0 ok, 1 gate failed, 2 the user can fix it, 3 a bug, 130 Ctrl-C, 141 broken pipe."""
    # Like Ctrl-C, a termination unwinds the stack, so that temporary files are removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
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
    """Run the command. Typer turns Ctrl-C into 130, as here, but exits 1 on a broken pipe and wraps stdout then."""
    try:
        code = app(standalone_mode=False) or EXIT_OK
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return EXIT_BROKEN_PIPE
    except SystemExit as error:
        if type(sys.stdout).__name__ == "PacifyFlushWrapper":
            _drop_stdout()
            return EXIT_BROKEN_PIPE
        raise error
    return int(code)


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
