"""`asrcompress quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

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

if TYPE_CHECKING:
    from asrcompress.ops.plan_file import PlanFile


@with_finetune
def quantize(
    model: ModelArgument = None,
    output: Output = None,
    bits: Annotated[
        Optional[int], typer.Option(help="Bits per weight: 8, 4, 3, 2 or 1. [default: 8]", show_default=False)
    ] = None,
    granularity: Annotated[
        Optional[str],
        typer.Option(
            help="Weights that share a scale: per_channel, per_group:SIZE or per_tensor. [default: per_channel]",
            show_default=False,
        ),
    ] = None,
    level: Annotated[
        Optional[str],
        typer.Option(
            help="stored: packed weights, products in float. computed: products on integers. integer-only: no float between "
            "features and logits; needs --calibrate. [default: stored]",
            show_default=False,
        ),
    ] = None,
    activations: Annotated[
        Optional[str],
        typer.Option(help="none or int8: short for --level stored or computed.", show_default=False),
    ] = None,
    method: Annotated[
        Optional[str],
        typer.Option(
            help="How codes are found: rtn (round to nearest), mse (clipped), gptq, asymmetric, gptq_asymmetric, gptq_ls (scales by least "
            "squares), binary (1 bit), auto (the best of the others but gptq_ls, weight by weight). gptq, gptq_asymmetric, gptq_ls and auto need "
            "--calibrate. [default: rtn]",
            show_default=False,
        ),
    ] = None,
    pattern: Annotated[
        Optional[str],
        typer.Option(
            help="N:M sparsity: N weights kept of every M along the input dimension, such as 2:4, 1:4 or 4:8; M up to 16. Pruned first, "
            "then quantized. none undoes a recipe's, and the zeros of a sparse MODEL, which stay otherwise.",
            show_default=False,
        ),
    ] = None,
    sparsity: Annotated[
        Optional[float],
        typer.Option(
            help="Instead of --pattern: the fraction of zeros in every weight matrix, wherever they fall, such as 0.5.",
            show_default=False,
        ),
    ] = None,
    sparsifier: Annotated[
        Optional[str],
        typer.Option(
            help="How kept weights are chosen: magnitude, wanda or sparsegpt; the last two need --calibrate. [default: magnitude]",
            show_default=False,
        ),
    ] = None,
    calibrate: CalibrateData = None,
    calibration_method: Annotated[
        Optional[str],
        typer.Option(
            help="How ranges of activations are chosen: minmax, percentile, mse or kl. [default: minmax]",
            show_default=False,
        ),
    ] = None,
    calibration_limit: CalibrationLimit = None,
    calibration_split: CalibrationSplit = None,
    audio_root: AudioRoot = None,
    intermediate_bits: Annotated[
        Optional[int],
        typer.Option(
            help="Bits of activations between products, at level integer-only. [default: 16]", show_default=False
        ),
    ] = None,
    bias_correction: Annotated[
        bool,
        typer.Option("--bias-correction", help="Let biases take up the mean error of rounding; needs --calibrate."),
    ] = False,
    include: Annotated[
        Optional[list[str]],
        typer.Option(help="Glob over weight names to pack; may be repeated. [default: *]", show_default=False),
    ] = None,
    exclude: Annotated[
        Optional[list[str]],
        typer.Option(help="Glob over weight names to leave in float; may be repeated.", show_default=False),
    ] = None,
    entropy_coding: EntropyCoding = None,
    compact: Compact = None,
    config: Recipe = None,
    plan: Annotated[
        Optional[Path],
        typer.Option(
            "--plan",
            help="Plan (.toml) that sensitivity made for this model: a recipe, carried out only if the file stays within the plan's budget.",
        ),
    ] = None,
    data_dir: DataDir = None,
    trust_checkpoint: Trust = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be packed; write nothing.")] = False,
    force: Force = False,
    as_json: Json = False,
    finetune: Any = None,
) -> None:
    """Pack a model's weights as low-bit integers into one .safetensors file, with a JSON sidecar beside it.

    \b
    Example:
      asrcompress quantize samples/asr/checkpoint_best.pt --bits 4 --activations int8 -o small.safetensors
    """
    path = path_from_stdin("model") if model in (None, "-") else model
    if config and plan:
        raise AsrCompressError(f"--plan {plan}: is a recipe of its own; leave out --config {config}")
    plan_file = _read_plan(plan)
    options = _options(
        plan or config,
        bits=bits,
        granularity=granularity,
        level=level,
        activations=activations,
        method=method,
        pattern=pattern,
        sparsity=sparsity,
        sparsifier=sparsifier,
        calibration_method=calibration_method,
        calibration_limit=calibration_limit,
        intermediate_bits=intermediate_bits,
        bias_correction=bias_correction or None,
        include=include,
        exclude=exclude,
        entropy_coding=entropy_coding,
        compact=compact,
    )
    from asrcompress.cli.trust import warn_of_trust
    from asrcompress.ops.quantize import Calibrate
    from asrcompress.ops.quantize import plan as plan_quantize
    from asrcompress.ops.quantize import quantize as run
    from asrcompress.ops.recipe import QuantizeConfig

    quantize_config = QuantizeConfig(**options)
    if trust_checkpoint:
        warn_of_trust(path)
    if dry_run:
        chosen, left = plan_quantize(path, quantize_config, plan=plan_file, data_dir=data_dir, trust=trust_checkpoint)
        emit("\n".join([f"pack {name}" for name in chosen] + [f"keep {name}" for name in left]))
        return
    if output is None:
        raise AsrCompressError("-o is missing: name the .safetensors file to write")
    with connect_if(finetune) as ranks:
        result = run(
            path,
            output,
            quantize_config,
            calibrate=Calibrate(calibrate, calibration_split, audio_root) if calibrate else None,
            plan=plan_file,
            data_dir=data_dir,
            trust=trust_checkpoint,
            force=force,
            progress=progress_bar("quantize"),
            finetune=finetune,
            ranks=ranks,
        )
    if ranks.rank:
        return
    more = []
    if picked := result.record["recipe"].get("picked"):
        more.append(f"auto picked: {', '.join(f'{method} for {count}' for method, count in picked.items())} weights")
    if plan_file:
        more += _plan_lines(plan_file, result.record["metrics"]["size_bytes"])
    tell_written(result, more, way_out="quantize the float checkpoint instead", as_json=as_json)


def _options(config: Path | None, **given: Any) -> dict[str, Any]:
    """The recipe's options under those of the command line, in QuantizeConfig's words."""
    from asrcompress.ops.recipe import override, read_recipe, to_config

    options = read_recipe(config) if config else {}
    return override(options, to_config({name: value for name, value in given.items() if value not in (None, [])}))


def _read_plan(path: Path | None) -> PlanFile | None:
    if path is None:
        return None
    from asrcompress.ops.plan_file import read_plan

    return read_plan(path)


def _plan_lines(plan: PlanFile, size_bytes: int) -> list[str]:
    facts = plan.facts
    difference = size_bytes / facts.size_bytes - 1
    lines = [
        f"plan {plan.path}: {facts.size_bytes} bytes predicted, {size_bytes} written ({difference:+.2%}), budget {facts.budget_bytes}"
    ]
    if plan.misses_prediction(size_bytes):
        lines.append(
            "note: that is more than 0.5 % off; the options or calibration data are not those that the plan was made with"
        )
    return lines
