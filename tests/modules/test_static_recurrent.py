"""GRU and LSTM on static grids against torch's with the dequantized weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asrcompress.errors import AsrCompressError
from asrcompress.integers.tensor import as_float
from tests.fixtures.static import require_integers, static_model, static_pair

KINDS = [nn.GRU, nn.LSTM]
OPTIONS = {
    "plain": {}, "bidirectional": {"bidirectional": True}, "two layers, batch first": {"num_layers": 2, "batch_first": True},
    "no bias": {"bias": False, "bidirectional": True, "num_layers": 2},
}  # fmt: skip


def build(kind, **options):
    torch.manual_seed(0)
    return kind(10, 12, **options).requires_grad_(False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_outputs_and_last_states_are_torchs_but_for_rounding(kind, options):
    module = build(kind, **options)
    x = torch.randn(20, 3, 10)
    float_model, model = static_pair(module, lambda m: m(x))
    (found, last), (wanted, wanted_last) = model(x), float_model(x)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 0.03
    assert (found - wanted).square().mean().sqrt() < 0.006
    lasts = last if kind is nn.LSTM else (last,)
    for state, wanted_state in zip(lasts, wanted_last if kind is nn.LSTM else (wanted_last,), strict=True):
        assert state.shape == wanted_state.shape
        assert (as_float(state) - wanted_state).abs().max() < 0.05
    require_integers(model, lambda m: m(x))
    assert model(x[:, :0] if not options.get("batch_first") else x[:0])[0].numel() == 0


class Continued(nn.Module):
    """A sequence in several calls, states handed on; the first None, or what `zeros` makes of the input."""

    def __init__(self, kind, zeros):
        super().__init__()
        self.inner, self.is_lstm, self.zeros = build(kind), kind is nn.LSTM, zeros

    def forward(self, x, length):
        state = self.zeros(x)
        state = (state, state) if self.is_lstm and state is not None else state
        outputs = []
        for part in x.split(length):
            out, state = self.inner(part, state)
            outputs.append(out)
        return torch.cat(outputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "zeros", [lambda x: None, lambda x: x.new_zeros(1, x.shape[1], 12)]
)  # as Fairseq's LSTM encoder
def test_a_sequence_in_parts_is_bit_for_bit_the_sequence_in_one(kind, zeros):
    x = torch.randn(20, 3, 10)
    _, model = static_model(Continued(kind, zeros), lambda m: m(x, 10))
    whole = model(x, 20)
    assert torch.equal(model(x, 10), whole)
    assert torch.equal(model(x, 1), whole)
    require_integers(model, lambda m: m(x, 10))


@pytest.mark.parametrize("kind", KINDS)
def test_states_in_plain_floats_are_refused(kind):
    x = torch.randn(5, 2, 10)
    _, model = static_model(Continued(kind, lambda x: torch.zeros(1, x.shape[1], 12)), lambda m: m(x, 5))
    with pytest.raises(AsrCompressError, match="module 'inner': a float tensor"):
        model(x, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_saturated_gates_stay_between_the_ends(kind):
    module = build(kind)
    x = torch.randn(30, 2, 10)
    _, model = static_pair(module, lambda m: m(x))
    loud = model(1e4 * x)[0]
    assert loud.abs().max() <= 1
    assert torch.isfinite(loud).all()
