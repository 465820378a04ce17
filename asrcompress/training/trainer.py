"""The training loop: updates, masks, evaluations, the best so far; it can stop anywhere and go on.

What a batch costs is the learner's matter and how good a model is the caller's. The loop is the same for one process and
many, and from the same state it goes on the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.training.batches import epoch_batches, pieces, share
from asrcompress.training.grid import TrainedWeight
from asrcompress.training.masks import Chooser, divergence
from asrcompress.training.parallel import Parallel, fill, split, whole
from asrcompress.training.schedule import MaskSchedule, learning_rate


@dataclass(frozen=True)
class TrainerConfig:
    """Options of the loop.

    num_updates, batch_size (utterances of an update, over all ranks), learning_rate (the peak), scale_rate (of the scales'
    learning rate, times the weights'), warmup (updates), clip_norm (of the gradient), eval_every (updates), patience
    (evaluations without a better one; 0 for no end), most_frames (that run at once), seed (of the order), refit_every (updates, after
    which scales are found anew; 0: never), precision (float32 or
    bfloat16, of products on CUDA), select (which evaluation is the best: that of the smallest metric, of the smallest loss, or
    the last).
    """

    num_updates: int
    batch_size: int
    learning_rate: float
    warmup: int
    eval_every: int
    scale_rate: float = 1.0
    clip_norm: float = 1.0
    patience: int = 0
    most_frames: int = 40_000
    seed: int = 1
    precision: str = "float32"
    masks: MaskSchedule = field(default_factory=MaskSchedule)
    refit_every: int = 0
    select: str = "metric"


@dataclass
class Evaluation:
    """One line of the history.

    metric: WER or AU FA-FR of the development set; loss: on it, nats a token. training_loss: mean over the updates since the
    line before; parts: of what it is made, each without its share in it.
    """

    update: int
    epoch: float
    metric: float
    loss: float
    training_loss: float | None
    learning_rate: float
    mask_divergence: float | None
    parts: dict[str, float] | None = None

    def rank(self, select: str) -> tuple[float, float]:
        """Smaller is better: by metric, where the loss decides between equal ones; by loss; or the later (last)."""
        if select == "last":
            return -self.update, self.loss
        return (self.metric, self.loss) if select == "metric" else (self.loss, self.metric)


@dataclass
class Progress:
    """Where a training is, without its tensors."""

    update: int = 0
    history: list[Evaluation] = field(default_factory=list)
    best: int = 0  # position in the history
    since: list[float] = field(default_factory=list)  # losses of updates since the last evaluation

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Progress:
        """What `to_json` gave."""
        return cls(**record | {"history": [Evaluation(**line) for line in record["history"]]})


class Trainer:
    """Trains `learner`.

    Args:
        learner: a module whose forward takes positions, a weight and the number of the update, and gives weight x the sum of
            these utterances' losses, each as large as its tokens are many.
        weights: the stored weights in it, by name, with the float parameters behind them.
        choosers: how their masks are chosen.
        lengths: frames of every utterance of the training set.
        tokens: of every utterance.
        config: options.
        parallel: this rank.
        sampling: how often each utterance is drawn, in proportion; each once an epoch where None.
        blocks: parts of the learner that are gathered one at a time where it is sharded.
        take_parts: what this rank's losses were made of since it was last asked, summed, by name.
    """

    def __init__(
        self,
        learner: nn.Module,
        weights: Mapping[str, tuple[TrainedWeight, str]],
        choosers: Mapping[str, Chooser],
        *,
        lengths: Sequence[int],
        tokens: Sequence[int],
        config: TrainerConfig,
        parallel: Parallel,
        sampling: Sequence[float] | None = None,
        blocks: Sequence[nn.Module] = (),
        take_parts: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self.learner, self.weights, self.choosers = learner, dict(weights), dict(choosers)
        self.lengths, self.tokens, self.config, self.parallel = lengths, tokens, config, parallel
        self.take_parts = take_parts
        self.sampling = sampling
        self.wrapped = parallel.wrap(learner, blocks)
        self.parameters = {name: p for name, p in learner.named_parameters() if p.requires_grad}
        self.optimizer = _optimizer(self.parameters, config, parallel)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self._masks = self.masks()
        self._batches: tuple[int, list[list[int]]] = (-1, [])

    def run(
        self,
        evaluate: Callable[[], tuple[float, float]],
        *,
        on_update: Callable[[Progress], None] = lambda progress: None,
        on_evaluation: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        """Train to the end, or until nothing better has come for `patience` evaluations; then hold the best.

        Args:
            evaluate: (metric, loss) of the model as it is now.
            on_update: called after each update.
            on_evaluation: called after each evaluation; the place to save the state.

        Raises:
            AsrCompressError: the loss is no number.
        """
        progress, config = self.progress, self.config
        if not progress.history:
            self._judge(evaluate, on_evaluation)
        while progress.update < config.num_updates and not self._is_stale():
            if config.masks.is_due(progress.update, config.num_updates):
                self.choose_masks()
            if config.refit_every and progress.update and progress.update % config.refit_every == 0:
                self.refit_scales()
            progress.since.append(self._update(self._batch(progress.update)))
            progress.update += 1
            on_update(progress)
            if progress.update % config.eval_every == 0 or progress.update == config.num_updates:
                self._judge(evaluate, on_evaluation)
        self.load(self.best)

    def remember_masks(self) -> None:
        """Count how masks change from what they are now."""
        self._masks = self.masks()

    def masks(self) -> dict[str, Tensor]:
        """The masks now, by the weights' names."""
        return {name: w.mask.clone() for name, (w, _) in self.weights.items() if w.mask is not None}

    @torch.no_grad()
    def choose_masks(self) -> None:
        """Choose every mask anew from the float weights, of those that are trained."""
        for name, chooser in self.choosers.items():
            weight, original = self.weights[name]
            if original not in self.parameters:
                continue
            assert weight.mask is not None  # noqa: S101 (a chooser is of a masked weight)
            weight.mask.copy_(chooser.choose(whole(self.parameters[original])))

    @torch.no_grad()
    def refit_scales(self) -> None:
        """Find the scales that round the float weights best as they are now, of those that are trained."""
        for weight, original in self.weights.values():
            if weight.scale is not None and original in self.parameters:
                weight.refit(whole(self.parameters[original]))

    def snapshot(self) -> dict[str, Tensor]:
        """All that makes the model what it is now: trained parameters and masks, whole and on the CPU."""
        return {name: whole(value).cpu().clone() for name, value in self.state().items()}

    def state(self) -> dict[str, Tensor]:
        """What a snapshot is of: the tensors themselves, which may be split over ranks."""
        masks = {f"mask/{name}": w.mask for name, (w, _) in self.weights.items() if w.mask is not None}
        return {f"parameter/{name}": p for name, p in self.parameters.items()} | masks | self._scales()

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Make the model what a snapshot says."""
        for name, parameter in self.parameters.items():
            fill(parameter, values[f"parameter/{name}"])
        for name, (weight, _) in self.weights.items():
            if weight.mask is not None:
                weight.mask.copy_(values[f"mask/{name}"])
        for name, scale in self._scales().items():
            scale.copy_(values[name])

    def _scales(self) -> dict[str, Tensor]:
        """Scales that are found again and again; learned ones are parameters."""
        found = (
            {f"scale/{name}": weight.scale for name, (weight, _) in self.weights.items()}
            if self.config.refit_every
            else {}
        )
        return {name: scale for name, scale in found.items() if scale is not None}

    def _judge(self, evaluate: Callable[[], tuple[float, float]], on_evaluation: Callable[[Progress], None]) -> None:
        progress, config = self.progress, self.config
        metric, loss = evaluate()
        masks = self.masks()
        found = Evaluation(
            progress.update,
            progress.update / max(self.num_batches, 1),
            metric,
            loss,
            math.fsum(progress.since) / len(progress.since) if progress.since else None,
            learning_rate(progress.update, config.num_updates, peak=config.learning_rate, warmup=config.warmup),
            divergence(self._masks, masks) if masks else None,
            self._parts(),
        )
        self._masks, progress.since = masks, []
        progress.history.append(found)
        if len(progress.history) == 1 or found.rank(config.select) < progress.history[progress.best].rank(
            config.select
        ):
            progress.best, self.best = len(progress.history) - 1, self.snapshot()
        on_evaluation(progress)

    def _parts(self) -> dict[str, float] | None:
        """Of all ranks, for the mean over the updates since the last evaluation."""
        own = self.take_parts()
        if not self.progress.since:
            return None
        sums = self.parallel.sum(own[name] for name in sorted(own))
        return {name: value / len(self.progress.since) for name, value in zip(sorted(own), sums, strict=True)} or None

    def _is_stale(self) -> bool:
        since = len(self.progress.history) - 1 - self.progress.best
        return bool(self.config.patience) and since >= self.config.patience

    @property
    def num_batches(self) -> int:
        """Updates of an epoch."""
        heard = sum(1 for length in self.lengths if length)
        return -(-heard // self.config.batch_size)

    def _batch(self, update: int) -> list[int]:
        epoch, index = divmod(update, self.num_batches)
        if self._batches[0] != epoch:
            batches = epoch_batches(
                self.lengths, self.config.batch_size, seed=self.config.seed, epoch=epoch, weights=self.sampling
            )
            self._batches = epoch, batches
        return self._batches[1][index]

    @torch.no_grad()
    def _pull(self) -> None:
        """Add what SR-STE adds to the gradients: once an update, however many pieces, ranks or uses of a weight there were."""
        for weight, original in self.weights.values():
            parameter = self.parameters.get(original)
            found = None if parameter is None or parameter.grad is None else weight.pull(whole(parameter))
            if parameter is not None and parameter.grad is not None and found is not None:
                parameter.grad.add_(split(found, parameter.grad))

    def _update(self, batch: list[int]) -> float:
        """One step of the optimizer; the loss of the whole update."""
        config, parallel = self.config, self.parallel
        rate = learning_rate(self.progress.update, config.num_updates, peak=config.learning_rate, warmup=config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        self.optimizer.zero_grad(set_to_none=True)
        num_tokens = max(sum(self.tokens[position] for position in batch), 1)
        mine = pieces(share(batch, parallel.rank, parallel.size), self.lengths, config.most_frames)
        # Every rank runs as many pieces, one that counts for nothing where it has no more: gradients are exchanged in step.
        count = max(
            len(pieces(share(batch, rank, parallel.size), self.lengths, config.most_frames))
            for rank in range(parallel.size)
        )
        total = 0.0
        for number in range(count):
            positions, weight = (mine[number], 1 / num_tokens) if number < len(mine) else (batch[:1], 0.0)
            with parallel.piece(self.wrapped, is_last=number == count - 1):
                with torch.autocast("cuda", torch.bfloat16, enabled=config.precision == "bfloat16"):
                    loss = self.wrapped(positions, weight, self.progress.update)
                # Ranks' gradients are averaged where the update wants their sum.
                (loss * parallel.size).backward()
            total += float(loss.detach())
        (total,) = parallel.sum([total])
        if not math.isfinite(total):
            raise AsrCompressError(
                f"update {self.progress.update + 1}: the training loss is {total}; try a smaller --learning-rate, or look for broken audio"
            )
        self._pull()
        torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), config.clip_norm)
        self.optimizer.step()
        return total


def _optimizer(parameters: Mapping[str, Tensor], config: TrainerConfig, parallel: Parallel) -> torch.optim.Optimizer:
    """AdamW without decay; scales have a rate of their own."""
    scales = [p for name, p in parameters.items() if name.endswith(".growth")]
    others = [p for name, p in parameters.items() if not name.endswith(".growth")]
    groups = [{"params": others, "rate": 1.0}, {"params": scales, "rate": config.scale_rate}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0,
        fused=parallel.device.type == "cuda" and not parallel.is_sharded,
    )  # fmt: skip
