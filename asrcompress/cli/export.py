"""`asrcompress export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from asrcompress.cli.options import DataDir, Force, Json, ModelArgument, Trust
from asrcompress.cli.output import emit, emit_json, format_bytes, path_from_stdin, say
from asrcompress.errors import AsrCompressError


def export(
    model: ModelArgument = None,
    to: Annotated[
        Optional[str],
        typer.Option(
            "--to",
            help="onnx: graphs for ONNX Runtime; fairseq: a checkpoint that Fairseq loads, dequantized; c: one C file without "
            "floating point, for keyword models at level integer-only.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Optional[Path],
        typer.Option(
            "--output", "-o", help="Folder to write. [default: beside MODEL, named after it]", show_default=False
        ),
    ] = None,
    data_dir: DataDir = None,
    trust_checkpoint: Trust = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a model as files that another program runs: a folder (-o names it), and a JSON sidecar beside it.

    Printed is what that program is given: the one file that matters, or the folder. --force replaces a folder only where
    all that lies in it was written by an export.

    \b
    Example:
      asrcompress export student.safetensors --to onnx -o student-onnx
    """
    if to is None:
        raise AsrCompressError("--to is missing: say onnx, fairseq or c")
    path = path_from_stdin("model") if model in (None, "-") else str(model)

    from asrcompress.cli.trust import warn_of_trust
    from asrcompress.ops.export import export as run

    if trust_checkpoint:
        warn_of_trust(path)
    written = run(path, to, output=output, data_dir=data_dir, trust=trust_checkpoint, force=force)
    files = written.record["export"]["files"]
    size = written.record["model"]["size_bytes"]
    for file in files:
        say(f"{written.folder / file['file']}: {format_bytes(file['size_bytes'])}, {file['role']}")
    total = sum(file["size_bytes"] for file in files)
    say(f"{format_bytes(total)} in all, {total / size:.2f} times {path} ({format_bytes(size)})")
    for line in written.notes:
        say(line)
    if as_json:
        emit_json(written.record)
    else:
        emit(str(written.main))
