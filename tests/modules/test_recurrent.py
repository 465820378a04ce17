"""IntegerGRU against torch.nn.GRU, over every option it takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asrcompress.grids import Granularity
from asrcompress.metrics.cost import count_macs
from asrcompress.modules.recurrent import IntegerGRU
from asrcompress.modules.weight import IntegerWeight
from asrcompress.quantizers.rtn import quantize

OPTIONS = [
    {},
    {"num_layers": 2, "batch_first": True},
    {"bidirectional": True},
    {"bidirectional": True, "num_layers": 3, "batch_first": True},
    {"bias": False, "num_layers": 2},
]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=str)
IN, HIDDEN, BATCH, TIME = 12, 8, 3, 9


def make(options, *, num_bits=8, granularity="per_channel", activations="none"):
    """The float GRU with dequantized weights, its integer twin, an input and hidden states."""
    torch.manual_seed(0)
    gru = nn.GRU(IN, HIDDEN, **options).requires_grad_(False)
    grid = Granularity.parse(granularity)
    packed = {
        name: quantize(weight, num_bits=num_bits, granularity=grid)
        for name, weight in gru.named_parameters()
        if name.startswith("weight_")
    }
    for name, weight in packed.items():
        gru.get_parameter(name).copy_(weight.dequantize())
    shape = (BATCH, TIME, IN) if gru.batch_first else (TIME, BATCH, IN)
    states = gru.num_layers * (2 if gru.bidirectional else 1)
    return (
        gru,
        IntegerGRU(gru, {name: IntegerWeight(weight) for name, weight in packed.items()}, activations=activations),
        torch.randn(shape),
        torch.randn(states, BATCH, HIDDEN),
    )


@every_option
@pytest.mark.parametrize("given", [False, True], ids=["no-hidden", "hidden"])
@pytest.mark.parametrize(("num_bits", "granularity"), [(8, "per_channel"), (4, "per_group:4"), (2, "per_tensor")])
def test_stored_is_the_float_gru_with_the_dequantized_weights(options, given, num_bits, granularity):
    gru, module, x, hidden = make(options, num_bits=num_bits, granularity=granularity)
    expected, got = (gru(x, hidden), module(x, hidden)) if given else (gru(x), module(x))
    for wanted, found in zip(expected, got, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@every_option
@pytest.mark.parametrize("given", [False, True], ids=["no-hidden", "hidden"])
def test_computed_stays_close_to_stored(options, given):
    gru, module, x, hidden = make(options, activations="int8")
    expected, got = (gru(x, hidden), module(x, hidden)) if given else (gru(x), module(x))
    for wanted, found in zip(expected, got, strict=True):
        assert found.shape == wanted.shape
        error = (found - wanted).abs().max()
        assert 0 < error < 0.03  # states lie within -1..1; not 0: rounding does take place


def test_a_state_carried_over_is_one_long_sequence():
    _, module, x, _ = make({"num_layers": 2}, activations="int8")
    whole, last = module(x)
    first, state = module(x[:4])
    second, end = module(x[4:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(end, last)


@every_option
def test_an_item_does_not_see_its_batch(options):
    _, module, x, _ = make(options, activations="int8")
    axis = 0 if options.get("batch_first") else 1
    loud = x.clone()
    loud.select(axis, 1).mul_(1e4)
    alone = module(x.narrow(axis, 0, 1))[0]
    assert torch.equal(module(loud)[0].narrow(axis, 0, 1), alone)


def test_padding_behind_an_utterance_does_not_change_it():
    _, module, x, _ = make({"num_layers": 2}, activations="int8")
    padded = torch.cat([x, 100 * torch.ones(4, BATCH, IN)])
    assert torch.equal(module(padded)[0][:TIME], module(x)[0])


@every_option
def test_computed_multiplies_no_floats_and_as_many_as_the_float_gru(options):
    gru, module, x, _ = make(options, activations="int8")
    count = count_macs(module, lambda: module(x))
    assert {dtype for record in count.records for dtype in record.operand_dtypes} == {"int8"}
    assert count.total == count_macs(gru, lambda: gru(x)).total


def test_packed_and_unbatched_sequences_are_refused():
    _, module, x, _ = make({})
    with pytest.raises(ValueError, match="not supported"):
        module(nn.utils.rnn.pack_padded_sequence(x, [TIME] * BATCH))
    with pytest.raises(ValueError, match="not supported"):
        module(x[:, 0])
