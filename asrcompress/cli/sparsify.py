"""`asrcompress sparsify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from asrcompress.cli.finetune_options import connect_if, with_finetune
from asrcompress.cli.options import DataDir, EntropyCoding, Force, Json, ModelArgument, Output, Trust
from asrcompress.cli.output import emit, emit_json, format_bytes, path_from_stdin, progress_bar, say
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
    calibrate: Annotated[
        Optional[Path],
        typer.Option(
            help="Speech to calibrate with: what eval takes as data, but not the test set.", show_default=False
        ),
    ] = None,
    calibration_limit: Annotated[
        Optional[int], typer.Option(help="Utterances to calibrate with. [default: 64]", show_default=False)
    ] = None,
    calibration_split: Annotated[
        Optional[str], typer.Option(help="Of a keyword set. [default: train, else val]", show_default=False)
    ] = None,
    audio_root: Annotated[
        Optional[Path],
        typer.Option(help="Where the calibration table's relative audio paths start [default: its folder]."),
    ] = None,
    include: Annotated[
        Optional[list[str]],
        typer.Option(help="Glob over weight names to prune; may be repeated. [default: *]", show_default=False),
    ] = None,
    exclude: Annotated[
        Optional[list[str]],
        typer.Option(help="Glob over weight names to leave as they are; may be repeated.", show_default=False),
    ] = None,
    entropy_coding: EntropyCoding = None,
    config: Annotated[
        Optional[Path], typer.Option("--config", help="Recipe (.toml) with these options; the command line goes first.")
    ] = None,
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
        "exclude": exclude, "entropy_coding": entropy_coding,
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
    _say(result.path, result.record)
    if result.removed:
        say(f"removed what described the file before: {', '.join(path.name for path in result.removed)}")
    if as_json:
        emit_json(result.record)
    else:
        emit(str(result.path))


def _say(path: Path, record: dict[str, Any]) -> None:
    metrics, parent = record["metrics"], record["parent"]
    dropped = parent["optimizer_size_bytes"]
    say(
        f"{path}: {format_bytes(metrics['size_bytes'])}, {metrics['model_size_ratio']:.2%} of the model's "
        f"{format_bytes(parent['model_size_bytes'])} and {metrics['size_ratio']:.2%} of the file {parent['file']}"
        + (f" ({format_bytes(dropped)} of optimizer state dropped)" if dropped else "")
    )
    if uncoded := metrics.get("size_bytes_without_entropy_coding"):
        saved = 1 - metrics["size_bytes"] / uncoded
        say(f"entropy coding: {format_bytes(uncoded)} without it, {saved:.2%} saved")
    if warning := record["honesty"].get("warning"):
        say(f"WARNING: {warning}")
    if metrics["model_size_ratio"] >= 1:
        say(f"note: {path} is not smaller than what it was made from; drop more, or keep fewer bits with quantize")
