"""GPTQ on least-squares grids: many options at once are what each is alone, and better than what rounds to the nearest."""

from __future__ import annotations

import pytest
import torch

from asrcompress.grids import Granularity
from asrcompress.quantizers import get_quantizer, gptq_ls
from asrcompress.quantizers.statistics import InputStatistics, output_error

PER_CHANNEL = Granularity("per_channel")
OPTIONS = [(bits, pattern) for bits in (8, 4, 3, 2) for pattern in (None, (2, 4), (1, 4), (4, 8))]


@pytest.fixture(scope="module")
def layer() -> tuple[torch.Tensor, InputStatistics]:
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(24, 160, generator=generator)
    mix = torch.randn(160, 160, generator=generator)
    statistics = InputStatistics.empty(1, 160)
    statistics.add(torch.randn(640, 160, generator=generator) @ mix / 12 + 0.2)
    return weight, statistics


def error(weight, quantized, statistics):
    return output_error(weight, quantized.dequantize(), statistics)


def test_many_options_at_once_are_what_each_is_alone(layer):
    weight, statistics = layer
    together = gptq_ls.quantize_options(weight, OPTIONS, granularity=PER_CHANNEL, statistics=statistics)
    for option, found in zip(OPTIONS, together, strict=True):
        (alone,) = gptq_ls.quantize_options(weight, [option], granularity=PER_CHANNEL, statistics=statistics)
        assert found.pattern == option[1]
        # Sums of another order may round a value that lies between two codes to the other one.
        assert (found.codes != alone.codes).float().mean() < 0.01
        assert error(weight, found, statistics) == pytest.approx(error(weight, alone, statistics), rel=0.02)


def test_every_group_keeps_what_its_pattern_says(layer):
    weight, statistics = layer
    for (_, pattern), found in zip(
        OPTIONS,
        gptq_ls.quantize_options(weight, OPTIONS, granularity=PER_CHANNEL, statistics=statistics),
        strict=True,
    ):
        if pattern:
            kept = (found.dequantize() != 0).reshape(24, -1, pattern[1]).sum(dim=-1)
            assert int(kept.max()) <= pattern[0]


def test_fewer_bits_and_sparser_patterns_cost_more(layer):
    weight, statistics = layer
    found = gptq_ls.quantize_options(weight, OPTIONS, granularity=PER_CHANNEL, statistics=statistics)
    errors = {option: error(weight, each, statistics) for option, each in zip(OPTIONS, found, strict=True)}
    for pattern in (None, (2, 4), (1, 4)):
        assert errors[8, pattern] < errors[4, pattern] < errors[3, pattern] < errors[2, pattern]
    for bits in (8, 4, 3, 2):
        assert errors[bits, None] < errors[bits, (2, 4)] < errors[bits, (1, 4)]


@pytest.mark.parametrize("num_bits", (4, 3, 2))
def test_its_output_error_is_below_that_of_gptq_on_searched_grids(layer, num_bits):
    weight, statistics = layer
    ours, theirs = (
        get_quantizer(method)(weight, num_bits=num_bits, granularity=PER_CHANNEL, statistics=statistics)
        for method in ("gptq_ls", "gptq")
    )
    assert error(weight, ours, statistics) < error(weight, theirs, statistics)


def test_the_last_scale_is_the_best_one_for_its_codes(layer):
    weight, statistics = layer
    found = get_quantizer("gptq_ls")(weight, num_bits=3, granularity=PER_CHANNEL, statistics=statistics)
    steps = found.dequantize() / found.scale.float()
    for factor in (0.98, 1.02):
        other = steps * found.scale.float() * factor
        assert output_error(weight, other, statistics) > error(weight, found, statistics)
