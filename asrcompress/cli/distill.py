"""`asrcompress distill`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from asrcompress.cli.finetune_options import connect_to_train, with_distillation
from asrcompress.cli.options import AudioRoot, Compact, DataDir, Force, Json, Recipe, Trust
from asrcompress.cli.output import path_from_stdin, say
from asrcompress.cli.written import tell_written
from asrcompress.errors import AsrCompressError

if TYPE_CHECKING:
    from asrcompress.ops.student import Student


@with_distillation
def distill(
    teacher: Annotated[
        Optional[str],
        typer.Argument(
            metavar="TEACHER",
            help="Checkpoint or artifact to learn from; left out or '-': its path is read from stdin.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Optional[list[Path]],
        typer.Option("--output", "-o", help="File to write, once per student.", show_default=False),
    ] = None,
    student: Annotated[
        Optional[list[str]],
        typer.Option(
            help="Family and sizes, such as kws_crnn:channels=2,hidden=12, or a TOML file; sizes left out are the teacher's. May be "
            "repeated: students share what the teacher says.",
            show_default=False,
        ),
    ] = None,
    shrink: Annotated[
        Optional[list[float]],
        typer.Option(
            help="A student with the teacher's layers and widths times this, such as 0.5; may be repeated. Instead of --student.",
            show_default=False,
        ),
    ] = None,
    audio_root: AudioRoot = None,
    compact: Compact = None,
    config: Recipe = None,
    data_dir: DataDir = None,
    trust_checkpoint: Trust = False,
    force: Force = False,
    as_json: Json = False,
    train: Any = None,
) -> None:
    """Train smaller models to say what a teacher says; each becomes a float artifact, with a JSON sidecar beside it.

    What has the teacher's shape starts as the teacher has it, every other layer where there are half as many. quantize
    --finetune --teacher TEACHER then trains a student on the grid that it is stored on.

    \b
    Example:
      asrcompress distill samples/kws/crnn_computer.pt --student kws_crnn:channels=2,hidden=12 --epochs 5 \\
        --data samples/kws/manifest.tsv --split dev --dev samples/kws/manifest.tsv --dev-split test --keyword computer -o student.safetensors
    """
    path = path_from_stdin("teacher") if teacher in (None, "-") else str(teacher)
    from asrcompress.cli.trust import warn_of_trust
    from asrcompress.ops.distill import Request
    from asrcompress.ops.distill import distill as run

    if train is None:
        raise AsrCompressError("--data is missing: name the speech to train on")
    wanted: list[tuple[str | None, float | None]] = [(text, None) for text in student or ()]
    wanted += [(None, factor) for factor in shrink or ()]
    if not wanted:
        raise AsrCompressError(
            "--student is missing: say how large it is, such as kws_crnn:channels=2,hidden=12, or --shrink 0.5"
        )
    if len(output or ()) != len(wanted):
        raise AsrCompressError(
            f"-o is given {len(output or ())} times for {len(wanted)} students; name one .safetensors file each, --student first"
        )
    requests = [Request(out, text, factor) for out, (text, factor) in zip(output or (), wanted, strict=True)]
    if trust_checkpoint:
        warn_of_trust(path)
    with connect_to_train() as ranks:
        written = run(
            path, requests, train, is_compact=bool(compact), data_dir=data_dir, trust=trust_checkpoint, force=force, ranks=ranks,
            on_student=_tell,
        )  # fmt: skip
    if ranks.rank:
        return
    for found in written:
        tell_written(found, (), way_out="ask for a smaller student", as_json=as_json)


def _tell(student: Student, output: Path) -> None:
    """What is trained, before it is."""
    record = student.record
    share = record["num_copied_params"] / record["num_params"]
    say(
        f"{output}: {record['num_params']:,} parameters, {record['num_params'] / record['num_teacher_params']:.2%} of the teacher's; "
        f"{share:.1%} of them start as the teacher's"
    )
