"""A training that stops and goes on: to the same bits as one that did not, on any number of ranks, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.training.parallel import Parallel
from asrcompress.training.state import RECORD, TrainingState
from asrcompress.training.trainer import Progress, Trainer
from tests.fixtures.ranks import Toy, measure, run_ranks, toy_trainer


class Stop(Exception):
    """In the middle of a training."""


def train(
    parallel: Parallel, path: Path, *, resume: bool = False, stop: int = -1, identity: str = "this one", **options: Any
) -> tuple[dict[str, Tensor], dict[str, Any], int]:
    """(what the training changed, its progress, its first update); `stop`: after which update it is cut off."""
    trainer = toy_trainer(parallel, num_updates=9, **options)
    state = TrainingState(path, identity, resume)
    state.load(trainer)
    first = trainer.progress.update

    def on_update(progress: Progress) -> None:
        if progress.update == stop:
            raise Stop

    trainer.run(measure(trainer), on_update=on_update, on_evaluation=lambda progress: state.save(trainer, parallel))
    return trainer.snapshot(), trainer.progress.to_json(), first


def stopped(path: Path, stop: int, **options: Any) -> None:
    with pytest.raises(Stop):
        train(Parallel(), path, stop=stop, **options)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(("stop", "first"), [(1, 0), (3, 2), (5, 4), (8, 6)])
def test_what_was_stopped_goes_on_to_the_same_bits(tmp_path: Path, stop: int, first: int) -> None:
    expected, progress, _ = train(Parallel(), tmp_path / "whole")
    stopped(tmp_path / "state", stop)
    found, also, begun = train(Parallel(), tmp_path / "state", resume=True)
    assert begun == first  # the last evaluation before
    assert equal(expected, found) and progress == also
    assert (tmp_path / "state").read_bytes() == (tmp_path / "whole").read_bytes()


def test_scales_that_are_found_anew_go_on_from_where_they_were(tmp_path: Path) -> None:
    expected, progress, _ = train(Parallel(), tmp_path / "whole", refit_every=3)
    start = toy_trainer(Parallel(), refit_every=3).snapshot()
    assert any(not torch.equal(value, start[name]) for name, value in expected.items() if name.startswith("scale/"))
    stopped(tmp_path / "state", 5, refit_every=3)
    found, also, begun = train(Parallel(), tmp_path / "state", resume=True, refit_every=3)
    assert begun == 4 and equal(expected, found) and progress == also


def test_what_is_finished_trains_no_more(tmp_path: Path) -> None:
    expected, progress, _ = train(Parallel(), tmp_path / "state")
    found, also, begun = train(Parallel(), tmp_path / "state", resume=True)
    assert begun == 9 and equal(expected, found) and progress == also


def test_without_resume_it_begins_anew_and_without_a_state_resume_does(tmp_path: Path) -> None:
    stopped(tmp_path / "state", 5)
    assert train(Parallel(), tmp_path / "state")[2] == 0
    assert train(Parallel(), tmp_path / "none", resume=True)[2] == 0


@pytest.mark.parametrize(
    ("before", "after"), [((1, False), (2, True)), ((2, True), (1, False)), ((2, False), (3, True))]
)
def test_it_goes_on_with_another_number_of_ranks(
    tmp_path: Path, before: tuple[int, bool], after: tuple[int, bool]
) -> None:
    """Saved by some, whole or split, and read by others: up to the order in which floats are summed."""
    expected, progress, _ = train(Parallel(), tmp_path / "whole")
    path = tmp_path / "state"

    def cut(parallel: Parallel) -> None:
        try:
            train(parallel, path, stop=5)
        except Stop:
            return

    run_ranks(before[0], cut, is_sharded=before[1])
    others = tmp_path / "elsewhere"  # only the first rank reads
    for found, also, begun in run_ranks(
        after[0],
        lambda parallel: train(parallel, path if parallel.rank == 0 else others, resume=True),
        is_sharded=after[1],
    ):
        assert begun == 4
        for name, value in expected.items():
            if value.dtype == torch.bool:
                assert torch.equal(value, found[name])
            else:
                assert float((value - found[name]).abs().max()) < 2e-5 * float(value.abs().max())
        losses = [[line["loss"] for line in run["history"]] for run in (progress, also)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_two_ranks_stopped_and_resumed_give_the_bits_of_two_that_were_not(tmp_path: Path) -> None:
    expected = run_ranks(2, lambda parallel: train(parallel, tmp_path / "whole"))[0]

    def cut(parallel: Parallel) -> None:
        try:
            train(parallel, tmp_path / "state", stop=5)
        except Stop:
            return

    run_ranks(2, cut)
    found = run_ranks(2, lambda parallel: train(parallel, tmp_path / "state", resume=True))[0]
    assert found[2] == 4 and equal(expected[0], found[0]) and expected[1] == found[1]


def flip(position: Callable[[bytes], int]) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        at = position(data)
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"PK" + data,
        lambda data: data + b"\0",
        flip(lambda data: int.from_bytes(data[:8], "little") + 8 + 100),
        flip(lambda data: data.index(b'"history"') + 30),
        flip(lambda data: data.index(b'"sha256":"') + 12),
        flip(lambda data: len(data) - 1),
        lambda data: data.replace(b"exp_avg/", b"exp_awg/", 1),
    ],
    ids=["short", "half", "empty", "no safetensors", "long", "data", "record", "sum", "end", "name"],
)
def test_a_damaged_state_is_refused_in_one_line(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "state"
    stopped(path, 5)
    data = path.read_bytes()
    path.write_bytes(damage(data))
    trainer = toy_trainer(Parallel(), num_updates=9)
    before = trainer.snapshot()
    with pytest.raises(AsrCompressError) as caught:
        TrainingState(path, "this one", True).load(trainer)
    text = str(caught.value)
    assert text.startswith(f"{path}: is no saved training, or damaged (")
    assert text.endswith("); remove it, or leave out --resume") and "\n" not in text
    assert equal(before, trainer.snapshot())


def test_a_state_of_another_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    stopped(path, 5)
    with pytest.raises(AsrCompressError, match="is of a training with other data or options; remove it"):
        train(Parallel(), path, resume=True, identity="another")
    with pytest.raises(AsrCompressError, match="is not of this model"):
        train(Parallel(), path, resume=True, learner=Toy(width=16))
    path.write_bytes(path.read_bytes().replace(b"training.json", b"training.jsom"))
    with pytest.raises(AsrCompressError, match="is no saved training"):
        train(Parallel(), path, resume=True)


def test_all_ranks_refuse_what_the_first_refuses_and_one_says_it(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"nothing")
    found = run_ranks(2, lambda parallel: train(parallel, path, resume=True))
    assert sorted(text.split(":")[0] == "said" for text in found) == [False, True]
    assert all(f"{path}: is no saved training, or damaged" in text for text in found)


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    stopped(path, 3)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("asrcompress.training.state.atomic_write", full)
    with pytest.raises(AsrCompressError, match="state: could not be written: No space left on device"):
        train(Parallel(), path, resume=True)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["state"]


def test_the_file_says_where_the_training_is_and_holds_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "state"
    stopped(path, 5)
    with safe_open(path, framework="pt") as handle:
        names = list(handle.keys())
        record = json.loads(handle.get_tensor(RECORD).numpy().tobytes())
    assert record["identity"] == "this one" and record["progress"]["update"] == 4
    trainer: Trainer = toy_trainer(Parallel())
    state, count = len(trainer.state()), len(trainer.parameters)
    assert len(names) == 2 * state + 3 * count + 1  # now, best, three moments of AdamW
    assert all("idle" not in name and "sides.0.bias" not in name for name in names)
