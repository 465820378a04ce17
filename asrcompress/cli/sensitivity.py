"""`asrcompress sensitivity`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from asrcompress.cli.options import DataDir, Force, Json, ModelArgument, Threads, Trust
from asrcompress.cli.output import emit, emit_json, format_bytes, path_from_stdin, progress_bar, say
from asrcompress.errors import AsrCompressError

# Options that a table was made with.
FROM_TABLE = (
    "bits", "patterns", "top", "sample", "method", "level", "granularity", "sparsifier", "exclude", "limit", "calibration_limit",
    "weights_only", "batch_size", "seed",
)  # fmt: skip


def sensitivity(
    context: typer.Context,
    model: ModelArgument = None,
    data: Annotated[
        Optional[Path],
        typer.Option(
            "--data", help="Speech with references: what eval takes, but not the test set.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Optional[Path],
        typer.Option(
            "--output",
            "-o",
            help="Table to write (.json); .html and .svg go beside it. [default: MODEL.sensitivity.json]",
            show_default=False,
        ),
    ] = None,
    bits: Annotated[str, typer.Option(help="Bits per weight, and of activations, to look at.")] = "8,4,3,2",
    patterns: Annotated[
        str, typer.Option(help="N:M patterns to look at, with each number of bits; none: dense weights only.")
    ] = "2:4,1:4",
    top: Annotated[
        int,
        typer.Option(help="Units of weights, and of activations, that are measured whole: those that seem to matter."),
    ] = 8,
    sample: Annotated[int, typer.Option(help="Further cells to measure, drawn at random.")] = 24,
    target_size_ratio: Annotated[
        Optional[float],
        typer.Option(
            help="Plan a file of this fraction of the float model's bytes, such as 0.094.", show_default=False
        ),
    ] = None,
    max_relative_wer: Annotated[
        Optional[float],
        typer.Option(
            help="Plan the smallest file whose WER (AU FA-FR for keywords), measured on the data, rises by this fraction at most.",
            show_default=False,
        ),
    ] = None,
    objective: Annotated[
        Optional[str],
        typer.Option(
            help="What a plan makes least: divergence (from the float model's output), or loss (divergence and rise of the loss). "
            "[default: divergence]",
            show_default=False,
        ),
    ] = None,
    from_table: Annotated[
        Optional[Path],
        typer.Option(
            "--from",
            help="Plan from this table, made earlier of the same model and data; -o names the plan.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="How codes are found, as for quantize.")] = "gptq_ls",
    level: Annotated[
        str, typer.Option(help="Of the file that is planned: stored, computed or integer-only, whose grids take bytes.")
    ] = "stored",
    granularity: Annotated[str, typer.Option(help="Weights that share a scale, as for quantize.")] = "per_channel",
    sparsifier: Annotated[str, typer.Option(help="How a pattern's kept weights are chosen.")] = "sparsegpt",
    exclude: Annotated[
        Optional[list[str]],
        typer.Option(
            help="Shell glob over names of weights to leave as they are; may be repeated.", show_default=False
        ),
    ] = None,
    limit: Annotated[
        Optional[int], typer.Option(help="Utterances to use, spread over the data. [default: all]", show_default=False)
    ] = None,
    calibration_limit: Annotated[int, typer.Option(help="Of these, utterances that the method looks at.")] = 64,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Leave out softmax, layer norms and attention products.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Utterances that run together.", min=1)] = 16,
    seed: Annotated[int, typer.Option(help="Of the random sample.")] = 0,
    keyword: Annotated[Optional[str], typer.Option(help="The word to find (keywords).", show_default=False)] = None,
    split: Annotated[
        Optional[str],
        typer.Option(help="Of a keyword set: train or val, so that test stays unseen.", show_default=False),
    ] = None,
    audio_root: Annotated[
        Optional[Path], typer.Option(help="Where a table's relative audio paths start [default: its folder].")
    ] = None,
    data_dir: DataDir = None,
    trust_checkpoint: Trust = False,
    threads: Threads = 1,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Say what each part of a model loses at fewer bits and with N:M patterns, and plan a file by it.

    Gradients estimate every cell, exact trials check those that matter. Trials are kept beside the output until it is written:
    killed, the same command goes on where it was. Under torchrun, ranks share them.

    \b
    Example:
      asrcompress sensitivity samples/kws/crnn_computer.pt --data samples/kws/manifest.tsv --split dev \\
        --keyword computer --target-size-ratio 0.1 -o kws.sensitivity.json
      asrcompress quantize samples/kws/crnn_computer.pt --plan kws.sensitivity.plan.toml \\
        --calibrate samples/kws/manifest.tsv --calibration-split dev -o planned.safetensors
    """
    path = path_from_stdin("model") if model in (None, "-") else model
    if data is None:
        raise AsrCompressError("--data is missing: name speech with references, such as the dev set")
    from asrcompress.cli.trust import warn_of_trust
    from asrcompress.ops.load import set_threads
    from asrcompress.ops.sensitivity import run
    from asrcompress.ops.sensitivity_config import SensitivityConfig
    from asrcompress.ops.sensitivity_files import SensitivityData, journal_files
    from asrcompress.ops.sensitivity_plan import read_target
    from asrcompress.ops.sensitivity_replan import replan

    target = read_target(target_size_ratio, max_relative_wer, objective)
    set_threads(threads)
    if trust_checkpoint:
        warn_of_trust(path)
    speech = SensitivityData(data, split, keyword, audio_root, batch_size)
    rest: dict[str, Any] = {
        "output": output, "data_dir": data_dir, "trust": trust_checkpoint, "force": force, "stage": _bar
    }  # fmt: skip
    if from_table is not None:
        if target is None:
            raise AsrCompressError(
                f"--from {from_table}: plans; say what for with --target-size-ratio or --max-relative-wer"
            )
        _require_not_given(context)
        result = replan(path, speech, from_table, target, **rest)
    else:
        config = SensitivityConfig(
            bits=_numbers(bits),
            patterns=() if patterns == "none" else tuple(part.strip() for part in patterns.split(",")),
            method=method,
            granularity=granularity,
            sparsifier=sparsifier,
            top=top,
            sample=sample,
            seed=seed,
            limit=limit,
            calibration_limit=calibration_limit,
            activations=not weights_only,
            level=level,
            exclude=tuple(exclude or ()),
        )
        try:
            found = run(path, speech, config, target=target, **rest)
        except (KeyboardInterrupt, SystemExit):
            _say_kept(journal_files(path, output))
            raise
        if found is None:  # a rank that only helped
            return
        result = found
        _show(result.record, result.chosen)
    if result.plan_path is not None:
        _say_plan(result.plan_path, result.facts, str(path), data, split)
    if as_json:
        emit_json(result.record)
    else:
        emit(str(result.path))


