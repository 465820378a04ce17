"""Options that several subcommands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

ModelArgument = Annotated[
    Optional[str],
    typer.Argument(
        metavar="MODEL",
        help="Checkpoint or artifact; left out or '-': its path is read from stdin.",
        show_default=False,
    ),
]
DataDir = Annotated[
    Optional[Path],
    typer.Option(
        "--data-dir",
        help="Folder with a Fairseq checkpoint's config.yaml and dictionary [default: beside the checkpoint].",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust-checkpoint", help="Let a pickled checkpoint run the code it names. Only for files you trust."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
Json = Annotated[bool, typer.Option("--json", help="Print the sidecar as JSON instead of a path.")]
Output = Annotated[Optional[Path], typer.Option("--output", "-o", help="File to write.", show_default=False)]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]
Threads = Annotated[
    int,
    typer.Option("--threads", help="CPU threads; with 1, results repeat to the bit and times can be compared."),
]
EntropyCoding = Annotated[
    Optional[str],
    typer.Option(
        "--entropy-coding",
        help="zstd: code every stored tensor that gets smaller by it, without loss. none undoes a recipe's. [default: none]",
        show_default=False,
    ),
]
Compact = Annotated[
    Optional[bool],
    typer.Option(
        "--compact/--no-compact",
        help="For small models: record and tensors as one coded tensor, without loss and without a header for each. "
        "--no-compact undoes a recipe's.",
        show_default=False,
    ),
]
CalibrateData = Annotated[
    Optional[Path],
    typer.Option(
        "--calibrate",
        help="Speech to calibrate with: what eval takes as data, but not the test set. [default with --finetune: some of that]",
        show_default=False,
    ),
]
CalibrationLimit = Annotated[
    Optional[int],
    typer.Option("--calibration-limit", help="Utterances to calibrate with. [default: 64]", show_default=False),
]
CalibrationSplit = Annotated[
    Optional[str],
    typer.Option("--calibration-split", help="Of a keyword set. [default: train, else val]", show_default=False),
]
AudioRoot = Annotated[
    Optional[Path],
    typer.Option(
        "--audio-root",
        help="Where relative audio paths of calibration and training tables start [default: the table's folder].",
    ),
]
Recipe = Annotated[
    Optional[Path], typer.Option("--config", help="Recipe (.toml) with these options; the command line goes first.")
]
