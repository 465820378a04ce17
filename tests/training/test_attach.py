"""Stored weights in the family's own modules: what runs is what a file with these codes computes, in every family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from asrcompress.models import FAMILIES
from asrcompress.modules.swap import find_weights
from asrcompress.ops.content import tied_names
from asrcompress.ops.load import Source, build_model, open_source
from asrcompress.ops.quantize import quantize_source
from asrcompress.ops.recipe import QuantizeConfig
from asrcompress.training.attach import (
    attach,
    freeze_noise,
    original_name,
    plain_name,
    read_plain,
    without_gradient,
)
from asrcompress.training.grid import TrainedWeight
from tests.models.test_family_contract import LETTERS, NOT_IN_THE_LOSS, PIECES, TINY

# Of every kind of module that reads its weights in a way of its own: attention hands its projections' weights to a function of
# torch, recurrent modules keep a list of theirs, two modules share an embedding, a weight norm was folded.
WATCHED = {
    "s2t_transformer": ("decoder.embed_tokens.weight", "encoder.transformer_layers.0.self_attn.q_proj.weight",
                        "encoder.subsample.conv_layers.0.weight"),
    "s2t_conformer": ("encoder.conformer_layers.0.self_attn.linear_q.weight", "encoder.conformer_layers.0.conv_module.depthwise_conv.weight"),
    "kws_crnn": ("gru.weight_ih_l0", "gru.weight_hh_l1", "conv.0.weight", "attention.energy.0.weight"),
    "wav2vec_ctc": ("w2v_encoder.w2v_model.encoder.pos_conv.0.weight", "w2v_encoder.w2v_model.encoder.layers.1.self_attn.out_proj.weight"),
}  # fmt: skip


@pytest.fixture(params=sorted(FAMILIES))
def source(request: pytest.FixtureRequest) -> Source:
    return open_source(request.getfixturevalue(TINY[request.param]))


@pytest.fixture
def kws(tiny_kws: Path) -> Source:
    return open_source(tiny_kws)


def prepared(source: Source, **options):
    """(model with stored weights attached, content, the weights)."""
    content = quantize_source(source, QuantizeConfig(**{"num_bits": 4, "level": "stored"} | options))
    model = build_model(source).module
    weights, names = {}, {}
    tied = tied_names(find_weights(model))
    for name, stored in content.quantized.items():
        weights[name] = TrainedWeight(scale=stored.scale, num_bits=stored.num_bits, zero_point=stored.zero_point)
        names[name] = [name, *(alias for alias, first in tied.items() if first == name)]
        parameter = model.get_parameter(name)
        with torch.no_grad():
            parameter.copy_(weights[name].nearest(parameter, stored.codes))
    return attach(model, names, weights), content, weights


def inputs(source: Source):
    """Two recordings of noise, of unlike lengths where the family takes them, and references."""
    family, spec = source.family, source.spec
    audio = [
        0.1 * np.random.default_rng(seed).standard_normal(int(seconds * 16_000)).astype(np.float32)
        for seed, seconds in ((0, 0.8), (1, 1.1))
    ]
    features = [family.features(spec, clip) for clip in audio]
    if family.TASK == "keyword":
        return features, [torch.tensor([0]), torch.tensor([1])]
    text = LETTERS if "ctc" in spec.family else PIECES
    return features, family.read_targets(spec, source.path.parent, [text, text.split()[0]])


def outputs(source: Source, module: nn.Module) -> torch.Tensor:
    features, targets = inputs(source)
    return torch.cat([rows.flatten() for rows in source.family.log_probs(source.spec, module, features, targets)])


def test_a_model_in_training_computes_what_a_file_of_its_codes_computes(source):
    model, content, _ = prepared(source)
    # The float model with the weights that the codes stand for: not a digit may differ.
    values = {**content.floats, **{name: weight.dequantize() for name, weight in content.quantized.items()}}
    values |= {alias: values[name] for alias, name in content.tied.items()}
    plain = freeze_noise(build_model(replace(source, tensors=values)).module)
    floating = outputs(source, freeze_noise(build_model(source).module))
    found = outputs(source, model)
    assert torch.equal(found, outputs(source, plain))
    assert float((found - floating).abs().max()) > 1e-3
    # The artifact's own modules, which compute with codes and scales apart.
    artifact = build_model(replace(source, tensors=content.floats, checkpoint=None, content=content)).module
    with torch.no_grad():
        assert torch.allclose(found, outputs(source, artifact), rtol=1e-3, atol=1e-3)


def test_every_weight_that_is_stored_is_one_that_runs(source):
    model, content, weights = prepared(source)
    before = outputs(source, model)
    names = set(content.quantized)
    watched = WATCHED.get(source.spec.family, ())
    assert names >= set(watched)
    before.sum().backward()
    for name, weight in weights.items():
        if NOT_IN_THE_LOSS in name:
            assert weight.growth.grad is None
            continue
        assert float(weight.growth.grad.abs().max()) > 0, name
        assert float(model.get_parameter(original_name(name)).grad.abs().max()) > 0, name
    for name in watched or sorted(names)[:3]:
        with torch.no_grad():
            model.get_parameter(original_name(name)).neg_()
            assert float((outputs(source, model) - before).abs().max()) > 1e-4, name
            model.get_parameter(original_name(name)).neg_()
    assert torch.equal(outputs(source, model), before)


def test_names_lead_back_to_the_float_model(source):
    model, content, weights = prepared(source)
    floats = dict(build_model(source).module.named_parameters())
    parameters = dict(model.named_parameters())
    for name in content.quantized:
        assert plain_name(original_name(name)) == name
        assert parameters[original_name(name)].shape == floats[name].shape
    scales = [name for name in parameters if plain_name(name) is None]
    assert len(scales) == len(weights)
    assert all(name.endswith(".growth") for name in scales)
    plain = read_plain(parameters, floats)
    assert plain.keys() == floats.keys()
    assert all(torch.equal(plain[name], floats[name]) for name in floats if name not in content.quantized)


def test_a_tied_embedding_is_one_weight(tiny_s2t):
    source = open_source(tiny_s2t)
    model, content, weights = prepared(source)
    embedding, output = model.decoder.embed_tokens, model.decoder.output_projection
    assert content.tied == {"decoder.output_projection.weight": "decoder.embed_tokens.weight"}
    assert embedding.parametrizations.weight.original is output.parametrizations.weight.original
    stored = weights["decoder.embed_tokens.weight"]
    with torch.no_grad():
        stored.growth += 0.5
    assert torch.equal(embedding.weight, output.weight)
    codes, scale = stored.codes(embedding.parametrizations.weight.original)
    assert torch.equal(output.weight, codes * scale.float())


def test_no_noise_in_recurrent_layers_nor_elsewhere():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    recurrent = nn.GRU(4, 4, num_layers=2, dropout=0.5)
    model.add_module("recurrent", nn.ModuleList([recurrent]))
    freeze_noise(model)
    assert not any(module.training for name, module in model.named_modules() if "recurrent." not in name)
    assert recurrent.training
    x = torch.randn(5, 3, 4)
    assert torch.equal(recurrent(x)[0], recurrent(x)[0])
    seen = model[2].running_mean.clone()
    model[2](model[1](model[0](x[0])))
    assert torch.equal(model[2].running_mean, seen)


def test_a_gru_computes_with_its_weights_as_they_are_now(kws):
    model, _, weights = prepared(kws)
    gru = model.gru
    reference = nn.GRU(gru.input_size, gru.hidden_size, num_layers=gru.num_layers, batch_first=True)
    x = torch.randn(2, 7, gru.input_size)
    for _ in range(2):
        values = {}
        for name in reference.state_dict():
            stored = weights.get(f"gru.{name}")
            values[name] = getattr(gru, name) if stored is None else stored(model.get_parameter(original_name(f"gru.{name}")))  # fmt: skip
        reference.load_state_dict({name: value.detach() for name, value in values.items()})
        assert torch.equal(gru(x)[0], reference(x)[0])
        with torch.no_grad():  # as an optimizer does it
            for name, weight in weights.items():
                model.get_parameter(original_name(name)).mul_(-1)
                weight.growth += 0.1


def test_what_the_loss_does_not_reach_is_frozen(tiny_s2t):
    source = open_source(tiny_s2t)
    model, _, _ = prepared(source)
    outputs(source, model).sum().backward()
    idle = without_gradient(model)
    assert {plain_name(name) for name in idle} == {"encoder.ctc_proj.bias", "encoder.ctc_proj.weight", None}
    assert all(not model.get_parameter(name).requires_grad for name in idle)
    assert all(p.requires_grad for name, p in model.named_parameters() if name not in idle)


def test_a_weight_at_the_top_of_a_model_has_no_dot_in_its_name():
    assert original_name("weight") == "parametrizations.weight.original"
    assert plain_name("parametrizations.weight.original") == "weight"
    assert plain_name("parametrizations.weight.0.growth") is None
    assert plain_name("layer.bias") == "layer.bias"
