"""IntegerLinear and IntegerEmbedding: what they compute, against the float modules and int64 arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from asrcompress.grids import Granularity
from asrcompress.metrics.cost import count_macs
from asrcompress.modules.linear import IntegerEmbedding, IntegerLinear
from asrcompress.modules.weight import IntegerWeight
from asrcompress.quantizers.rtn import SUPPORTED_BITS, quantize

GRANULARITIES = ["per_tensor", "per_channel", "per_group:1", "per_group:8"]
every_grid = pytest.mark.parametrize(
    ("num_bits", "granularity"), [(b, g) for b in SUPPORTED_BITS for g in GRANULARITIES]
)


def packed(weight, num_bits=8, granularity="per_channel"):
    return quantize(weight, num_bits=num_bits, granularity=Granularity.parse(granularity))


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(24, 10)


@every_grid
def test_stored_is_the_float_layer_with_the_dequantized_weight(layer, num_bits, granularity):
    weight = packed(layer.weight, num_bits, granularity)
    x = torch.randn(2, 5, 24)
    out = IntegerLinear(IntegerWeight(weight), layer.bias)(x)
    torch.testing.assert_close(out, F.linear(x, weight.dequantize(), layer.bias), rtol=1e-5, atol=1e-5)


@every_grid
def test_computed_is_what_int64_arithmetic_gives(layer, num_bits, granularity):
    weight = packed(layer.weight, num_bits, granularity)
    x = torch.randn(7, 24)
    out = IntegerLinear(IntegerWeight(weight), layer.bias, activations="int8")(x)

    token_scale = np.abs(x.numpy()).max(axis=1, keepdims=True) / np.float32(127)
    tokens = np.rint(x.numpy() / token_scale).astype(np.int64)
    codes, scale = weight.codes.numpy().astype(np.int64), weight.scale.numpy().astype(np.float64)
    groups = scale.shape[1]
    sums = np.einsum("tgc,ogc->tog", tokens.reshape(7, groups, -1), codes.reshape(10, groups, -1))
    expected = (sums * scale).sum(axis=2) * token_scale + layer.bias.detach().numpy()
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5, atol=1e-5)


@every_grid
def test_computed_is_within_half_a_token_step_of_stored(layer, num_bits, granularity):
    weight = packed(layer.weight, num_bits, granularity)
    x = torch.randn(50, 24) * torch.randn(50, 1).exp()
    stored, computed = (IntegerLinear(IntegerWeight(weight), layer.bias, activations=a)(x) for a in ("none", "int8"))
    bound = 0.5 * (x.abs().amax(dim=1, keepdim=True) / 127) * weight.dequantize().abs().sum(dim=1)
    assert ((stored - computed).abs() <= bound * 1.001 + 1e-5).all()


def test_a_token_does_not_see_its_neighbours(layer):
    module = IntegerLinear(IntegerWeight(packed(layer.weight)), layer.bias, activations="int8")
    x = torch.randn(2, 6, 24)
    loud = x.clone()
    loud[1] *= 1e4
    loud[0, 3:] = 0
    assert torch.equal(module(x)[0, :3], module(loud)[0, :3])
    assert torch.equal(module(x)[0, 2], module(x[0, 2]))


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_computed_multiplies_no_floats_and_as_many_as_the_float_layer(layer, granularity):
    module = IntegerLinear(IntegerWeight(packed(layer.weight, 4, granularity)), layer.bias, activations="int8")
    count = count_macs(module, lambda: module(torch.randn(3, 24)))
    assert {dtype for record in count.records for dtype in record.operand_dtypes} <= {"int8", "int32"}
    assert count.total == 3 * 24 * 10


@pytest.mark.parametrize("activations", ["none", "int8"])
def test_no_bias_and_no_tokens(layer, activations):
    module = IntegerLinear(IntegerWeight(packed(layer.weight)), None, activations=activations)
    assert not module(torch.zeros(4, 24)).any()
    assert module(torch.zeros(0, 24)).shape == (0, 10)


def test_nothing_is_there_to_reach_past_forward(layer):
    # Code that takes `.weight` must fail rather than compute in float.
    module = IntegerLinear(IntegerWeight(packed(layer.weight)), layer.bias)
    assert not hasattr(module, "weight")
    assert not any(parameter.dim() > 1 for parameter in module.parameters())


def test_a_nan_input_is_a_nan_output(layer):
    module = IntegerLinear(IntegerWeight(packed(layer.weight)), layer.bias, activations="int8")
    x = torch.randn(2, 24)
    x[0, 5] = float("nan")
    assert not torch.isfinite(module(x)[0]).any()
    assert torch.isfinite(module(x)[1]).all()


def test_unknown_activations_are_a_bug(layer):
    with pytest.raises(ValueError, match="int4"):
        IntegerLinear(IntegerWeight(packed(layer.weight)), None, activations="int4")


@every_grid
def test_embedding_looks_up_rows_of_the_dequantized_weight(num_bits, granularity):
    torch.manual_seed(1)
    weight = packed(torch.randn(11, 16), num_bits, granularity)
    module = IntegerEmbedding(IntegerWeight(weight), padding_idx=1)
    index = torch.tensor([[0, 10, 3], [3, 1, 1]])
    assert torch.equal(module(index), weight.dequantize()[index])
    assert module(torch.zeros(0, 2, dtype=torch.long)).shape == (0, 2, 16)
    assert (module.num_embeddings, module.embedding_dim, module.padding_idx) == (11, 16, 1)


def test_embedding_refuses_rows_it_does_not_have():
    module = IntegerEmbedding(IntegerWeight(packed(torch.randn(4, 8))), padding_idx=None)
    with pytest.raises(IndexError):
        module(torch.tensor([4]))


def test_embedding_does_no_macs():
    module = IntegerEmbedding(IntegerWeight(packed(torch.randn(4, 8))), padding_idx=None)
    assert count_macs(module, lambda: module(torch.tensor([3]))).total == 0
