"""Attention on static grids: near the float one, bit for bit the same step by step, blind to what is masked."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.fixtures.static import require_integers, static_model
from tests.modules.conftest import DIM

BATCH, SRC, TGT = 3, 9, 5
SELF, CROSS = {"self_attention": True}, {"encoder_decoder_attention": True}


class Decoding(nn.Module):
    """Attention as a decoder runs it: all at once with a future mask, or a step at a time with a cache."""

    def __init__(self, attention):
        super().__init__()
        self.inner = attention

    def forward(self, query, source=None, *, state=None, causal=False, **options):
        source = query if source is None else source
        mask = torch.ones(len(query), len(query), dtype=torch.bool).triu(1) if causal else None
        options |= {"incremental_state": state, "static_kv": state is not None and source is not query}
        return self.inner(query, source, source, attn_mask=mask, **options)[0]


def steps(model, query, source=None, **options):
    """A token at a time."""
    state = {}
    return torch.cat([model(token, source, state=state, **options) for token in query.split(1)])


@pytest.fixture(scope="module")
def attention(make_attention):
    def make(run, **options):
        inner = make_attention(**options).attention
        return static_model(Decoding(inner), run)

    return make


def inputs():
    torch.manual_seed(1)
    return torch.randn(TGT, BATCH, DIM), torch.randn(SRC, BATCH, DIM)


def padding(length=SRC):
    mask = torch.zeros(BATCH, length, dtype=torch.bool)
    mask[0, 6:] = True
    mask[2, 1:] = True
    return mask


@pytest.mark.parametrize("kind", [SELF, CROSS], ids=["self", "cross"])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_float_one_but_for_rounding(attention, kind, masked):
    query, source = inputs()
    source = None if kind is SELF else source
    options = {"key_padding_mask": padding(TGT if kind is SELF else SRC) if masked else None}
    float_model, model = attention(lambda m: m(query, source, **options), **kind)
    found, wanted = model(query, source, **options), float_model(query, source, **options)
    assert (found - wanted).abs().max() < 0.04
    require_integers(model, lambda m: m(query, source, **options))


def test_one_token_at_a_time_is_bit_for_bit_the_whole_at_once(attention):
    query, _ = inputs()
    _, model = attention(lambda m: m(query, causal=True), **SELF)
    assert torch.equal(steps(model, query), model(query, causal=True))
    require_integers(model, lambda m: m(query[:1], state={}))


def test_static_keys_step_by_step_are_bit_for_bit_the_whole_at_once(attention):
    query, source = inputs()
    _, model = attention(lambda m: m(query, source), **CROSS)
    options = {"key_padding_mask": padding()}
    assert torch.equal(steps(model, query, source, **options), model(query, source, **options))


def test_reordered_beams_go_on_as_if_they_had_been_so_from_the_start(attention):
    query, _ = inputs()
    _, model = attention(lambda m: m(query, causal=True), **SELF)
    order, state = torch.tensor([2, 0, 0, 1]), {}
    for token in query[:3].split(1):
        model(token, state=state)
    model.inner.reorder_incremental_state(state, order)
    for number in (3, 4):
        found = model(query[number : number + 1, order], state=state)
        assert torch.equal(found, model(query[: number + 1, order], causal=True)[-1:])


def test_what_is_padding_does_not_matter_and_neither_does_the_batch(attention):
    query, source = inputs()
    options = {"key_padding_mask": padding()}
    _, model = attention(lambda m: m(query, source), **CROSS)
    noisy = source.clone()
    noisy[6:, 0] = 1e6
    noisy[1:, 2] = -1e6
    assert torch.equal(model(query, noisy, **options), model(query, source, **options))
    assert torch.equal(model(query[:, :1], source[:6, :1]), model(query, source, **options)[:, :1])


def test_a_row_without_any_key_is_the_output_of_nothing(attention):
    query, source = inputs()
    _, model = attention(lambda m: m(query, source), **CROSS)
    mask = torch.ones(BATCH, SRC, dtype=torch.bool)
    found = model(query, source, key_padding_mask=mask)
    grid = model.sites.grid("inner.out_proj:out")
    assert (found - model.inner.out_proj.bias).abs().max() <= 2 * grid.scale + 0.01
    assert model(query[:, :0], source[:, :0]).shape == (TGT, 0, DIM)
