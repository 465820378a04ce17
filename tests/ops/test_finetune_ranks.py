"""Fine-tuning of the samples on two ranks, whole and split: what one rank makes, up to the order in which floats are summed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from asrcompress.ops.finetune import Finetuned, Speech, finetune
from asrcompress.ops.finetune_config import FinetuneConfig
from asrcompress.ops.finetune_data import read_training_set
from asrcompress.ops.finetune_dev import DevelopmentSet
from asrcompress.ops.load import open_source
from asrcompress.ops.probe_data import read_probe_data
from asrcompress.ops.quantize import quantize_source
from asrcompress.ops.recipe import QuantizeConfig
from asrcompress.training.parallel import Parallel
from asrcompress.training.state import TrainingState
from asrcompress.training.trainer import Progress
from tests.conftest import ROOT
from tests.fixtures.ranks import run_ranks

ASR, KEYWORDS = ROOT / "samples" / "asr", ROOT / "samples" / "kws"
# How far a scale may be from what one rank makes of it, of the largest; and a float, in learning rate x updates, which is as far
# as training can take it. Measured: 0 and 3e-6.
TOLERANCE = 1e-3
# Biases that softmax makes nothing of: their gradient is 0 but for rounding, which Adam blows up to a step of any direction.
WITHOUT_GRADIENT = ("k_proj.bias", "attention.energy.2.bias")


@cache
def job(kind: str) -> tuple[Any, Any, Speech]:
    """(source, content, speech) of a sample."""
    torch.set_num_threads(1)
    if kind == "asr":
        source = open_source(ASR / "checkpoint_best.pt")
        content = quantize_source(source, QuantizeConfig(num_bits=4, pattern="2:4"))
        train = read_training_set(source, ASR / "dev.tsv", limit=7)
        dev = DevelopmentSet(read_probe_data(source, ASR / "test.tsv", limit=5), batch_size=2)
        return source, content, Speech(train, dev)
    source = open_source(KEYWORDS / "crnn_computer.pt")
    content = quantize_source(source, QuantizeConfig(num_bits=4, exclude=("conv*",)))
    clips = KEYWORDS / "manifest.tsv"
    train = read_training_set(source, clips, split="dev", keyword="computer", limit=9)
    data = read_probe_data(source, clips, split="test", keyword="computer", limit=20)
    return source, content, Speech(train, DevelopmentSet(data, batch_size=8))


def run(kind: str, parallel: Parallel, **given: Any) -> Finetuned:
    source, content, speech = job(kind)
    # The last batch is smaller than two ranks; masks are chosen anew.
    options = {"epochs": 2.0, "learning_rate": 1e-3, "mask_schedule": "every-step" if kind == "asr" else "one-shot"}
    config = FinetuneConfig(batch_size={"asr": 3, "kws": 4}[kind], **options)
    return finetune(source, content, config, speech, parallel=parallel, **given)


def plain(tuned: Finetuned) -> dict[str, Any]:
    content = tuned.content
    return {
        "codes": {name: weight.codes for name, weight in content.quantized.items()},
        "scales": {name: weight.scale for name, weight in content.quantized.items()},
        "floats": {name: torch.as_tensor(value) for name, value in content.floats.items()},
        "history": tuned.record["history"],
        "idle": tuned.record["not_trained"],
    }


def same_bits(one: dict[str, Any], other: dict[str, Any]) -> bool:
    tensors = all(
        torch.equal(value, other[part][name])
        for part in ("codes", "scales", "floats")
        for name, value in one[part].items()
    )
    return tensors and one["history"] == other["history"]


@pytest.fixture(scope="module", params=["asr", "kws"])
def alone(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return request.param, plain(run(request.param, Parallel()))


@pytest.mark.parametrize("is_sharded", [False, True], ids=["data", "sharded"])
def test_two_ranks_make_what_one_makes(
    alone: tuple[str, dict[str, Any]], is_sharded: bool, record_property: Callable[..., None]
) -> None:
    kind, expected = alone
    first, second = run_ranks(2, lambda parallel: plain(run(kind, parallel)), is_sharded=is_sharded)
    assert same_bits(first, second)  # both hold the whole result
    total = sum(codes.numel() for codes in expected["codes"].values())
    equal = sum(int((codes == first["codes"][name]).sum()) for name, codes in expected["codes"].items())
    step = 1e-3 * expected["history"][-1]["update"]
    worst = {
        part: max(
            float((value.float() - first[part][name].float()).abs().max()) / (step if part == "floats" else value.abs().max())
            for name, value in expected[part].items()
            if not name.endswith(WITHOUT_GRADIENT)
        )
        for part in ("scales", "floats")
    }  # fmt: skip
    print(f"{kind}, sharded={is_sharded}: {equal} of {total} codes equal; {worst}")
    assert equal >= total * 0.9999
    assert max(worst.values()) < TOLERANCE
    for line, other in zip(expected["history"], first["history"], strict=True):
        assert line["metric"] == other["metric"]
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-4)
    assert first["idle"] == expected["idle"]


def test_training_changes_codes_scales_floats_and_masks(alone: tuple[str, dict[str, Any]]) -> None:
    """Else the test above compares nothing."""
    kind, expected = alone
    _, content, _ = job(kind)
    for part, before in (
        ("codes", {name: weight.codes for name, weight in content.quantized.items()}),
        ("scales", {name: weight.scale for name, weight in content.quantized.items()}),
        ("floats", content.floats),
    ):
        assert any(not torch.equal(torch.as_tensor(before[name]), value) for name, value in expected[part].items()), (
            part
        )


def test_killed_in_an_update_it_goes_on_to_the_same_bits(alone: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    kind, expected = alone
    path = tmp_path / "model.training.safetensors"

    def killed(parallel: Parallel) -> None:
        def kill(progress: Progress, total: int) -> None:
            if progress.update == 5:
                os.kill(os.getpid(), signal.SIGKILL)

        run(kind, parallel, state=TrainingState(path, "one"), on_update=kill)

    assert run_ranks(1, killed) == [-signal.SIGKILL]
    begun = []
    state = TrainingState(path, "one", resume=True)
    found = plain(run(kind, Parallel(), state=state, on_update=lambda progress, total: begun.append(progress.update)))
    assert begun[0] == 4  # the update after the last evaluation
    assert same_bits(expected, found)


def test_what_two_ranks_began_one_goes_on_with(tmp_path: Path) -> None:
    kind = "kws"
    expected = plain(run(kind, Parallel()))
    path = tmp_path / "model.training.safetensors"

    def killed(parallel: Parallel) -> None:
        def kill(progress: Progress, total: int) -> None:
            if progress.update == 4:
                os.kill(os.getpid(), signal.SIGKILL)

        run(kind, parallel, state=TrainingState(path, "one"), on_update=kill)

    assert run_ranks(2, killed, is_sharded=True) == [-signal.SIGKILL] * 2
    begun = []
    state = TrainingState(path, "one", resume=True)
    found = plain(run(kind, Parallel(), state=state, on_update=lambda progress, total: begun.append(progress.update)))
    assert begun[0] == 4
    assert found["history"][-1]["metric"] == expected["history"][-1]["metric"]
    assert found["history"][-1]["loss"] == pytest.approx(expected["history"][-1]["loss"], rel=1e-4)
