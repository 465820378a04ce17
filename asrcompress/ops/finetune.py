"""Fine-tuning: an artifact's content -> the same with trained codes, scales and floats.

The model that is trained computes with what the file would hold (training/grid.py), starts at the content as it was made, and
is judged on the development set as it would be read back: built from its content, with the family's own search. So what is
written is what was measured while training, and never worse there than where it began.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.artifact import ArtifactContent, narrow_float
from asrcompress.errors import AsrCompressError
from asrcompress.grids import QuantizedWeight, zero_codes
from asrcompress.ops.finetune_config import FinetuneConfig
from asrcompress.ops.finetune_data import TrainingSet
from asrcompress.ops.finetune_dev import DevelopmentSet
from asrcompress.ops.learner import Learner
from asrcompress.ops.load import Source, build_model
from asrcompress.ops.observe import float_source
from asrcompress.ops.teacher import Teacher
from asrcompress.patterns import UNSTRUCTURED, keep_largest
from asrcompress.training.attach import attach, original_name, plain_name, read_plain, without_gradient
from asrcompress.training.grid import TrainedWeight
from asrcompress.training.masks import Chooser
from asrcompress.training.parallel import Parallel, find_shards, watch_calls, whole
from asrcompress.training.schedule import MaskSchedule
from asrcompress.training.state import TrainingState
from asrcompress.training.trainer import Progress, Trainer, TrainerConfig


@dataclass(frozen=True)
class Speech:
    """What is trained on and judged on."""

    train: TrainingSet
    dev: DevelopmentSet


@dataclass(frozen=True)
class Finetuned:
    """The trained content, and what the sidecar says of how it came about."""

    content: ArtifactContent
    record: dict[str, Any]


def finetune(
    source: Source,
    content: ArtifactContent,
    config: FinetuneConfig,
    speech: Speech,
    *,
    teacher: Source | Teacher | None = None,
    parallel: Parallel | None = None,
    state: TrainingState | None = None,
    sizes: Mapping[str, Tensor] | None = None,
    on_update: Callable[[Progress, int], None] = lambda progress, total: None,
    on_evaluation: Callable[[Progress, int], None] = lambda progress, total: None,
) -> Finetuned:
    """Train what `content` packs, and the floats beside it.

    Args:
        source: that the content was made from; its float weights are trained.
        content: without grids of activations.
        config: options.
        speech: training and development set.
        teacher: whose output is learned, too; `source` itself where None. A `Teacher` remembers, for the next student.
        parallel: this rank.
        state: where the training is saved, and goes on from.
        sizes: root mean square of each weight's inputs, (columns,) or (groups, columns), to choose masks by.
        on_update: called after each update, with the progress and the number of updates.
        on_evaluation: likewise after each evaluation.

    Raises:
        AsrCompressError: the loss is no number, or a saved state is of another training.
    """
    parallel = parallel or Parallel()
    device = str(parallel.device)
    # Of a model that is packed weight by weight they would be made anew at every look.
    content = replace(content, quantized=dict(content.quantized), floats=dict(content.floats))
    floats = float_source(source)
    model = build_model(floats).module
    schedule = MaskSchedule(config.mask_schedule, config.mask_interval, config.mask_until)
    weights = {
        name: _trained(content, name, model.get_parameter(name), config, schedule)
        for name in [*content.quantized, *content.sparse]
    }
    _start(model, content, weights)
    names: dict[str, list[str]] = {name: [name] for name in weights}
    for alias, name in content.tied.items():
        names.setdefault(name, [name]).append(alias)
    names = {name: aliases for name, aliases in names.items() if name in weights}
    attach(model, names, weights)
    _require_finite_start(model, source)
    if not parallel.is_sharded:  # else it need not fit
        model.to(device)
    teacher = teacher if isinstance(teacher, Teacher) else Teacher(teacher or source)
    learner = Learner(source, model, teacher.to(device) if config.wants_teacher else None, speech.train, config)
    first = next(position for position, length in enumerate(speech.train.lengths) if length)
    with watch_calls(model) as called:
        learner([first], 1.0, 0).backward()
    idle = without_gradient(learner)
    learner.zero_grad(set_to_none=True)
    learner.take_parts()  # of an update that is none
    trainer = Trainer(
        learner,
        {name: (weight, f"model.{original_name(name)}") for name, weight in weights.items()},
        _choosers(weights, content, sizes or {}) if schedule.is_dense else {},
        lengths=speech.train.lengths,
        tokens=[len(target) for target in speech.train.targets],
        config=_loop(config, speech.train, device),
        parallel=parallel,
        sampling=speech.train.weights(config.positive_share),
        blocks=find_shards(learner, called),
        take_parts=learner.take_parts,
    )
    total = trainer.config.num_updates

    def current() -> ArtifactContent:
        return _extract(content, trainer, weights)

    def evaluate() -> tuple[float, float]:
        loaded = build_model(
            replace(source, tensors={**current_floats(now := current())}, checkpoint=None, content=now), device=device
        )
        return speech.dev.measure(loaded, parallel)

    def judged(progress: Progress) -> None:
        if state:
            state.save(trainer, parallel)
        on_evaluation(progress, total)

    if state:
        state.load(trainer)
    trainer.run(evaluate, on_update=lambda progress: on_update(progress, total), on_evaluation=judged)
    layers = {"layers": learner.describe()} if learner.imitation else {}
    return Finetuned(current(), _record(config, trainer, speech, idle, teacher.source) | layers)


def current_floats(content: ArtifactContent) -> dict[str, Tensor]:
    """What `open_source` would give as the tensors of a file with this content."""
    return {**content.floats, **{name: weight.dequantize() for name, weight in content.sparse.items()}}


def _trained(
    content: ArtifactContent, name: str, parameter: Tensor, config: FinetuneConfig, schedule: MaskSchedule
) -> TrainedWeight:
    """How a weight of the content is stored, to be trained."""
    if name in content.sparse:
        sparse = content.sparse[name]
        return TrainedWeight(
            mask=sparse.mask,
            is_dense=schedule.is_dense,
            decay=_decay(config, schedule),
            dtype=sparse.values.dtype,
        )
    weight = content.quantized[name]
    return TrainedWeight(
        mask=_mask(weight, parameter),
        scale=weight.scale,
        num_bits=weight.num_bits,
        zero_point=weight.zero_point,
        is_learned=config.scales == "learned",
        is_dense=schedule.is_dense,
        decay=_decay(config, schedule),
    )


@torch.no_grad()
def _mask(weight: QuantizedWeight, parameter: Tensor) -> Tensor | None:
    """Which weights are kept: those whose codes mean something, and of the others the largest, as many as there is room for."""
    if weight.pattern is None:
        return None
    means = weight.codes != zero_codes(weight.zero_point, *weight.codes.shape)
    if weight.pattern == UNSTRUCTURED:
        return means
    size = parameter.detach().reshape(means.shape).abs()
    return keep_largest(torch.where(means, size + 2 * size.max(), size), *weight.pattern)


def _decay(config: FinetuneConfig, schedule: MaskSchedule) -> float:
    return config.sr_ste if schedule.is_dense else 0.0


@torch.no_grad()
def _start(model: nn.Module, content: ArtifactContent, weights: Mapping[str, TrainedWeight]) -> None:
    """Float weights that have the content's codes, and the content's floats."""
    for name, trained in weights.items():
        parameter = model.get_parameter(name)
        if name in content.quantized:
            parameter.copy_(trained.nearest(parameter, content.quantized[name].codes))
        else:
            kept = content.sparse[name]
            parameter.copy_(
                torch.where(kept.mask, kept.values.float(), parameter.reshape(kept.mask.shape)).reshape(kept.shape)
            )
    for name, parameter in model.named_parameters():
        if name in content.floats:
            parameter.copy_(content.floats[name])
        parameter.requires_grad_(True)


def _require_finite_start(model: nn.Module, source: Source) -> None:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise AsrCompressError(f"{source.path}: {name}: holds NaN or infinity; the checkpoint is broken")


def _choosers(
    weights: Mapping[str, TrainedWeight], content: ArtifactContent, sizes: Mapping[str, Tensor]
) -> dict[str, Chooser]:
    found = {}
    for name, weight in weights.items():
        if weight.mask is None:
            continue
        pattern = content.sparse[name].pattern if name in content.sparse else content.quantized[name].pattern
        found[name] = Chooser(pattern if isinstance(pattern, tuple) else None, int(weight.mask.sum()), sizes.get(name))
    return found


def _extract(content: ArtifactContent, trainer: Trainer, weights: Mapping[str, TrainedWeight]) -> ArtifactContent:
    """What would be written now, as it would be read back."""
    parameters = {
        name.removeprefix("model."): whole(p).cpu()
        for name, p in trainer.learner.named_parameters(remove_duplicate=False)  # a float may have several names
    }
    quantized, sparse = {}, {}
    for name, weight in weights.items():
        original = parameters[original_name(name)]
        mask = None if weight.mask is None else weight.mask.cpu()
        if name in content.sparse:
            old = content.sparse[name]
            assert mask is not None  # noqa: S101 (a sparse weight has a mask)
            rows = original.reshape(mask.shape)
            sparse[name] = replace(old, values=torch.where(mask, rows, 0.0).to(old.values.dtype), mask=mask)
        else:
            codes, scale = weight.codes(original.to(trainer.parallel.device))
            quantized[name] = replace(content.quantized[name], codes=codes.cpu(), scale=scale.cpu())
    floats = read_plain(parameters, content.floats)
    kept = {name: narrow_float(floats.get(name, tensor)) for name, tensor in content.floats.items()}
    return replace(content, quantized=quantized, sparse=sparse, floats=kept)


def _loop(config: FinetuneConfig, train: TrainingSet, device: str) -> TrainerConfig:
    per_epoch = -(-sum(1 for length in train.lengths if length) // config.batch_size)
    num_updates = max(1, round(config.epochs * per_epoch))
    is_cuda = torch.device(device).type == "cuda"
    precision = ("bfloat16" if is_cuda else "float32") if config.precision == "auto" else config.precision
    return TrainerConfig(
        num_updates=num_updates,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup=round(config.warmup * num_updates),
        eval_every=max(1, int(per_epoch / config.evaluations)),
        clip_norm=config.clip_norm,
        patience=config.patience,
        select=config.select,
        seed=config.seed,
        precision=precision,
        masks=MaskSchedule(config.mask_schedule, config.mask_interval, config.mask_until),
        refit_every=config.mask_interval if config.scales == "mse" else 0,
    )


def _record(
    config: FinetuneConfig, trainer: Trainer, speech: Speech, idle: list[str], teacher: Source
) -> dict[str, Any]:
    progress = trainer.progress
    history = [vars(line) for line in progress.history]
    return {
        "options": config.to_json(),
        "train": speech.train.describe(),
        "dev": speech.dev.describe(),
        "teacher_sha256": teacher.sha256 if config.wants_teacher else None,
        "num_updates": progress.update,
        "num_ranks": trainer.parallel.size,
        "metric": speech.dev.metric,
        "before": history[0],
        "best": history[progress.best],
        "history": history,
        "not_trained": [name for given in idle if (name := plain_name(given.removeprefix("model.")))],
    }
