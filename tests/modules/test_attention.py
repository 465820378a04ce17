"""IntegerMultiheadAttention against Fairseq's own, alone and inside Fairseq's encoder and decoder."""

from __future__ import annotations

import pytest
import torch

from asrcompress.metrics.cost import count_macs

DIM, HEADS, BATCH, SRC, TGT = 32, 4, 3, 9, 5
SELF, CROSS = {"self_attention": True}, {"encoder_decoder_attention": True}
both = pytest.mark.parametrize("activations", ["none", "int8"])
TOLERANCE = {"none": 1e-5, "int8": 0.04}  # outputs are of size 0.1 to 1


def inputs(kind):
    """query, key, value as Fairseq's layers give them."""
    torch.manual_seed(1)
    query = torch.randn(SRC if kind is SELF else TGT, BATCH, DIM)
    source = query if kind is SELF else torch.randn(SRC, BATCH, DIM)
    return query, source, source


def padding():
    mask = torch.zeros(BATCH, SRC, dtype=torch.bool)
    mask[0, 6:] = True
    mask[2, 1:] = True
    return mask


def causal(length):
    return torch.full((length, length), float("-inf")).triu(1)


def close(found, wanted, activations):
    torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE[activations])
    if activations == "int8":
        assert not torch.equal(found, wanted)  # integers were there


@both
@pytest.mark.parametrize("kind", [SELF, CROSS], ids=["self", "cross"])
@pytest.mark.parametrize("masked", [False, True], ids=["open", "padded"])
@pytest.mark.parametrize("need_weights", [False, True])
def test_it_is_fairseqs_attention_with_the_dequantized_weights(
    make_attention, make_pair, activations, kind, masked, need_weights
):
    float_model, module = make_pair(make_attention(**kind), activations=activations)
    options = {"key_padding_mask": padding() if masked else None, "need_weights": need_weights}
    (wanted, wanted_weights), (found, weights) = float_model(*inputs(kind), **options), module(*inputs(kind), **options)
    close(found, wanted, activations)
    assert (weights is None) == (wanted_weights is None) == (not need_weights)
    if need_weights:
        close(weights, wanted_weights, activations)


@both
def test_weights_by_head(make_attention, make_pair, activations):
    float_model, module = make_pair(make_attention(**CROSS), activations=activations)
    # Fairseq gives them in its incremental branch only; the other one averages all the same.
    options = {"need_head_weights": True, "incremental_state": {}}
    wanted, found = (model(*inputs(CROSS), **options)[1] for model in (float_model, module))
    assert found.shape == wanted.shape == (HEADS, BATCH, TGT, SRC)
    close(found, wanted, activations)


@both
def test_the_causal_mask_hides_the_future(make_attention, make_pair, activations):
    float_model, module = make_pair(make_attention(**SELF), activations=activations)
    x, _, _ = inputs(SELF)
    close(module(x, x, x, attn_mask=causal(SRC))[0], float_model(x, x, x, attn_mask=causal(SRC))[0], activations)
    later = x.clone()
    later[5:] *= -50
    assert torch.equal(
        module(later, later, later, attn_mask=causal(SRC))[0][:5], module(x, x, x, attn_mask=causal(SRC))[0][:5]
    )


@both
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(24, 24), (24, 40)])
def test_keys_and_values_of_other_widths_and_no_biases(make_attention, make_pair, activations, bias, sizes):
    kdim, vdim = sizes
    float_model, module = make_pair(make_attention(kdim=kdim, vdim=vdim, bias=bias), activations=activations)
    float_model.attention.skip_embed_dim_check = True  # Fairseq's other branch cannot do without biases
    args = (torch.randn(TGT, BATCH, DIM), torch.randn(SRC, BATCH, kdim), torch.randn(SRC, BATCH, vdim))
    close(module(*args)[0], float_model(*args)[0], activations)


@both
def test_an_utterance_does_not_see_padding_or_its_batch(make_attention, make_pair, activations):
    _, module = make_pair(make_attention(**SELF), activations=activations)
    x, _, _ = inputs(SELF)
    mask = torch.zeros(BATCH, SRC, dtype=torch.bool)
    mask[:, 6:] = True
    noisy = x.clone()
    noisy[6:] = 1e3
    noisy[:, 1:] *= 1e3
    inside, alone = (
        module(noisy, noisy, noisy, key_padding_mask=mask)[0][:6, :1],
        module(x[:6, :1], x[:6, :1], x[:6, :1])[0],
    )
    torch.testing.assert_close(inside, alone, rtol=0, atol=1e-5)


