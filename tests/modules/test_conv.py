"""IntegerConv against torch's convolutions, over every option it takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asrcompress.grids import Granularity
from asrcompress.metrics.cost import count_macs
from asrcompress.modules.conv import IntegerConv
from asrcompress.modules.weight import IntegerWeight
from asrcompress.quantizers.rtn import quantize

CASES = {
    "plain": (nn.Conv1d, {"kernel_size": 3}),
    "stride": (nn.Conv1d, {"kernel_size": 5, "stride": 2, "padding": 2}),
    "dilation": (nn.Conv1d, {"kernel_size": 3, "dilation": 3, "padding": 1}),
    "same": (nn.Conv1d, {"kernel_size": 4, "padding": "same", "dilation": 2}),
    "valid": (nn.Conv1d, {"kernel_size": 4, "padding": "valid"}),
    "groups": (nn.Conv1d, {"kernel_size": 3, "groups": 2, "stride": 3}),
    "depthwise": (nn.Conv1d, {"kernel_size": 3, "groups": 4}),
    "one": (nn.Conv1d, {"kernel_size": 1}),
    "one-depthwise": (nn.Conv1d, {"kernel_size": 1, "groups": 4}),
    "reflect": (nn.Conv1d, {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"}),
    "circular": (nn.Conv1d, {"kernel_size": 3, "padding": 2, "padding_mode": "circular"}),
    "plain-2d": (nn.Conv2d, {"kernel_size": (2, 3)}),
    "uneven-2d": (nn.Conv2d, {"kernel_size": (3, 5), "stride": (2, 3), "padding": (1, 2)}),
    "dilation-2d": (nn.Conv2d, {"kernel_size": (2, 3), "dilation": (3, 2), "padding": (0, 1)}),
    "same-2d": (nn.Conv2d, {"kernel_size": (2, 3), "padding": "same", "dilation": (1, 2)}),
    "groups-2d": (nn.Conv2d, {"kernel_size": (3, 2), "groups": 4, "stride": (1, 2), "padding": 1}),
    "no-bias-2d": (nn.Conv2d, {"kernel_size": 3, "bias": False}),
}


def make(case, num_bits=8, granularity="per_channel"):
    """The float convolution with the dequantized weight, the packed weight and an input (batch of 3)."""
    torch.manual_seed(0)
    kind, options = CASES[case]
    conv = kind(4, 8, **options).requires_grad_(False)
    weight = quantize(conv.weight, num_bits=num_bits, granularity=Granularity.parse(granularity))
    conv.weight.copy_(weight.dequantize())
    x = torch.randn(3, 4, 17) if kind is nn.Conv1d else torch.randn(3, 4, 11, 13)
    return conv, weight, x


@pytest.mark.parametrize("case", CASES)
def test_stored_is_the_float_convolution_with_the_dequantized_weight(case):
    conv, weight, x = make(case, 4)
    torch.testing.assert_close(IntegerConv(conv, IntegerWeight(weight))(x), conv(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_computed_is_within_half_a_step_of_its_patches(case, granularity):
    conv, weight, x = make(case, 8, granularity)
    out = IntegerConv(conv, IntegerWeight(weight), activations="int8")(x)
    # No patch holds a larger magnitude than the whole input of its item.
    step = x.flatten(1).abs().amax(dim=1) / 127
    bound = 0.5 * step[:, None] * weight.dequantize().flatten(1).abs().sum(dim=1)
    error = (out - conv(x)).flatten(2).abs()
    assert out.shape == conv(x).shape
    assert (error <= bound[:, :, None] * 1.001 + 1e-5).all()


@pytest.mark.parametrize("case", CASES)
def test_computed_is_exact_where_the_input_lies_on_the_grid(case):
    # Inputs of -127, 0 and 127 have step 1 in every patch that is not all zeros: no rounding is left.
    conv, weight, x = make(case, 8)
    x = 127.0 * torch.randint(-1, 2, x.shape, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        IntegerConv(conv, IntegerWeight(weight), activations="int8")(x), conv(x), rtol=1e-5, atol=1e-3
    )


@pytest.mark.parametrize("case", ["plain", "uneven-2d"])
def test_scales_by_group_of_inputs(case):
    conv, weight, x = make(case, 8, "per_group:2" if case == "plain" else "per_group:15")
    for activations, tolerance in (("none", 1e-5), ("int8", 0.05)):
        torch.testing.assert_close(
            IntegerConv(conv, IntegerWeight(weight), activations=activations)(x), conv(x), rtol=0, atol=tolerance
        )


@pytest.mark.parametrize("case", CASES)
def test_computed_multiplies_no_floats(case):
    conv, weight, x = make(case)
    module = IntegerConv(conv, IntegerWeight(weight), activations="int8")
    count, expected = count_macs(module, lambda: module(x)), count_macs(conv, lambda: conv(x)).total
    assert {dtype for record in count.records for dtype in record.operand_dtypes} <= {"int8", "int32"}
    assert count.total == expected


def test_an_output_does_not_see_what_is_outside_its_window_or_item():
    conv, weight, x = make("stride")
    module = IntegerConv(conv, IntegerWeight(weight), activations="int8")
    loud = x.clone()
    loud[1:] *= 1e4
    loud[0, :, 12:] = 1e4
    assert torch.equal(module(loud)[0, :, :5], module(x)[0, :, :5])
    assert torch.equal(module(x[:1]), module(x)[:1])
