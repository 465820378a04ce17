"""Packed weights with zero points and of one bit, inside modules: integers and floats agree."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from asrcompress.grids import Granularity, QuantizedWeight
from asrcompress.modules.swap import swap
from asrcompress.modules.weight import IntegerWeight
from asrcompress.quantizers import get_quantizer

CASES = [("asymmetric", 8), ("asymmetric", 4), ("asymmetric", 2), ("binary", 1)]
GRANULARITIES = ["per_tensor", "per_channel", "per_group:4"]
every_case = pytest.mark.parametrize(
    ("method", "num_bits", "granularity"), [(m, b, g) for m, b in CASES for g in GRANULARITIES]
)


def packed_weight(method, num_bits, granularity, shape=(6, 12)) -> QuantizedWeight:
    weight = torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 0.2
    packed = get_quantizer(method)(weight, num_bits=num_bits, granularity=Granularity.parse(granularity))
    assert (packed.zero_point is not None and bool(packed.zero_point.any())) == (method == "asymmetric")
    return packed


@every_case
def test_integer_products_are_exact_for_activations_on_the_grid(method, num_bits, granularity):
    packed = packed_weight(method, num_bits, granularity)
    x = torch.randint(-127, 128, (9, 12), generator=torch.Generator().manual_seed(1)).float()
    x[:, 0] = 127  # so that the scale of every token is 1
    weight = IntegerWeight(packed)
    expected = (x.double() @ packed.dequantize().double().t()).float()
    torch.testing.assert_close(weight.integer_product(x), expected, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(weight.integer_product(x, rows=slice(2, 5)), expected[:, 2:5], rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(weight.product(x, "none"), expected, rtol=1e-5, atol=1e-3)


@every_case
def test_rows_are_those_of_the_dequantized_weight(method, num_bits, granularity):
    packed = packed_weight(method, num_bits, granularity)
    index = torch.tensor([[5, 0], [3, 3]])
    assert torch.equal(IntegerWeight(packed).rows(index), packed.dequantize()[index])


@every_case
def test_a_grouped_convolution_takes_its_own_zero_points(method, num_bits, granularity):
    conv = nn.Conv1d(8, 6, 3, groups=2)
    packed = packed_weight(method, num_bits, granularity, (6, 4, 3))
    x = torch.randn(2, 8, 20, generator=torch.Generator().manual_seed(2))
    stored, computed = (
        swap(nn.Sequential(copy.deepcopy(conv)), {"0.weight": packed}, activations=way)(x) for way in ("none", "int8")
    )
    expected = nn.functional.conv1d(x, packed.dequantize(), conv.bias, groups=2)
    torch.testing.assert_close(stored, expected)
    assert (computed - expected).norm() < 0.02 * expected.norm()
