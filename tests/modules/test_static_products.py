"""Linear, convolutions and lookups on static grids against the float modules with the dequantized weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from asrcompress.grids import Granularity
from asrcompress.quantizers.rtn import quantize
from tests.fixtures.static import Sole, grid_of, require_integers, static_of, static_pair

GRANULARITIES = ["per_tensor", "per_channel", "per_group:4"]


def close(found, wanted, grid, slack):
    """Within a code of the result, and what rounding the input to its grid may move."""
    assert found.shape == wanted.shape
    assert found.numel() == 0 or (found.double() - wanted.double()).abs().max() <= 1.01 * grid.scale + slack


def input_error(model, rows, *, sites=("in",)):
    """How far half a code of the input moves a sum: rows (outputs, columns) of the float weight."""
    return sum(0.51 * grid_of(model, kind).scale for kind in sites) * float(rows.abs().sum(1).max())


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("num_bits", [8, 4, 2, 1])
@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(granularity, num_bits, shift, bias):
    torch.manual_seed(0)
    x = torch.randn(3, 5, 24) + shift  # a range that is not symmetric: the grid has a zero point
    float_model, model = static_pair(
        nn.Linear(24, 10, bias=bias), lambda m: m(x), num_bits=num_bits, granularity=granularity
    )
    assert (grid_of(model, "in").zero_point < -40) == (shift == 3)
    slack = input_error(model, float_model.inner.weight)
    close(model(x), float_model(x), grid_of(model, "out"), slack)
    close(model(x[:0]), float_model(x[:0]), grid_of(model, "out"), 0)
    close(model(x[:, :0]), float_model(x[:, :0]), grid_of(model, "out"), 0)
    close(model(x.half().transpose(0, 1)), float_model(x).transpose(0, 1), grid_of(model, "out"), slack + 0.02)
    assert torch.equal(model(x.double()), model(x))
    require_integers(model, lambda m: m(x))


def test_linear_of_rows_that_are_zero():
    layer = nn.Linear(8, 3)
    layer.weight.data[1] = 0
    layer.bias.data = torch.tensor([0.5, -0.25, 1.0])
    x = torch.randn(4, 8)
    for num_bits in (1, 2, 8):
        _, model = static_pair(layer, lambda m: m(x), num_bits=num_bits)
        assert (model(x)[:, 1] + 0.25).abs().max() <= 0.51 * grid_of(model, "out").scale


def test_linear_all_of_zeros_and_silence():
    layer = nn.Linear(8, 3, bias=False)
    layer.weight.data.zero_()
    x = torch.randn(4, 8)
    _, model = static_pair(layer, lambda m: m(x))
    assert torch.equal(model(x), torch.zeros(4, 3))
    _, model = static_pair(
        nn.Linear(8, 3), lambda m: m(torch.zeros(2, 8))
    )  # calibrated on silence: inputs saturate at 0
    assert (model(x) - model(torch.zeros(4, 8))).abs().max() == 0


def test_linear_with_zero_points_of_several_groups():
    torch.manual_seed(0)
    model = Sole(nn.Linear(8, 3))
    packed = dataclasses.replace(
        quantize(model.inner.weight.detach(), num_bits=8, granularity=Granularity.parse("per_group:4")),
        codes=torch.randint(-128, 128, (3, 8), dtype=torch.int8),
        zero_point=torch.tensor([[5, -9], [100, 0], [-128, 127]], dtype=torch.int8),
    )
    x = torch.randn(6, 8) - 1
    float_model, static = static_of(model, {"inner.weight": packed}, lambda m: m(x))
    close(static(x), float_model(x), grid_of(static, "out"), input_error(static, float_model.inner.weight))
    require_integers(static, lambda m: m(x))


CONVS = {
    "1d": (nn.Conv1d, {"padding": 1}), "stride": (nn.Conv1d, {"stride": 2, "padding": 2}),
    "dilation": (nn.Conv1d, {"dilation": 2, "padding": "same"}),
    "groups": (nn.Conv1d, {"groups": 4, "padding": 1}), "depthwise": (nn.Conv1d, {"groups": 8, "padding": 1}),
    "reflect": (nn.Conv1d, {"padding": 2, "padding_mode": "reflect"}),
    "replicate": (nn.Conv1d, {"padding": 2, "padding_mode": "replicate"}), "no bias": (nn.Conv1d, {"bias": False}),
    "2d": (nn.Conv2d, {"padding": (1, 0), "stride": (2, 1)}),
    "2d groups": (nn.Conv2d, {"groups": 2, "padding": 1, "dilation": (1, 2)}),
    "2d circular": (nn.Conv2d, {"padding": 1, "padding_mode": "circular"}),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), CONVS.values(), ids=list(CONVS))
@pytest.mark.parametrize("granularity", GRANULARITIES[:2])
@pytest.mark.parametrize("shift", [0, 2])
def test_convolutions(kind, options, granularity, shift):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 13, *([9] if kind is nn.Conv2d else [])) + shift
    float_model, model = static_pair(kind(8, 8, 3, **options), lambda m: m(x), granularity=granularity)
    slack = input_error(model, float_model.inner.weight.flatten(1))
    close(model(x), float_model(x), grid_of(model, "out"), slack)
    close(model(x.transpose(1, 2).contiguous().transpose(1, 2)), float_model(x), grid_of(model, "out"), slack)
    if kind is nn.Conv1d and "mode" not in str(options):
        close(model(x[:0]), float_model(x[:0]), grid_of(model, "out"), 0)
    require_integers(model, lambda m: m(x))


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel", "per_group:8"])
@pytest.mark.parametrize("num_bits", [8, 1])
def test_embeddings_are_within_half_a_code(granularity, num_bits):
    torch.manual_seed(0)
    table = nn.Embedding(20, 16, padding_idx=1)
    index = torch.tensor([[0, 5, 19], [1, 1, 3]])
    float_model, model = static_pair(
        table, lambda m: m(torch.arange(20)[None]), num_bits=num_bits, granularity=granularity
    )
    close(model(index), float_model(index), grid_of(model, "out"), -0.5 * grid_of(model, "out").scale)
    assert model(index[:, :0]).shape == (2, 0, 16)
    require_integers(model, lambda m: m(index))
