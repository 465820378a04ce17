"""Ranks that train together: the same model as one rank trains, whatever falls to each, and no rank that waits for one that is gone."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.training.parallel import Parallel, find_shards, watch_calls
from tests.fixtures.ranks import Toy, measure, run_ranks, toy_trainer

TOLERANCE = 2e-5  # of the largest weight: floats are summed in another order, and Adam divides by what is small


def trained(parallel: Parallel, **options: Any) -> tuple[dict[str, Tensor], list[float]]:
    """All that a training changes, and the losses of its updates."""
    trainer, losses = toy_trainer(parallel, **options), []
    trainer.run(measure(trainer), on_update=lambda progress: losses.append(progress.since[-1]))
    trainer.load(trainer.best)
    return trainer.snapshot(), losses


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest, of a tensor's own largest value; masks must be equal."""
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items() if value.dtype == torch.bool)
    floats = {name: value for name, value in one.items() if value.dtype != torch.bool}
    return max(float((value - other[name]).abs().max() / value.abs().max()) for name, value in floats.items())


@pytest.mark.parametrize("is_sharded", [False, True], ids=["data", "sharded"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 1},
        {"batch_size": 3, "most_frames": 4},
        {"batch_size": 10, "most_frames": 1000, "refit_every": 2},
    ],
    ids=["pieces", "fewer utterances than ranks", "unequal numbers of pieces", "everything at once, scales found anew"],
)
def test_two_ranks_train_what_one_trains(is_sharded: bool, options: dict[str, Any]) -> None:
    expected, losses = trained(Parallel(), **options)
    start = toy_trainer(Parallel()).snapshot()
    assert any(not torch.equal(start[name], value) for name, value in expected.items() if value.dtype == torch.bool)
    found = run_ranks(2, lambda parallel: trained(parallel, **options), is_sharded=is_sharded)
    for values, also in found:
        assert difference(expected, values) < TOLERANCE
        assert also == pytest.approx(losses, rel=1e-5)
    assert all(torch.equal(value, found[1][0][name]) for name, value in found[0][0].items())  # of the two, bit for bit


def test_three_ranks_share_what_does_not_divide_by_three() -> None:
    expected, _ = trained(Parallel())
    for values, _ in run_ranks(3, trained, is_sharded=True):
        assert difference(expected, values) < TOLERANCE


def test_a_shard_is_what_is_called_and_has_its_parameters_for_itself() -> None:
    model = Toy()
    assert find_shards(model, set(model.modules())) == [*model.blocks, *model.sides]
    with watch_calls(model) as called:
        model([1, 2], 1.0)
    assert find_shards(model, called) == list(model.blocks)  # sides[0] only gives its weight away
    model.idle.weight = model.blocks[1].first.weight
    assert find_shards(model, called) == [model.blocks[0], model.blocks[2]]
    model.blocks[0].inner = nn.ModuleList([model.blocks[0].first])
    assert find_shards(model, set(model.modules()))[0] is model.blocks[0]  # none within another
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_every_rank_holds_a_part() -> None:
    def held(parallel: Parallel) -> tuple[int, int]:
        trainer = toy_trainer(parallel)
        parts = [parameter.to_local().numel() for parameter in trainer.parameters.values()]  # type: ignore[operator]
        return sum(parts), sum(parameter.numel() for parameter in trainer.parameters.values())

    (first, whole), (second, _) = run_ranks(2, held, is_sharded=True)
    assert first + second == whole and 0.4 < first / whole < 0.6


def test_the_first_rank_tells_the_others() -> None:
    def work(parallel: Parallel) -> Any:
        first = parallel.rank == 0
        told = parallel.tell({"text": "ü", "number": 0.1} if first else None)
        nothing = parallel.tell({} if first else None)
        mask = parallel.hand_out(torch.tensor([True, False]) if first else None, (2,), torch.bool)
        number = parallel.hand_out(torch.tensor(2.5) if first else None, (), torch.float32)
        return told, nothing, mask.tolist(), float(number), parallel.sum([parallel.rank, 0.5])

    expected = ({"text": "ü", "number": 0.1}, {}, [True, False], 2.5, [1.0, 1.0])
    assert run_ranks(2, work) == [expected, expected]
    alone = Parallel()
    assert alone.tell({"a": 1}) == {"a": 1} and alone.sum([2.0]) == [2.0]


@pytest.mark.parametrize("is_sharded", [False, True], ids=["data", "sharded"])
def test_a_rank_that_fails_ends_the_other_at_once(is_sharded: bool) -> None:
    class Broken(Toy):
        def forward(self, positions: list[int], weight: float, update: int = 0) -> Tensor:
            if self.rank == 1 and 7 in positions:
                raise AsrCompressError("speech/7.flac: cannot be read; convert it")
            return super().forward(positions, weight)

    def work(parallel: Parallel) -> None:
        learner = Broken()
        learner.rank = parallel.rank
        trained(parallel, learner=learner)

    begin = time.monotonic()
    first, second = run_ranks(2, work, is_sharded=is_sharded)
    assert second == "speech/7.flac: cannot be read; convert it"
    assert first == "said: rank 1 of 2 stopped: speech/7.flac: cannot be read; convert it"
    assert time.monotonic() - begin < 20


def test_a_loss_that_is_no_number_is_said_once() -> None:
    class Broken(Toy):
        def forward(self, positions: list[int], weight: float, update: int = 0) -> Tensor:
            return super().forward(positions, weight) * (float("nan") if 7 in positions else 1.0)

    found = run_ranks(2, lambda parallel: trained(parallel, learner=Broken()))
    assert sorted(text.startswith("said: ") for text in found) == [False, True]
    assert all("the training loss is nan; try a smaller --learning-rate" in text for text in found)


def test_a_rank_that_is_killed_ends_the_other_at_once() -> None:
    def work(parallel: Parallel) -> None:
        trainer = toy_trainer(parallel)

        def kill(progress: Any) -> None:
            if parallel.rank == 1 and progress.update == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        trainer.run(measure(trainer), on_update=kill)

    first, second = run_ranks(2, work)
    assert second == -signal.SIGKILL
    assert first.startswith("rank 0 of 2 has lost the others (") and first.endswith("is in the journal")
