"""`asrcompress sparsify`."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from asrcompress.cli.finetune_options import connect_if, with_finetune
from asrcompress.cli.options import (
    AudioRoot,
    CalibrateData,
    CalibrationLimit,
    CalibrationSplit,
    Compact,
    DataDir,
    EntropyCoding,
    Force,
    Json,
    ModelArgument,
    Output,
    Recipe,
    Trust,
)
from asrcompress.cli.output import emit, path_from_stdin, progress_bar
from asrcompress.cli.written import tell_written
from asrcompress.errors import AsrCompressError


@with_finetune
def sparsify(
    model: ModelArgument = None,
    output: Output = None,
    pattern: Annotated[
        Optional[str],
        typer.Option(
            help="N:M: N weights kept of every M neighbours along the input dimension, such as 2:4, 1:4 or 4:8; M up to 16. This or "
            "--sparsity.",
            show_default=False,
        ),
    ] = None,
    sparsity: Annotated[
        Optional[float],
        typer.Option(
            help="Fraction of zeros in every weight matrix, wherever they fall, such as 0.5. This or --pattern.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        Optional[str],
        typer.Option(
            help="How kept weights are chosen: magnitude; wanda (magnitude times the size of the input); sparsegpt (kept weights make up "
            "for dropped ones). The last two need --calibrate. [default: magnitude]",
            show_default=False,
        ),
    ] = None,
    calibrate: CalibrateData = None,
    calibration_limit: CalibrationLimit = None,
    calibration_split: CalibrationSplit = None,
    audio_root: AudioRoot = None,
    include: Annotated[
        Optional[list[str]],
        typer.Option(help="Glob over weight names to prune; may be repeated. [default: *]", show_default=False),
    ] = None,
    exclude: Annotated[
        Optional[list[str]],
        typer.Option(help="Glob over weight names to leave as they are; may be repeated.", show_default=False),
    ] = None,
    entropy_coding: EntropyCoding = None,
    compact: Compact = None,
    config: Recipe = None,
    data_dir: DataDir = None,
    trust_checkpoint: Trust = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be pruned; write nothing.")] = False,
    force: Force = False,
    as_json: Json = False,
    finetune: Any = None,
) -> None:
    """Drop weights of a model, store only the kept ones in one .safetensors file, with a JSON sidecar beside it.

    Floats stay floats, packed codes stay on their grids: before or after quantize, in either order. Embeddings are pruned like
    any weight; one that is tied to the output is one weight, pruned along that one's inputs.

    \b
    Example:
      asrcompress sparsify samples/asr/checkpoint_best.pt --pattern 2:4 -o sparse.safetensors
    """
    path = path_from_stdin("model") if model in (None, "-") else model
    from asrcompress.cli.trust import warn_of_trust
    from asrcompress.ops.quantize import Calibrate
    from asrcompress.ops.sparsify import plan
    from asrcompress.ops.sparsify import sparsify as run
    from asrcompress.ops.sparsify_config import sparsify_config

    given = {
        "pattern": pattern, "sparsity": sparsity, "method": method, "calibration_limit": calibration_limit, "include": include,
        "exclude": exclude, "entropy_coding": entropy_coding, "compact": compact,
    }  # fmt: skip
    options = sparsify_config(config, {name: value for name, value in given.items() if value not in (None, [])})
    if trust_checkpoint:
        warn_of_trust(path)
    if dry_run:
        chosen, left = plan(path, options, data_dir=data_dir, trust=trust_checkpoint)
        emit("\n".join([f"prune {name}" for name in chosen] + [f"keep {name}" for name in left]))
        return
    if output is None:
        raise AsrCompressError("-o is missing: name the .safetensors file to write")
    with connect_if(finetune) as ranks:
        result = run(
            path,
            output,
            options,
            calibrate=Calibrate(calibrate, calibration_split, audio_root) if calibrate else None,
            data_dir=data_dir,
            trust=trust_checkpoint,
            force=force,
            progress=progress_bar("sparsify"),
            finetune=finetune,
            ranks=ranks,
        )
    if ranks.rank:
        return
    tell_written(result, (), way_out="drop more, or keep fewer bits with quantize", as_json=as_json)
