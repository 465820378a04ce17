"""What can be packed in a model, and that swapping it in changes what is computed (REFERENCE, traps 1 and 7)."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity
from asrcompress.metrics.cost import count_macs
from asrcompress.modules.linear import IntegerLinear
from asrcompress.modules.swap import find_weights, swap
from asrcompress.modules.weight import IntegerWeight
from asrcompress.quantizers.rtn import quantize


def pack(model, names=None, num_bits=8):
    """Packed weights of a model, all of them or those named."""
    names = [site.name for site in find_weights(model) if not site.tied_to] if names is None else names
    return {
        name: quantize(model.get_parameter(name), num_bits=num_bits, granularity=Granularity.parse("per_channel"))
        for name in names
    }


def run_s2t(model, s2t):
    return model(s2t.features, s2t.lengths, s2t.previous)[0]


class Inherits(nn.Linear):
    pass


class InheritsTwice(Inherits):
    def extra(self):
        return self.weight.sum()


class OwnForward(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


def test_a_subclass_that_keeps_forward_is_found_and_one_that_has_its_own_is_not():
    model = nn.Sequential(nn.Linear(4, 4), Inherits(4, 4), InheritsTwice(4, 4), OwnForward(4, 4), nn.Bilinear(4, 4, 4))
    assert [site.name for site in find_weights(model)] == ["0.weight", "1.weight", "2.weight"]


def test_every_kind_of_module_is_found():
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(4, 4),
            "embedding": nn.Embedding(4, 4),
            "conv1d": nn.Conv1d(4, 4, 1),
            "conv2d": nn.Conv2d(4, 4, 1),
            "gru": nn.GRU(4, 4, 1, bidirectional=True),
            "norm": nn.LayerNorm(4),
            "transposed": nn.ConvTranspose1d(4, 4, 1),
            "lstm": nn.LSTM(4, 4),
        }
    )
    names = ["weight_ih_l0", "weight_hh_l0", "weight_ih_l0_reverse", "weight_hh_l0_reverse"]
    expected = [
        ("linear.weight", "linear"),
        ("embedding.weight", "embedding"),
        ("conv1d.weight", "conv"),
        ("conv2d.weight", "conv"),
    ]
    assert [(site.name, site.kind) for site in find_weights(model)] == expected + [
        (f"gru.{name}", "gru") for name in names
    ] + [(f"lstm.{name}", "lstm") for name in names[:2]]


def test_every_weight_matrix_of_the_s2t_transformer_is_found(s2t):
    sites = find_weights(s2t.model)
    matrices = {name for name, parameter in s2t.model.named_parameters(remove_duplicate=False) if parameter.dim() > 1}
    assert {site.name for site in sites} == matrices
    assert {site.kind for site in sites} == {"linear", "embedding", "conv", "attention"}
    assert {site.name: site.tied_to for site in sites if site.tied_to} == {
        "decoder.output_projection.weight": "decoder.embed_tokens.weight"
    }


def test_a_swapped_encoder_layer_of_fairseq_computes_with_its_packed_attention(s2t):
    # REFERENCE, trap 1: Fairseq hands the projections' weights to a function and never calls their forward.
    layer = s2t.model.encoder.transformer_layers[0]
    names = [f"self_attn.{short}.weight" for short in ("q_proj", "k_proj", "v_proj", "out_proj")]
    packed = pack(layer, names, num_bits=2)
    swapped = swap(copy.deepcopy(layer), packed, activations="int8")
    x = torch.randn(9, 2, 32)
    change = (swapped(x, None) - layer(x, None)).norm() / layer(x, None).norm()
    assert change > 0.05  # 2 bits are seen in the output
    records = count_macs(swapped, lambda: swapped(x, None)).records
    attention = [record for record in records if record.module.startswith("self_attn")]
    assert {dtype for record in attention for dtype in record.operand_dtypes} <= {"int8", "int32"}
    assert sum(record.macs for record in attention) == 2 * (9 * 4 * 32 * 32 + 2 * 9 * 9 * 32)
    for name, weight in packed.items():  # every one of the four matters
        zeroed = packed | {name: quantize(torch.zeros(32, 32), num_bits=8, granularity=weight.granularity)}
        assert not torch.allclose(swap(copy.deepcopy(layer), zeroed)(x, None), swapped(x, None), atol=1e-3), name


def test_swapped_projections_alone_fail_loudly_rather_than_run_in_float(s2t):
    layer = copy.deepcopy(s2t.model.encoder.transformer_layers[0])
    projection = layer.self_attn.q_proj
    weight = quantize(projection.weight, num_bits=8, granularity=Granularity.parse("per_channel"))
    layer.self_attn.q_proj = IntegerLinear(IntegerWeight(weight), projection.bias)
    with pytest.raises(AttributeError):
        layer(torch.randn(9, 2, 32), None)


@pytest.mark.parametrize("num_bits", [8, 4])
def test_stored_s2t_transformer_is_the_float_one_with_dequantized_weights(s2t, make_pair, num_bits):
    float_model, module = make_pair(s2t.model, num_bits=num_bits)
    torch.testing.assert_close(run_s2t(module, s2t), run_s2t(float_model, s2t), rtol=1e-4, atol=1e-4)


def test_computed_s2t_transformer_multiplies_no_floats_and_stays_close(s2t, make_pair):
    float_model, module = make_pair(s2t.model, activations="int8")
    with torch.no_grad():
        count, wanted = (count_macs(model, lambda model=model: run_s2t(model, s2t)) for model in (module, float_model))
    assert {dtype for record in count.records for dtype in record.operand_dtypes} <= {"int8", "int32"}
    assert count.total == wanted.total
    error = (run_s2t(module, s2t) - run_s2t(float_model, s2t)).norm() / run_s2t(float_model, s2t).norm()
    assert 0 < error < 0.05


@pytest.mark.parametrize("activations", ["none", "int8"])
def test_decoding_token_by_token_is_teacher_forcing(s2t, make_pair, activations):
    _, module = make_pair(s2t.model, activations=activations)
    encoded = module.encoder(s2t.features, s2t.lengths)
    whole = module.decoder(s2t.previous, encoder_out=encoded)[0]
    state = {}
    steps = [
        module.decoder(s2t.previous[:, : i + 1], encoder_out=encoded, incremental_state=state)[0] for i in range(7)
    ]
    # A rounding that falls the other way may move a few elements; a scale shared between tokens would move all.
    error = (torch.cat(steps, dim=1) - whole).abs()
    assert (error > 1e-4).float().mean() < 0.05
    assert error.max() < 0.02 * whole.abs().max()


def test_computed_layers_do_not_see_padding_or_the_batch(s2t, make_pair):
    # Layers only: the float model's own subsampling lets the first frames of padding in.
    _, module = make_pair(s2t.model, activations="int8")
    together = 100 * torch.randn(12, 3, 32)
    together[:8, 0] /= 100
    padding = torch.zeros(3, 12, dtype=torch.bool)
    padding[0, 8:] = True
    alone = together[:8, :1]
    for layer in module.encoder.transformer_layers:
        together, alone = layer(together, padding), layer(alone, None)
        assert ((together[:8, :1] - alone).abs() > 1e-4).float().mean() < 0.05


def test_tied_weights_share_one_integer_weight(s2t, make_pair):
    _, module = make_pair(s2t.model)
    assert module.decoder.embed_tokens.packed is module.decoder.output_projection.packed
    unshared = sum(1 for child in module.modules() if isinstance(child, IntegerWeight))
    assert unshared == len([site for site in find_weights(s2t.model) if not site.tied_to])


def test_only_what_is_packed_is_swapped():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    swapped = swap(model, pack(model, ["1.weight"]))
    assert swapped is model
    assert type(model[0]) is nn.Linear
    assert type(model[1]) is IntegerLinear


def test_no_float_copy_of_a_packed_weight_is_left(s2t, make_pair):
    _, module = make_pair(s2t.model)
    assert not [name for name, parameter in module.named_parameters() if parameter.dim() > 1]


def test_a_packed_name_that_fits_no_module_is_an_error():
    model = nn.Sequential(nn.Linear(4, 4))
    weight = pack(model)["0.weight"]
    with pytest.raises(AsrCompressError, match=r"9\.weight: is packed, but no module"):
        swap(model, {"0.weight": weight, "9.weight": weight})


def test_a_packed_shape_that_does_not_fit_is_an_error():
    model = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(AsrCompressError, match=r"0\.weight: packed as \(4, 4\), the model has \(3, 4\)"):
        swap(model, pack(nn.Sequential(nn.Linear(4, 4))))


def test_a_gru_is_packed_whole_or_not_at_all():
    model = nn.ModuleDict({"gru": nn.GRU(4, 4)})
    with pytest.raises(
        AsrCompressError, match=r"gru: a GRU is packed whole .* weight_hh_l0 is left out; --exclude 'gru\.\*'"
    ):
        swap(model, pack(model, ["gru.weight_ih_l0"]))


def test_attention_is_packed_whole_or_not_at_all(make_attention):
    model = make_attention(self_attention=True)
    with pytest.raises(
        AsrCompressError,
        match=r"attention: attention is packed whole .* out_proj\.weight is left out; --exclude 'attention\.\*'",
    ):
        swap(model, pack(model, [f"attention.{short}_proj.weight" for short in "qkv"]))


@pytest.mark.parametrize(
    ("options", "word"), [({"add_bias_kv": True}, "bias_k"), ({"add_zero_attn": True}, "add_zero_attn")]
)
def test_attention_with_what_is_not_supported_is_an_error(make_attention, options, word):
    model = make_attention(self_attention=True, **options)
    with pytest.raises(AsrCompressError, match=f"{word} is not supported; --exclude"):
        swap(model, pack(model))


def test_an_embedding_that_changes_as_it_runs_is_an_error():
    model = nn.Sequential(nn.Embedding(4, 4, max_norm=1.0))
    with pytest.raises(AsrCompressError, match="max_norm"):
        swap(model, pack(model))


def test_unknown_activations_are_refused_before_anything_is_swapped():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="float8"):
        swap(model, pack(model), activations="float8")
    assert type(model[0]) is nn.Linear
