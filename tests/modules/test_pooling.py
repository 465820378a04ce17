"""The keyword spotter's additive attention on integers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.metrics.cost import count_macs
from asrcompress.models.crnn import CRNN, Attention
from asrcompress.quantizers.rtn import SUPPORTED_BITS


class Holder(torch.nn.Module):
    def __init__(self, hidden=16):
        super().__init__()
        self.attention = Attention(hidden)

    def forward(self, frames):
        return self.attention(frames)


@pytest.mark.parametrize("num_bits", SUPPORTED_BITS)
def test_stored_is_the_float_attention_with_dequantized_weights(make_pair, num_bits):
    torch.manual_seed(0)
    float_model, module = make_pair(Holder(), num_bits=num_bits)
    frames = torch.randn(3, 7, 16)
    torch.testing.assert_close(module(frames), float_model(frames), rtol=1e-5, atol=1e-5)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_computed_is_close_to_stored_frame_by_frame(make_pair, seed, time):
    torch.manual_seed(seed)
    float_model, module = make_pair(Holder(), activations="int8")
    frames = torch.randn(2, time, 16) * torch.randn(2, time, 1).exp()
    error = (module(frames) - float_model(frames)).abs().amax(dim=1)
    assert (error <= 0.03 * frames.abs().flatten(1).amax(dim=1)).all()


def test_a_sum_over_equal_frames_is_the_frame(make_pair):
    # Whatever the weights are, they sum to 1.
    torch.manual_seed(0)
    _, module = make_pair(Holder(), activations="int8")
    frame = torch.randn(1, 1, 16)
    error = (module(frame.expand(1, 5, 16)) - frame[:, 0]).abs()
    assert (error <= frame.abs().max() * (0.5 / 127 + 5 * 0.5 / 127)).all()


def test_an_item_does_not_see_its_batch(make_pair):
    torch.manual_seed(0)
    _, module = make_pair(Holder(), activations="int8")
    frames = torch.randn(3, 7, 16)
    loud = torch.cat([frames[:1], 1e4 * frames[1:]])
    assert torch.equal(module(loud)[:1], module(frames[:1]))


def test_the_keyword_spotter_multiplies_integers_to_the_last(make_pair):
    torch.manual_seed(0)
    float_model, module = make_pair(CRNN(4, 16), activations="int8")
    log_mel = torch.randn(2, 40, 101)
    with torch.no_grad():
        count = count_macs(module, lambda: module(log_mel))
        assert {dtype for record in count.records for dtype in record.operand_dtypes} <= {"int8", "int32"}
        assert count.total == count_macs(float_model, lambda: float_model(log_mel)).total
        assert (module(log_mel) - float_model(log_mel)).abs().max() < 0.02
