"""The options of fine-tuning, for every command that has `--finetune`.

`with_finetune` adds them to a command, which gets what was asked for as one argument, `finetune`: a `FinetuneJob`, or None.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, get_args

import typer

from asrcompress.cli.output import finetune_progress
from asrcompress.errors import AsrCompressError

if TYPE_CHECKING:
    from asrcompress.ops.finetune_job import FinetuneJob
    from asrcompress.ops.ranks import Ranks

PANEL = "Training"
# Options that mean something to packed or pruned weights only, and the teacher, which distill has as its model.
OF_COMPRESSED = ("mask_schedule", "mask_interval", "mask_until", "sr_ste", "scales", "teacher")
RENAMED = {"finetune": "data", "finetune_split": "split", "finetune_limit": "limit"}  # as distill calls them
NAMED = {new: old for old, new in RENAMED.items()}
DISTILLED = {  # where distill's help differs
    "data": "Speech to train on: what eval takes as data. Under torchrun, all ranks train together.",
    "epochs": "Passes over the training set. [default: 150 for keywords, 20 for ASR]",
    "batch_size": "Utterances of an update, over all ranks. [default: 64 for keywords, 32 for ASR]",
    "learning_rate": "The largest; a cosine brings it down. [default: 5e-3 for keywords, 5e-4 for ASR]",
    "distillation": "Weight of the teacher's output against the references, 0 to 1. [default: 0.9 for keywords, 0.7 for ASR]",
    "temperature": "Of the teacher's output. [default: 10 for keywords, 1 for ASR]",
    "augment": "What is done to the training audio, or none. [default: shift,gain,noise,babble,specaugment,variants for keywords]",
    "select": "Weights that are kept: of the best metric or loss on --dev, or the last. [default: loss for keywords, metric for ASR]",
    "evaluations": "Of --dev, per epoch. [default: 0.2 for keywords, 1 for ASR]",
}


def _option(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=PANEL, show_default=False)


def _options(
    finetune: Annotated[
        Optional[Path],
        _option(
            "Train the compressed model on this speech (what eval takes as data), on the grids and masks that are stored. Starts at the "
            "one-shot result; needs --dev. Under torchrun, all ranks train together."
        ),
    ] = None,
    dev: Annotated[
        Optional[Path],
        _option("Speech that decides which weights are best. [default: the val split, of a keyword set]"),
    ] = None,
    finetune_split: Annotated[Optional[str], _option("Of a keyword set. [default: train]")] = None,
    keyword: Annotated[Optional[str], _option("The word that is to be heard, of a set of many words.")] = None,
    dev_split: Annotated[Optional[str], _option("Of a keyword set. [default: val]")] = None,
    finetune_limit: Annotated[
        Optional[int], _option("Utterances to train on, spread evenly over the set. [default: all]")
    ] = None,
    epochs: Annotated[Optional[float], _option("Passes over the training set. [default: 6]")] = None,
    batch_size: Annotated[Optional[int], _option("Utterances of an update, over all ranks. [default: 32]")] = None,
    learning_rate: Annotated[Optional[float], _option("The largest; a cosine brings it down. [default: 1e-4]")] = None,
    warmup: Annotated[Optional[float], _option("Share of the updates. [default: 0.05]")] = None,
    clip_norm: Annotated[Optional[float], _option("Largest norm of the gradient. [default: 1]")] = None,
    distillation: Annotated[
        Optional[float],
        _option("Weight of the teacher's output against the references, 0 to 1. [default: 0.7]"),
    ] = None,
    temperature: Annotated[Optional[float], _option("Of the teacher's output. [default: 1]")] = None,
    teacher: Annotated[
        Optional[Path], _option("Model whose output is learned, too. [default: MODEL, as it was read]")
    ] = None,
    attention_loss: Annotated[
        Optional[float], _option("Weight of the distance from the teacher's attention maps. [default: 0]")
    ] = None,
    hidden_loss: Annotated[
        Optional[float], _option("Weight of the distance from the teacher's layer outputs. [default: 0]")
    ] = None,
    sequence_level: Annotated[
        bool, _option("Learn the teacher's own transcripts instead of the references (ASR).", "--sequence-level")
    ] = False,
    augment: Annotated[
        Optional[str],
        _option(
            "What is done to the training audio, such as shift=100,gain=8,noise=5,babble=5,specaugment=6x12. [default: none]"
        ),
    ] = None,
    positive_share: Annotated[
        Optional[float], _option("Share of clips with the keyword among those drawn. [default: as they come]")
    ] = None,
    mask_schedule: Annotated[
        Optional[str],
        _option("When N:M masks are chosen: one-shot, few-shot or every-step. [default: one-shot]"),
    ] = None,
    mask_interval: Annotated[
        Optional[int], _option("Updates from mask to mask, few-shot, and from scale to scale, mse. [default: 50]")
    ] = None,
    mask_until: Annotated[
        Optional[float], _option("Share of the training after which masks stay. [default: 0.7]")
    ] = None,
    sr_ste: Annotated[
        Optional[float],
        _option("How strongly dropped weights are pulled to 0 where masks change (SR-STE). [default: 2e-4]"),
    ] = None,
    scales: Annotated[
        Optional[str],
        _option(
            "learned; mse: found anew by squared error every --mask-interval updates; fixed: as --method chose them. [default: learned]"
        ),
    ] = None,
    evaluations: Annotated[
        Optional[float], _option("Of --dev, per epoch; below 1, one every few. [default: 1]")
    ] = None,
    patience: Annotated[
        Optional[int], _option("Evaluations without a better one that end the training; 0: none do. [default: 0]")
    ] = None,
    select: Annotated[
        Optional[str],
        _option(
            "Weights that are kept: of the best metric or loss on --dev, or the last. Of few clips, loss jumps less. [default: metric]"
        ),
    ] = None,
    precision: Annotated[
        Optional[str], _option("auto, float32 or bfloat16; auto is bfloat16 on CUDA. [default: auto]")
    ] = None,
    parallel: Annotated[
        Optional[str],
        _option("Under torchrun: data (each rank has the model) or sharded (each has a part, FSDP). [default: data]"),
    ] = None,
    device: Annotated[Optional[str], _option("cpu or cuda. [default: cpu]")] = None,
    seed: Annotated[Optional[int], _option("Of the order of utterances. [default: 1]")] = None,
    resume: Annotated[
        bool, _option("Go on with a training that was stopped, from its last evaluation.", "--resume")
    ] = False,
) -> None:
    """Nothing but a signature."""


def with_finetune(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, which takes `finetune`, with the options of fine-tuning; `config` and `force` are read beside them."""
    return _with_options(command, inspect.signature(_options, eval_str=True).parameters.values(), "finetune", _job)


