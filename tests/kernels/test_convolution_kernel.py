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
    "depthwise-dilated": dict(
        in_channels=16, out_channels=16, kernel_size=3, stride=2, dilation=4, groups=16, bias=False
    ),
    "grouped": dict(in_channels=12, out_channels=8, kernel_size=4, padding=3, groups=4),
    "grouped-to-fewer": dict(in_channels=8, out_channels=4, kernel_size=3, groups=4),
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


def test_nothing_in_a_batch_and_next_to_nothing_in_a_channel():
    for case in ("windows", "depthwise"):
        conv = nn.Conv1d(**(CASES[case] | {"bias": False}))
        weight = packed(conv.weight.shape[0], conv.weight[0].numel())
        weight.shape = tuple(conv.weight.shape)
        module = IntegerConv(conv, weight, activations="int8")
        assert module(torch.empty(0, conv.in_channels, 57)).shape == conv(torch.empty(0, conv.in_channels, 57)).shape
        assert not module(torch.full((1, conv.in_channels, 57), 1e-38)).any()


@pytest.mark.parametrize("case", ["windows", "depthwise"])
def test_scales_by_group_of_taps_are_for_torch(case, without_kernels):
    options = dict(in_channels=12, out_channels=12, kernel_size=8, groups=1 if case == "windows" else 12)
    conv = nn.Conv1d(**options)
    weight = packed(12, conv.weight[0].numel(), granularity="per_group:4")
    weight.shape = tuple(conv.weight.shape)
    module, x = IntegerConv(conv, weight, activations="int8"), torch.randn(2, 12, 30)
    assert torch.equal(module(x), without_kernels(lambda: module(x)))


@pytest.mark.parametrize("case", ["windows", "depthwise"])
def test_more_threads_and_new_weights(case):
    conv = nn.Conv1d(**CASES[case])
    modules = []
    for seed in (0, 1):
        weight = packed(conv.weight.shape[0], conv.weight[0].numel(), seed=seed)
        weight.shape = tuple(conv.weight.shape)
        modules.append(IntegerConv(conv, weight, activations="int8"))
    x = torch.randn(3, conv.in_channels, 157)
    first, second = (module(x) for module in modules)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(modules[0](x), first)
    finally:
        torch.set_num_threads(before)
    modules[0].load_state_dict(modules[1].state_dict())
    assert torch.equal(modules[0](x), second) and not torch.equal(first, second)
