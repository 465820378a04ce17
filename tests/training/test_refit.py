"""Scales that are found anew while training: of least squared error for the weights as they are."""

from __future__ import annotations

import pytest
import torch

from asrcompress.grids import Granularity, QuantizedWeight
from asrcompress.patterns import keep_largest
from asrcompress.quantizers import get_quantizer
from asrcompress.training.grid import TrainedWeight
from asrcompress.training.parallel import Parallel
from asrcompress.training.schedule import MaskSchedule
from asrcompress.training.trainer import Trainer, TrainerConfig

GRANULARITIES = ("per_channel", "per_tensor", "per_group:8")


def make(method: str, num_bits: int, granularity: str, seed: int = 0) -> tuple[torch.Tensor, QuantizedWeight]:
    weight = torch.randn(6, 32, generator=torch.Generator().manual_seed(seed))
    return weight, get_quantizer(method)(weight, num_bits=num_bits, granularity=Granularity.parse(granularity))


def trained(packed: QuantizedWeight, mask: torch.Tensor | None = None) -> TrainedWeight:
    return TrainedWeight(
        mask=mask, scale=packed.scale, num_bits=packed.num_bits, zero_point=packed.zero_point, is_learned=False
    )


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(("method", "num_bits"), [("rtn", 4), ("rtn", 2), ("asymmetric", 3), ("binary", 1)])
def test_no_scale_nearby_is_better(method: str, num_bits: int, granularity: str) -> None:
    weight, packed = make(method, num_bits, granularity)
    moved = weight * torch.linspace(0.3, 3, 6)[:, None]
    module = trained(packed)
    module.refit(moved)

    def error(factor: float) -> float:
        kept = module.scale.clone()
        module.scale.mul_(factor)
        found = float((module(moved) - moved).square().sum())
        module.scale.copy_(kept)
        return found

    best = error(1.0)
    assert best < float((trained(packed)(moved) - moved).square().sum())
    assert all(best <= error(factor) * (1 + 1e-3) for factor in (0.8, 0.9, 0.95, 1.05, 1.1, 1.25))


def test_it_is_what_method_mse_finds() -> None:
    weight, packed = make("rtn", 3, "per_channel")
    module = trained(packed)
    module.refit(weight)
    expected = get_quantizer("mse")(weight, num_bits=3, granularity=Granularity.parse("per_channel"))
    assert float((module(weight) - weight).square().sum()) == pytest.approx(
        float((expected.dequantize() - weight).square().sum()), rel=1e-3
    )


def test_dropped_weights_have_no_say() -> None:
    weight, packed = make("rtn", 4, "per_channel")
    mask = keep_largest(-weight.abs(), 2, 4)  # the small ones are kept
    module = trained(packed, mask)
    module.refit(weight)
    alone = trained(packed, mask)
    alone.refit(torch.where(mask, weight, 1000.0))
    assert torch.equal(module.scale, alone.scale)
    assert float(module.scale.max()) < float(packed.scale.float().max())


def test_a_learned_scale_is_left_alone() -> None:
    _, packed = make("rtn", 4, "per_channel")
    module = TrainedWeight(scale=packed.scale, num_bits=4)
    with pytest.raises(ValueError, match="no scale"):
        module.refit(torch.randn(6, 32))


class Line(torch.nn.Module):
    """A weight that is pulled to three times its start."""

    def __init__(self, weight: torch.Tensor, stored: TrainedWeight) -> None:
        super().__init__()
        self.weight, self.stored, self._target = torch.nn.Parameter(weight.clone()), stored, 3 * weight

    def forward(self, positions: list[int], share: float, update: int = 0) -> torch.Tensor:
        return share * len(positions) * (self.stored(self.weight) - self._target).square().sum()


@pytest.mark.parametrize("refit_every", [0, 4])
def test_the_loop_finds_scales_and_goes_back_to_those_of_the_best(refit_every: int) -> None:
    weight, packed = make("rtn", 4, "per_channel")
    module = trained(packed)
    config = TrainerConfig(
        num_updates=12, batch_size=2, learning_rate=0.2, warmup=0, eval_every=4, refit_every=refit_every, masks=MaskSchedule()
    )  # fmt: skip
    learner = Line(weight, module)
    trainer = Trainer(
        learner, {"w": (module, "weight")}, {}, lengths=[5] * 6, tokens=[1] * 6, config=config, parallel=Parallel()
    )
    scales, metrics = [], iter([4.0, 3.0, 1.0, 2.0])

    def evaluate() -> tuple[float, float]:
        scales.append(module.scale.clone())
        return next(metrics), 0.0

    trainer.run(evaluate)
    assert torch.equal(module.scale, scales[2])
    assert (not torch.equal(scales[0], scales[2])) == bool(refit_every)
    assert torch.equal(scales[2], scales[3]) != bool(refit_every)