@both
def test_one_token_at_a_time_is_the_whole_at_once(make_attention, make_pair, activations):
    _, module = make_pair(make_attention(**SELF), activations=activations)
    x, _, _ = inputs(SELF)
    state = {}
    steps = [module(token, token, token, incremental_state=state)[0] for token in x.split(1)]
    torch.testing.assert_close(torch.cat(steps), module(x, x, x, attn_mask=causal(SRC))[0], rtol=0, atol=1e-5)


@both
def test_static_keys_are_computed_once(make_attention, make_pair, activations):
    _, module = make_pair(make_attention(**CROSS), activations=activations)
    query, source, _ = inputs(CROSS)
    wanted = module(query, source, source, key_padding_mask=padding())[0]
    state, options = {}, {"key_padding_mask": padding(), "static_kv": True}
    first = module(query[:1], source, source, incremental_state=state, **options)[0]
    # Fairseq hands over the keys again or None: the cached ones count, with the cached mask.
    second = module(query[1:2], 0 * source, 0 * source, incremental_state=state, static_kv=True)[0]
    third = module(query[2:], None, None, incremental_state=state, **options)[0]
    torch.testing.assert_close(torch.cat([first, second, third]), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("masks", [(None, None), ("first", None), (None, "second"), ("first", "second")], ids=str)
def test_masks_of_cached_and_new_keys_are_joined_as_fairseq_joins_them(make_attention, make_pair, masks):
    float_model, module = make_pair(make_attention(**SELF))
    x, _, _ = inputs(SELF)
    first, second = torch.zeros(2, BATCH, 1, dtype=torch.bool)
    first[1], second[2] = True, True
    known = {"first": first, "second": second, None: None}
    outs = []
    for model in (float_model, module):
        state = {}
        model(x[:1], x[:1], x[:1], key_padding_mask=known[masks[0]], incremental_state=state)
        outs.append(model(x[1:2], x[1:2], x[1:2], key_padding_mask=known[masks[1]], incremental_state=state)[0])
    torch.testing.assert_close(outs[1], outs[0], rtol=0, atol=1e-5)


@both
def test_reordering_follows_the_hypotheses(make_attention, make_pair, activations):
    _, module = make_pair(make_attention(**SELF), activations=activations)
    x, _, _ = inputs(SELF)
    order = torch.tensor([2, 0, 0, 1])
    state = {}
    for token in x[:4].split(1):
        module(token, token, token, incremental_state=state)
    module.attention.reorder_incremental_state(state, order)
    last = x[4:5, order]
    found = module(last, last, last, incremental_state=state)[0]
    joined = torch.cat([x[:4, order], last])
    torch.testing.assert_close(found, module(joined, joined, joined)[0][4:], rtol=0, atol=1e-5)


def test_reordering_takes_encoder_keys_along_when_utterances_finish(make_attention, make_pair):
    _, module = make_pair(make_attention(**CROSS))
    query, source, _ = inputs(CROSS)
    state, options = {}, {"static_kv": True}
    module(query[:1], source, source, incremental_state=state, key_padding_mask=padding(), **options)
    order = torch.tensor([0, 2])  # the second utterance has finished
    module.attention.reorder_incremental_state(state, order)
    found = module(query[1:2, order], None, None, incremental_state=state, **options)[0]
    wanted = module(query[1:2], source, source, key_padding_mask=padding())[0][:, order]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_two_attentions_do_not_share_their_state(make_attention, make_pair):
    first, second = (make_pair(make_attention(**SELF))[1] for _ in range(2))
    x, _, _ = inputs(SELF)
    state = {}
    first(x[:1], x[:1], x[:1], incremental_state=state)
    before = second(x[1:2], x[1:2], x[1:2], incremental_state=state)[0]
    assert torch.equal(before, second(x[1:2], x[1:2], x[1:2])[0])


@pytest.mark.parametrize("kind", [SELF, CROSS], ids=["self", "cross"])
def test_computed_multiplies_no_floats_and_as_many_as_fairseqs(make_attention, make_pair, kind):
    float_model, module = make_pair(make_attention(**kind), activations="int8")
    count = count_macs(module, lambda: module(*inputs(kind), key_padding_mask=padding()))
    assert {dtype for record in count.records for dtype in record.operand_dtypes} <= {"int8", "int32"}
    assert count.total == count_macs(float_model, lambda: float_model(*inputs(kind), key_padding_mask=padding())).total


def test_stored_multiplies_floats(make_attention, make_pair):
    _, module = make_pair(make_attention(**SELF), activations="none")
    count = count_macs(module, lambda: module(*inputs(SELF)))
    assert {dtype for record in count.records for dtype in record.operand_dtypes} == {"float32"}


def test_scores_before_the_softmax_are_refused(make_attention, make_pair):
    _, module = make_pair(make_attention(**SELF))
    with pytest.raises(ValueError, match="before_softmax"):
        module(*inputs(SELF), before_softmax=True)
