"""The loop on a model that fits on a line: what an update does, what is kept, when it ends."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.training.attach import attach, original_name, without_gradient
from asrcompress.training.grid import TrainedWeight
from asrcompress.training.masks import Chooser
from asrcompress.training.parallel import Parallel
from asrcompress.training.schedule import MaskSchedule, learning_rate
from asrcompress.training.trainer import Evaluation, Progress, Trainer, TrainerConfig

COUNT, INPUTS = 10, 8
LENGTHS = [7, 3, 0, 5, 9, 4, 6, 8, 2, 1]
TOKENS = [2, 1, 3, 4, 2, 1, 5, 2, 3, 1]
SOURCE = torch.Generator().manual_seed(5)
X, Y = torch.randn(COUNT, INPUTS, generator=SOURCE), torch.randn(COUNT, generator=SOURCE)
WEIGHT = "layer.weight"


class Line(nn.Module):
    """Half the squared distance from Y, of each utterance times its tokens. `uses`: how often the weight is read in a pass."""

    def __init__(self, uses: int = 1) -> None:
        super().__init__()
        self.layer, self.idle = nn.Linear(INPUTS, 1), nn.Linear(INPUTS, 1)
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.linspace(-1.0, 1.3, parameter.numel()).reshape(parameter.shape) + 0.1 * index)
        self.uses, self.seen = uses, []  # type: ignore[var-annotated]

    def forward(self, positions: list[int], weight: float, update: int = 0) -> Tensor:
        if weight:
            self.seen.append(list(positions))
        out = torch.stack([self.layer(X[positions])[:, 0] for _ in range(self.uses)]).mean(dim=0)
        tokens = torch.tensor([float(TOKENS[p]) for p in positions])
        return ((out - Y[positions]).square() / 2 * tokens).sum() * weight


def options(**given) -> TrainerConfig:
    defaults = {
        "num_updates": 6,
        "batch_size": 4,
        "learning_rate": 0.05,
        "warmup": 2,
        "eval_every": 2,
        "clip_norm": 1e9,
    }
    return TrainerConfig(**defaults | given)


def trainer_of(learner: Line, weight: TrainedWeight | None = None, chooser: Chooser | None = None, **given) -> Trainer:
    weights, choosers = {}, {}
    if weight is not None:
        attach(learner, {WEIGHT: [WEIGHT]}, {WEIGHT: weight})
        weights = {WEIGHT: (weight, original_name(WEIGHT))}
    if chooser is not None:
        choosers = {WEIGHT: chooser}
    learner([0], 1.0).backward()
    assert without_gradient(learner) == ["idle.weight", "idle.bias"]
    learner.zero_grad(set_to_none=True)
    learner.seen.clear()
    return Trainer(
        learner, weights, choosers, lengths=LENGTHS, tokens=TOKENS, config=options(**given), parallel=Parallel()
    )


def scripted(metrics, losses=None) -> Callable[[], tuple[float, float]]:
    rest = iter(list(zip(metrics, losses or [1.0] * len(metrics), strict=True)))
    return lambda: next(rest)


def every_other() -> Tensor:
    return torch.tensor([[position % 2 == 0 for position in range(INPUTS)]])


def halves() -> TrainedWeight:
    """A mask that keeps every other weight."""
    return TrainedWeight(mask=every_other(), is_dense=True, decay=0.25)


def whole_loss(learner: Line, positions) -> float:
    with torch.no_grad():
        return float(learner(list(positions), 0.0 + 1.0)) / sum(TOKENS[p] for p in positions)


@pytest.mark.parametrize("best", (0, 1, 2, 3))
def test_it_ends_with_what_was_best(best):
    learner = Line()
    trainer = trainer_of(learner)
    metrics = [0.5, 0.5, 0.5, 0.5]
    metrics[best] = 0.25
    states = []
    trainer.run(scripted(metrics), on_evaluation=lambda progress: states.append(trainer.snapshot()))
    assert len(states) == 4
    assert not torch.equal(states[0]["parameter/layer.weight"], states[-1]["parameter/layer.weight"])
    assert trainer.progress.best == best
    assert torch.equal(learner.layer.weight, states[best]["parameter/layer.weight"])
    assert torch.equal(learner.layer.bias, states[best]["parameter/layer.bias"])


def test_of_equal_metrics_the_smaller_loss_is_better_and_of_equal_ones_the_first():
    trainer = trainer_of(Line())
    trainer.run(scripted([0.5, 0.4, 0.4, 0.4], [1.0, 3.0, 2.0, 2.0]))
    assert trainer.progress.best == 2


@pytest.mark.parametrize(("select", "best"), (("metric", 1), ("loss", 2), ("last", 3)))
def test_the_best_is_chosen_by_what_was_asked_for(select, best):
    trainer = trainer_of(Line(), select=select)
    states = []
    run = scripted([0.5, 0.1, 0.4, 0.3], [4.0, 3.0, 1.0, 2.0])
    trainer.run(run, on_evaluation=lambda progress: states.append(trainer.snapshot()))
    assert trainer.progress.best == best
    assert torch.equal(trainer.learner.layer.weight, states[best]["parameter/layer.weight"])


def test_it_is_never_worse_than_the_start():
    learner = Line()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    trainer = trainer_of(learner)
    trainer.run(scripted([0.1, 0.2, 0.3, 0.11]))
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert trainer.progress.update == 6


def test_masks_are_part_of_what_is_best():
    learner, weight = Line(), halves()
    first = weight.mask.clone()
    trainer = trainer_of(learner, weight, Chooser((1, 4), 0), masks=MaskSchedule("every-step", until=1.0))
    trainer.run(scripted([0.1, 0.2, 0.2, 0.2]))
    assert torch.equal(weight.mask, first)


@pytest.mark.parametrize(("patience", "updates"), ((1, 6), (2, 8), (3, 10), (0, 20)))
def test_patience(patience, updates):
    trainer = trainer_of(Line(), num_updates=20, patience=patience)
    trainer.run(scripted([0.5, 0.4, 0.3] + [0.35] * 8))
    assert trainer.progress.update == (updates if patience else 20)
    assert trainer.progress.best == 2


def test_evaluations_are_at_the_start_every_so_many_updates_and_at_the_end():
    trainer, seen = trainer_of(Line(), num_updates=5), []
    trainer.run(scripted([0.5] * 4), on_update=lambda progress: seen.append(progress.update))
    assert [line.update for line in trainer.progress.history] == [0, 2, 4, 5]
    assert [line.epoch for line in trainer.progress.history] == [0, 2 / 3, 4 / 3, 5 / 3]
    assert seen == [1, 2, 3, 4, 5]


def test_an_epoch_hears_everyone_once_and_the_next_in_another_order():
    learner = Line()
    trainer = trainer_of(learner, num_updates=6)
    trainer.run(scripted([0.5] * 4))
    assert trainer.num_batches == 3
    epochs = [[p for batch in learner.seen[first : first + 3] for p in batch] for first in (0, 3)]
    for heard in epochs:
        assert sorted(heard) == [p for p in range(COUNT) if LENGTHS[p]]
    assert epochs[0] != epochs[1]


def test_draws_follow_the_sampling_and_the_learner_is_told_the_update():
    class Told(Line):
        def forward(self, positions: list[int], weight: float, update: int = 0) -> Tensor:
            told.append(update)
            return super().forward(positions, weight, update)

    told: list[int] = []
    sampling = [1.0 if position in (1, 4, 6) else 0.0 for position in range(COUNT)]
    learner = Told()
    trainer = Trainer(
        learner, {}, {}, lengths=LENGTHS, tokens=TOKENS, config=options(), parallel=Parallel(), sampling=sampling
    )
    trainer.run(scripted([1.0] * 4))
    assert {position for batch in learner.seen for position in batch} == {1, 4, 6}
    assert sum(map(len, learner.seen)) == 2 * 9  # an epoch has as many draws as utterances that are heard
    assert told == list(range(6))


def test_parts_of_the_loss_are_means_over_the_updates_since_the_last_evaluation():
    sums: dict[str, float] = {}

    class Parted(Line):
        def forward(self, positions: list[int], weight: float, update: int = 0) -> Tensor:
            for name, value in (("b", 1.0), ("a", 10.0 + update)):
                sums[name] = sums.get(name, 0.0) + value
            return super().forward(positions, weight, update)

    def take() -> dict[str, float]:
        taken = dict(sums)
        sums.clear()
        return taken

    learner = Parted()
    learner([0], 1.0)  # before the training, so in no update
    trainer = Trainer(
        learner, {}, {}, lengths=LENGTHS, tokens=TOKENS, config=options(), parallel=Parallel(), take_parts=take
    )
    trainer.run(scripted([1.0] * 4))
    means = [{"a": 10.5, "b": 1.0}, {"a": 12.5, "b": 1.0}, {"a": 14.5, "b": 1.0}]
    assert [line.parts for line in trainer.progress.history] == [None, *means]


def test_an_update_is_a_step_of_adam_down_the_mean_loss_of_a_token():
    """The first step of Adam is as long as the learning rate, against the sign of the gradient, whatever its size."""
    learner = Line()
    trainer = trainer_of(learner, num_updates=1, warmup=0, learning_rate=0.05)
    weight, bias = learner.layer.weight.detach().clone(), learner.layer.bias.detach().clone()
    trainer.run(scripted([0.5, 0.4]))
    (batch,) = learner.seen
    x, tokens = X[batch], torch.tensor([float(TOKENS[p]) for p in batch])
    error = x @ weight[0] + bias - Y[batch]
    gradient = (error * tokens) @ x / tokens.sum()
    assert torch.allclose(learner.layer.weight[0], weight[0] - 0.05 * gradient.sign(), atol=1e-5)
    assert trainer.progress.history[1].training_loss == pytest.approx(
        float((error.square() / 2 * tokens).sum() / tokens.sum()), rel=1e-5
    )


def gradients(learner: Line, weight: TrainedWeight | None = None, **given) -> dict[str, Tensor]:
    """Of an update of everyone."""
    trainer = trainer_of(learner, weight, **{"num_updates": 1, "batch_size": 9} | given)
    trainer.run(scripted([0.5, 0.4]))
    return {
        name: parameter.grad.clone() for name, parameter in learner.named_parameters() if parameter.grad is not None
    }


@pytest.mark.parametrize("most_frames", (1, 12))
def test_pieces_of_a_batch_sum_to_it(most_frames):
    learner = Line()
    whole, parts = gradients(Line()), gradients(learner, most_frames=most_frames)
    assert len(learner.seen) > 1
    assert whole.keys() == parts.keys() == {"layer.weight", "layer.bias"}
    assert all(torch.allclose(whole[name], parts[name], rtol=1e-5) for name in whole)


@pytest.mark.parametrize(("uses", "most_frames"), ((1, 1000), (3, 1000), (1, 1), (2, 12)))
def test_sr_ste_is_added_once_an_update(uses, most_frames):
    learner, weight = Line(uses), halves()
    mask, start = weight.mask, learner.layer.weight.detach().clone()
    found = gradients(learner, weight, most_frames=most_frames)[original_name(WEIGHT)]
    plain = TrainedWeight(mask=mask, is_dense=True)
    without = gradients(Line(uses), plain, most_frames=most_frames)[original_name(WEIGHT)]
    assert torch.allclose(found - without, 0.25 * torch.where(mask, 0.0, start), atol=1e-5)


def test_gradients_are_clipped_with_what_sr_ste_adds():
    found = gradients(Line(), halves(), clip_norm=1e-3)
    norm = torch.stack([grad.norm() for grad in found.values()]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_learning_rates_follow_the_schedule_and_scales_have_their_own():
    weight = TrainedWeight(scale=torch.full((1, 1), 0.2), num_bits=4)
    trainer, rates = trainer_of(Line(), weight, scale_rate=3.0), []
    trainer.run(
        scripted([0.5, 0.4, 0.3, 0.2]), on_update=lambda progress: rates.append([group["lr"] for group in trainer.optimizer.param_groups])
    )  # fmt: skip
    expected = [learning_rate(update, 6, peak=0.05, warmup=2) for update in range(6)]
    assert [rate for rate, _ in rates] == pytest.approx(expected)
    assert [rate for _, rate in rates] == pytest.approx([3 * rate for rate in expected])
    (scales,) = [group["params"] for group in trainer.optimizer.param_groups if group["rate"] == 3.0]
    assert len(scales) == 1
    assert scales[0] is weight.growth
    assert float(weight.growth) != 0
    assert [group["weight_decay"] for group in trainer.optimizer.param_groups] == [0.0, 0.0]


def test_masks_are_chosen_when_they_are_due_and_how_much_they_changed_is_told():
    given = every_other()
    learner, weight, masks = Line(), TrainedWeight(mask=given, is_dense=True, decay=0.25), []
    trainer = trainer_of(
        learner, weight, Chooser((2, 4), 0), masks=MaskSchedule("few-shot", interval=2, until=1.0), learning_rate=0.3
    )
    trainer.run(scripted([0.5, 0.4, 0.3, 0.2]), on_update=lambda progress: masks.append(weight.mask.clone()))
    assert torch.equal(given, every_other())  # whoever gave the mask has it as it was
    changes = [int((one != other).sum()) for one, other in zip([given, *masks[:-1]], masks, strict=True)]
    assert [number for number, change in enumerate(changes) if change] == [
        2,
        4,
    ]  # before the third and the fifth update
    assert all(int(mask.sum()) == INPUTS // 2 for mask in masks)
    told = [line.mask_divergence for line in trainer.progress.history]
    assert told == [0.0, 0.0, changes[2] / INPUTS, changes[4] / INPUTS]


def test_an_evaluation_tells_of_the_updates_since_the_one_before(monkeypatch):
    learner, weight = Line(), halves()
    trainer = trainer_of(learner, weight)
    losses, flips = iter([1.0, 3.0, 5.0, 9.0, 2.0, 4.0]), {1: 3, 3: 1}

    def flip(progress: Progress) -> None:
        weight.mask[0, : flips.get(progress.update, 0)] ^= True

    monkeypatch.setattr(trainer, "_update", lambda batch: next(losses))
    trainer.run(scripted([0.5, 0.4, 0.3, 0.2]), on_update=flip)
    assert [line.training_loss for line in trainer.progress.history] == [None, 2.0, 7.0, 3.0]
    assert [line.mask_divergence for line in trainer.progress.history] == [0.0, 3 / INPUTS, 1 / INPUTS, 0.0]


def test_only_what_the_loss_reaches_is_trained_and_saved():
    trainer = trainer_of(Line())
    assert trainer.parameters.keys() == {"layer.weight", "layer.bias"}
    assert trainer.snapshot().keys() == {"parameter/layer.weight", "parameter/layer.bias"}


def test_the_mask_of_a_weight_that_is_not_trained_stays():
    learner = Line()
    weight = TrainedWeight(mask=torch.zeros(1, INPUTS, dtype=torch.bool), is_dense=True)
    attach(learner, {"idle.weight": ["idle.weight"]}, {"idle.weight": weight})
    learner([0], 1.0).backward()
    without_gradient(learner)
    trainer = Trainer(
        learner, {"idle.weight": (weight, original_name("idle.weight"))}, {"idle.weight": Chooser((2, 4), 0)},
        lengths=LENGTHS, tokens=TOKENS, config=options(masks=MaskSchedule("every-step", until=1.0)), parallel=Parallel(),
    )  # fmt: skip
    trainer.run(scripted([0.5] * 4))
    assert not weight.mask.any()


@pytest.mark.parametrize("broken", (math.nan, math.inf))
def test_a_loss_that_is_no_number_stops_with_one_line_and_changes_nothing(broken):
    learner = Line()
    trainer = trainer_of(learner, num_updates=20, eval_every=100)
    states = []

    def spoil(progress: Progress) -> None:
        states.append(trainer.snapshot())
        if progress.update == 3:
            learner.register_forward_hook(lambda module, args, output: output * broken)

    with pytest.raises(
        AsrCompressError, match=f"^update 4: the training loss is {broken}; [^\n]*--learning-rate[^\n]*$"
    ):
        trainer.run(scripted([0.5]), on_update=spoil)
    assert all(torch.equal(value, states[-1][name]) for name, value in trainer.snapshot().items())


def test_training_goes_down():
    learner = Line()
    trainer = trainer_of(learner, num_updates=60, eval_every=10)
    heard = [p for p in range(COUNT) if LENGTHS[p]]
    trainer.run(lambda: (whole_loss(learner, heard), 0.0))
    found = [line.metric for line in trainer.progress.history]
    assert found[-1] < 0.2 * found[0]


def test_progress_survives_json():
    progress = Progress(
        7, [Evaluation(0, 0.0, 0.5, 1.5, None, 1e-4, None), Evaluation(4, 0.5, 0.4, 1.2, 2.0, 5e-5, 0.1)], 1, [0.3, 0.2]
    )
    assert Progress.from_json(json.loads(json.dumps(progress.to_json()))) == progress


def test_a_snapshot_is_a_copy_that_loads_back():
    learner, weight = Line(), halves()
    trainer = trainer_of(learner, weight)
    taken = trainer.snapshot()
    kept = {name: value.clone() for name, value in taken.items()}
    trainer.run(scripted([0.5, 0.4, 0.3, 0.2]))
    with torch.no_grad():
        weight.mask.logical_not_()
    assert all(torch.equal(taken[name], value) for name, value in kept.items())
    trainer.load(taken)
    assert all(torch.equal(trainer.snapshot()[name], value) for name, value in kept.items())
    assert {"mask/layer.weight", "parameter/layer.bias"} <= kept.keys()
