"""Convolutions over time by the kernels against patches by torch, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asrcompress.modules.conv import IntegerConv
from tests.kernels.conftest import packed

CASES = {
    "windows": dict(in_channels=12, out_channels=20, kernel_size=5, stride=2, padding=2),
    "one-tap": dict(in_channels=7, out_channels=9, kernel_size=1),
    "long-stride": dict(in_channels=1, out_channels=6, kernel_size=10, stride=5, bias=False),
    "depthwise": dict(in_channels=21, out_channels=21, kernel_size=31, padding=15, groups=21),
    "depthwise-dilated": dict(in_channels=16, out_channels=16, kernel_size=3, stride=2, dilation=4, groups=16, bias=False),
    "grouped": dict(in_channels=12, out_channels=8, kernel_size=4, padding=3, groups=4),
    "dilated": dict(in_channels=6, out_channels=5, kernel_size=3, dilation=2),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", ["rtn", "asymmetric"])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_kind_gives_the_same_bits(case, method, batch, without_kernels):
    conv = nn.Conv1d(**CASES[case])
    weight = packed(conv.weight.shape[0], conv.weight[0].numel(), method=method)
    weight.shape = tuple(conv.weight.shape)
    module = IntegerConv(conv, weight, activations="int8")
    x = torch.randn(batch, conv.in_channels, 57)
    x[0, 0, :20] = 0.0
    with torch.no_grad():
        found, wanted = module(x), without_kernels(lambda: module(x))
    assert found.shape == conv(x).shape and torch.equal(found, wanted)


@pytest.mark.parametrize("case", ["windows", "depthwise", "grouped"])
def test_what_multiplied_was_the_kernel(case, monkeypatch):
    from asrcompress.modules import weight as products

    conv = nn.Conv1d(**CASES[case])
    packed_weight = packed(conv.weight.shape[0], conv.weight[0].numel())
    packed_weight.shape = tuple(conv.weight.shape)
    monkeypatch.setattr(products, "int_matmul", None)
    IntegerConv(conv, packed_weight, activations="int8")(torch.randn(1, conv.in_channels, 57))