def with_distillation(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, which takes `train`, with the options of training a float student: a function from a task to the job; None
    without --data."""
    found = []
    for parameter in inspect.signature(_options, eval_str=True).parameters.values():
        if parameter.name not in OF_COMPRESSED:
            kind, option = get_args(parameter.annotation)
            name = RENAMED.get(parameter.name, parameter.name)
            help = DISTILLED.get(name) or option.help.replace("--finetune", "--data")
            found.append(parameter.replace(name=name, annotation=Annotated[kind, _option(help, *option.param_decls)]))
    return _with_options(command, found, "train", _distill_job)


def _with_options(
    command: Callable[..., None], added: Iterable[inspect.Parameter], name: str, make: Callable[..., Any]
) -> Callable[..., None]:
    """`command` with more options, which it gets as one argument, `name`: what `make` makes of them."""
    own = inspect.signature(command, eval_str=True)
    added = list(added)
    kept = [parameter for parameter in own.parameters.values() if parameter.name != name]

    @wraps(command)
    def run(**given: Any) -> None:
        options = {parameter.name: given.pop(parameter.name) for parameter in added}
        job = make(given.get("config"), given.get("audio_root"), bool(given.get("force")), options)
        command(**given, **{name: job})

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*kept, *added)]
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # typer would look at the command's own signature
    return run


def _job(config: Path | None, audio_root: Path | None, force: bool, options: dict[str, Any]) -> FinetuneJob | None:
    given = _said(options)
    if "finetune" not in given:
        if given:
            name = next(iter(given)).replace("_", "-")
            raise AsrCompressError(f"--{name}: is for fine-tuning; add --finetune TRAIN, or leave it out")
        return None
    from asrcompress.ops.recipe import read_finetune_table

    return _make(given, audio_root, force, read_finetune_table(config) if config else {})


def _distill_job(
    config: Path | None, audio_root: Path | None, force: bool, options: dict[str, Any]
) -> Callable[[str], FinetuneJob] | None:
    given = {name: value for new, value in _said(options).items() for name in [NAMED.get(new, new)]}
    if "finetune" not in given:
        return None
    from asrcompress.ops.distill import DEFAULTS
    from asrcompress.ops.recipe import read_finetune_table, read_toml

    table = read_finetune_table(config) if config else {}
    for name in read_toml(config) if config else ():
        if name != "finetune":
            raise AsrCompressError(
                f"{config}: '{name}' is not an option of distill; it reads the table [finetune] alone"
            )
    for name in table:
        if name in OF_COMPRESSED:
            raise AsrCompressError(
                f"{config}: [finetune]: '{name}' is about compressed weights, and a student is float"
            )
    return lambda task: _make(dict(given), audio_root, force, DEFAULTS[task] | table, option="--data")


def _said(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None and value is not False}


def _make(
    given: dict[str, Any], audio_root: Path | None, force: bool, table: dict[str, Any], option: str = "--finetune"
) -> FinetuneJob:
    from asrcompress.ops.finetune_config import FinetuneConfig
    from asrcompress.ops.finetune_job import FinetuneJob

    train = given.pop("finetune")
    paths = {name: given.pop(name, None) for name in ("dev", "finetune_split", "keyword", "dev_split", "teacher")}
    device, resume = given.pop("device", "cpu"), given.pop("resume", False)
    if "finetune_limit" in given:
        given["limit"] = given.pop("finetune_limit")
        if given["limit"] < 1:
            name = "--limit" if option == "--data" else "--finetune-limit"
            raise AsrCompressError(f"{name} {given['limit']}: use 1 or more, or leave it out")
    return FinetuneJob(
        train=train,
        config=FinetuneConfig(**table | given),
        audio_root=audio_root,
        device=device,
        resume=resume,
        force=force,
        report=finetune_progress(),
        option=option,
        **paths,
    )


@contextmanager
def connect_if(finetune: FinetuneJob | None) -> Iterator[Ranks]:
    """The ranks that train together; one, where nothing is trained.

    Raises:
        AsrCompressError: torchrun started several, and there is nothing for them to share.
    """
    from asrcompress.ops.ranks import Ranks

    if finetune is not None:
        with connect_to_train() as ranks:
            yield ranks
        return
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise AsrCompressError("torchrun: without --finetune there is no work to share; run it as one process")
    yield Ranks()


@contextmanager
def connect_to_train() -> Iterator[Ranks]:
    """The ranks that train together."""
    from asrcompress.ops.ranks import connect

    with connect(go_on="the same command with --resume goes on from the last evaluation") as ranks:
        yield ranks