def _say_kept(journal: list[Path]) -> None:
    if journal and os.environ.get("RANK", "0") == "0":
        say(f"{journal[0]}: keeps what was measured; the same command goes on from there")


def _bar(label: str) -> Any:
    return progress_bar(label) if os.environ.get("RANK", "0") == "0" else lambda done, total: None


def _show(record: dict[str, Any], chosen: dict[str, str | None] | None) -> None:
    from asrcompress.report.sensitivity_rows import read_sensitivity
    from asrcompress.report.sensitivity_table import render

    width = os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else None
    say(render(read_sensitivity(record), chosen, width=width).rstrip("\n"))


def _require_not_given(context: typer.Context) -> None:
    """What the table was made with is in it: another value would be left unheard."""
    for name in FROM_TABLE:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise AsrCompressError(
                f"--{name.replace('_', '-')}: with --from, the table's own counts; leave it out, or make a table anew"
            )


def _say_plan(path: Path, facts: Any, model: str, data: Path, split: str | None) -> None:
    from asrcompress.ops.plan_file import read_plan
    from asrcompress.ops.recipe import QuantizeConfig

    quality, unit = ("wer", "WER") if "relative_wer" in facts.predicted else ("au_fa_fr", "AU FA-FR")
    relative = facts.predicted.get(f"relative_{quality}")
    calibrate = ""
    if QuantizeConfig(**read_plan(path).options).data_needed:
        calibrate = f" --calibrate {data}" + (f" --calibration-split {split}" if split else "")
    say(
        f"{path}: plans {format_bytes(facts.size_bytes)}, {facts.size_bytes / facts.model_size_bytes:.2%} of the model's "
        f"{format_bytes(facts.model_size_bytes)}; on this data loss {facts.predicted['loss_change']:+.4f}"
        + (f", {unit} {relative:+.1%} relative" if relative is not None else "")
        + f"; carry it out: asrcompress quantize {model} --plan {path}{calibrate} -o FILE"
    )


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise AsrCompressError(f"--bits {text}: give numbers such as 8,4,3,2") from error
