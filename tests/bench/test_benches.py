"""What the benches rest on: the encoders that are compared are one encoder, their MACs are counted, parts sum up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from tests.bench import encoder_models, rounds
from tests.bench.bench_encoder import COMPILED, FEW, WHOLE, contestants
from tests.bench.bench_eval import Stopwatch
from tests.bench.encoder_contestants import CONTESTANTS, Case

DIM, FRAMES = 64, 9


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_models.write_checkpoint(tmp_path_factory.mktemp("encoder"), DIM, layers=2)


@pytest.mark.parametrize("part", ["layers", "whole"])
def test_the_plain_encoder_is_fairseqs(checkpoint: Path, tmp_path: Path, part: str) -> None:
    case = Case(checkpoint, tmp_path, encoder_models.inputs(DIM, 2, FRAMES, part), part)
    with torch.no_grad():
        torch.testing.assert_close(case.plain()(case.x), case.fairseq()(case.x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ours", "torch", "torch-int8"])
def test_contestants_compute_the_same_encoder(checkpoint: Path, tmp_path: Path, name: str) -> None:
    case = Case(checkpoint, tmp_path, encoder_models.inputs(DIM, 1, FRAMES, "layers"), "layers")
    out, truth = CONTESTANTS[name][1](case)(), CONTESTANTS["fairseq"][1](case)()
    assert out.shape == truth.shape == (1, FRAMES, DIM)
    assert float((out - truth).norm() / truth.norm()) < 0.03


@pytest.mark.parametrize("part", ["layers", "whole"])
def test_macs_are_those_of_all_products(checkpoint: Path, tmp_path: Path, part: str) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    x = encoder_models.inputs(DIM, 2, FRAMES, part)
    plain = Case(checkpoint, tmp_path, x, part).plain()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused attention is not counted
        plain(x)
    assert counter.get_total_flops() == 2 * encoder_models.count_macs(DIM, 2, FRAMES, part, layers=2)


def test_every_contestant_is_known() -> None:
    assert {*FEW, *WHOLE, *COMPILED} <= set(CONTESTANTS)
    for part, dim, batch in [("layers", 256, 1), ("layers", 512, 8), ("whole", 512, 1)]:
        assert {"ours", "torch", "ort", "ort-int8"} <= set(contestants(part, dim, batch)) <= set(CONTESTANTS)


def test_time_inside_a_part_counts_for_it_alone() -> None:
    watch = Stopwatch()

    def work(seconds: float) -> None:
        begin = time.process_time()
        while time.process_time() - begin < seconds:
            pass

    inner = watch.wrap("inner", lambda: work(0.06))

    def both() -> None:
        inner()
        work(0.02)

    begin = time.process_time()
    watch.wrap("outer", both)()
    took = time.process_time() - begin
    assert sum(watch.parts.values()) == pytest.approx(took, rel=0.05)
    assert watch.parts["outer"] < 0.05 < watch.parts["inner"]


def test_speed_is_the_median_of_ratios_within_rounds() -> None:
    base, own = rounds.Times(cpu_s=[2.0, 20.0, 3.0]), rounds.Times(cpu_s=[1.0, 5.0, 1.0])
    assert rounds.speed_ratio({"base": base, "own": own}, "own", "base") == 3.0
    assert rounds.speed_ratio({"own": own}, "own", "base") is None


def test_contestants_take_turns_and_the_first_round_does_not_count() -> None:
    said: list[str] = []
    times = rounds.interleave({"a": lambda: said.append("a"), "b": lambda: said.append("b")}, rounds=2)
    assert "".join(said) == "ababab"
    assert all(len(found.cpu_s) == len(found.wall_s) == 2 for found in times.values())
