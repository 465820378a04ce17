"""The subcommands as a typer application. A command's module is imported when it is the one that runs.

Typer lists the others by the first paragraph of their help, which therefore stands here, too.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer

import asrcompress
from asrcompress.cli.output import emit

# name: (module and its function, first paragraph of the docstring), in the order of --help
COMMANDS = {
    "analyze": (
        "analyze",
        "List every module with its parameters, stored bytes and MACs, and audit what the file claims. Writes MODEL.analyze.json.",
    ),
    "quantize": (
        "quantize",
        "Pack a model's weights as low-bit integers into one .safetensors file, with a JSON sidecar beside it.",
    ),
    "sparsify": (
        "sparsify",
        "Drop weights of a model, store only the kept ones in one .safetensors file, with a JSON sidecar beside it.",
    ),
    "distill": (
        "distill",
        "Train smaller models to say what a teacher says; each becomes a float artifact, with a JSON sidecar beside it.",
    ),
    "eval": (
        "evaluate",
        "Measure a model on a test set: WER and CER with an interval, or AU FA-FR. Writes MODEL.eval.json.",
    ),
    "sensitivity": (
        "sensitivity",
        "Say what each part of a model loses at fewer bits and with N:M patterns, and plan a file by it.",
    ),
    "report": (
        "report",
        "Compare models by their sidecars, and gate them; or show one sensitivity table. Needs no torch.",
    ),
    "export": (
        "export",
        "Write a model as files that another program runs: a folder (-o names it), and a JSON sidecar beside it.",
    ),
}


def build(only: str | None = None) -> typer.Typer:
    """The application: with all commands, or with `only` that one whole and the others by name and first paragraph."""
    app = typer.Typer(
        name="asrcompress",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    app.callback()(_main)
    for name, (module, summary) in COMMANDS.items():
        if only in (None, name):
            function = getattr(import_module(f"asrcompress.cli.{module}"), module)
            app.command(name)(function if name == "report" else _with_torch(function, f"asrcompress.ops.{module}"))
        else:
            app.command(name, help=summary)(_unloaded(name))
    return app


def _with_torch(function: Callable[..., None], module: str) -> Callable[..., None]:
    """Import the operation before the command does, without the garbage collector: of what an import makes, nothing is garbage."""

    @functools.wraps(function)
    def command(**options: Any) -> None:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            import_module(module)
        finally:
            if was_enabled:
                gc.enable()
        function(**options)

    return command


def _unloaded(name: str) -> Callable[[], None]:
    def command() -> None:
        raise RuntimeError(f"{name} was called, and another command was loaded")

    return command


def _version(value: bool) -> None:
    if value:
        emit(f"asrcompress {asrcompress.__version__}")
        raise typer.Exit


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
