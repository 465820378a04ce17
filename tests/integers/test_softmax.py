"""Softmax on integers against float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from asrcompress.integers.grid import Grid
from asrcompress.integers.softmax import LOWEST, exponentials, softmax, softmax_sum
from tests.fixtures.static import activation, floats, inside


@pytest.mark.parametrize("scale", [2.0**-14, 1e-3, 0.01, 0.3, 5.0])
def test_exponentials_of_every_difference_of_codes(scale):
    scores = -torch.arange(65536)
    found = exponentials(scores, scale) / 2**15
    wanted = (scores.double() * scale).exp()
    assert (found - wanted).abs().max() <= 2 * 2**-15
    large = wanted > 1e-2
    assert ((found - wanted).abs() / wanted)[large].max() <= 5e-3
    assert found[0] == 1


def test_masked_scores_are_zero_and_shift_nothing():
    scores = torch.tensor([[LOWEST, 3, 5], [LOWEST, LOWEST, LOWEST]])
    found = exponentials(scores, 0.1)
    assert found[0, 0] == 0
    assert found[0, 2] == 2**15
    assert found[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("dim", [-1, 0, 1])
@pytest.mark.parametrize("spread", [0.001, 1.0, 30.0])
def test_softmax_is_within_two_units_and_adds_up(dim, spread):
    torch.manual_seed(0)
    grid = Grid(spread * 4 / 32767, 0, 16)
    x = activation((torch.randn(7, 5, 11) * spread / grid.scale).clamp(-32767, 32767), grid, inside())
    for found in (torch.softmax(x, dim), F.softmax(x, dim=dim), x.softmax(dim)):
        wanted = torch.softmax(floats(x), dim)
        assert (floats(found) - wanted).abs().max() <= 5 * 2**-15
        assert (floats(found).sum(dim) - 1).abs().max() <= 12 * 2**-15


def test_a_row_of_one_and_equal_rows():
    x = activation([[7], [-7]], Grid(1.0, 0, 8), inside())
    assert softmax(x).payload.tolist() == [[32767], [32767]]
    equal = activation(torch.full((1, 10_000), 3), Grid(1.0, 0, 8), inside())
    assert set(softmax(equal).payload.flatten().tolist()) == {3}  # 2^15 / 10000, rounded


@pytest.mark.parametrize("keys", [1, 2, 50, 10_000])
@pytest.mark.parametrize("spread", [0.01, 2.0, 20.0])
def test_weighted_sums_are_within_what_eight_bit_weights_leave(keys, spread):
    torch.manual_seed(0)
    scale, value_scale = spread * 5 / 32767, 1 / 127
    scores = (torch.randn(2, 3, keys) * spread / scale).round().to(torch.int64)
    scores[0, :, keys // 2 + 1 :] = LOWEST
    values = torch.randint(-127, 128, (2, keys, 8), dtype=torch.int8)
    grid = Grid(2 / 32767, 0, 16)
    found = softmax_sum(scores, scale, values, value_scale, grid).double() * grid.scale
    logits = torch.where(scores == LOWEST, -math.inf, scores.double() * scale)
    weights = torch.softmax(logits, -1)
    wanted = weights @ (values.double() * value_scale)
    # Each weight is off by up to half a unit of the largest over 127, before and after division by their sum.
    bound = weights.amax(-1, keepdim=True) * keys / 127 * 1.1 + grid.scale
    assert ((found - wanted).abs() <= bound).all()
    assert (found - wanted).abs().max() < 0.08


def test_ten_thousand_saturated_values_do_not_overflow():
    values = torch.full((1, 10_000, 2), 127, dtype=torch.int8)
    values[..., 1] = -127
    found = softmax_sum(torch.zeros(1, 1, 10_000, dtype=torch.int64), 1.0, values, 1.0, Grid(127 / 32767, 0, 16))
    assert found.flatten().tolist() == [32767, -32767]


def test_a_row_without_keys_gives_zero():
    values = torch.full((1, 3, 2), 127, dtype=torch.int8)
    found = softmax_sum(torch.full((1, 2, 3), LOWEST), 1.0, values, 1.0, Grid(1.0, 0, 16))
    assert found.flatten().tolist() == [0, 0, 0, 0]
