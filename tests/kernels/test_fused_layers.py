"""Fairseq's encoder layers and decoder run whole, against the same modules one by one; and that they are run whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from asrcompress.models.s2t import pad
from asrcompress.modules.fused import fuse
from asrcompress.modules.fused_decoder import fuse_decoder
from asrcompress.modules.weight import FloatWeight
from asrcompress.ops.load import build_model, open_source
from asrcompress.ops.quantize import quantize
from asrcompress.ops.recipe import QuantizeConfig
from tests.kernels.transformer import speech, walk, write_artifact

CLOSE = 0.05  # a code that falls to the other side of a half moves everything behind it a little; outputs are of size 1
LONG = (400, 61, 390)  # frames; a quarter of them are keys


def test_an_encoder_run_whole_is_its_modules_one_by_one(model, without_kernels):
    source, lengths = speech(model)
    with torch.no_grad():
        found, wanted = model.encoder(source, lengths), without_kernels(lambda: model.encoder(source, lengths))
    mask = found["encoder_padding_mask"][0]
    assert mask.any() and torch.equal(mask, wanted["encoder_padding_mask"][0])
    kept = ~mask.t()
    torch.testing.assert_close(found["encoder_out"][0][kept], wanted["encoder_out"][0][kept], rtol=0, atol=CLOSE)
    assert not torch.equal(found["encoder_out"][0][kept], wanted["encoder_out"][0][kept])  # it was the other way


def test_an_utterance_gets_the_same_bits_whatever_it_is_batched_with(model):
    source, lengths = speech(model)
    with torch.no_grad():
        together = model.encoder(source, lengths)["encoder_out"][0]
        longest = model.encoder(source[:1], lengths[:1])["encoder_out"][0]
    assert torch.equal(together[:, :1], longest)


def test_steps_of_a_beam_search_are_its_modules_one_by_one(model, without_kernels):
    with torch.no_grad():
        found, wanted = walk(model, 36, 3), without_kernels(lambda: walk(model, 36, 3))  # memory grows at 32
    assert [len(logits) for logits in found] == [9] * 4 + [6] * 32
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=CLOSE)
    assert not torch.equal(torch.cat(found), torch.cat(wanted))


def test_more_threads_give_the_same_bits(model):
    before = torch.get_num_threads()
    with torch.no_grad():
        wanted = walk(model, 4, 1)
        torch.set_num_threads(2)
        try:
            found = walk(model, 4, 1)
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_steps_that_do_not_follow_are_refused(model):
    with torch.no_grad():
        encoder_out, state = model.encoder(*speech(model)), {}
        model.decoder.forward(torch.full((3, 1), 2), encoder_out=encoder_out, incremental_state=state)
        with pytest.raises(ValueError, match="3 hypotheses"):
            model.decoder.forward(torch.full((5, 2), 2), encoder_out=encoder_out, incremental_state=state)


def test_steps_that_do_not_lie_in_one_piece_are_refused(model):
    with torch.no_grad():
        encoder_out, state = model.encoder(*speech(model)), {}
        model.decoder.forward(torch.full((3, 1), 2), encoder_out=encoder_out, incremental_state=state)
        with pytest.raises(ValueError, match="3 hypotheses"):
            state["fused_memory"].advance(torch.randn(40, 3).t())


def test_what_modules_began_they_go_on_with(model, without_kernels):
    tokens = torch.tensor([[2, 5, 6, 7]] * 3)

    def run(start):
        encoder_out, state = model.encoder(*speech(model)), {}

        def step(n):
            return model.decoder.forward(tokens[:, :n], encoder_out=encoder_out, incremental_state=state)[0]

        return torch.cat([start(lambda: step(1)), *(step(n) for n in (2, 3, 4))], dim=1)

    with torch.no_grad():
        wanted = without_kernels(lambda: run(lambda work: work()))
        for start in (without_kernels, lambda work: work()):
            torch.testing.assert_close(run(start), wanted, rtol=0, atol=CLOSE)


def test_names_and_weights_stay_what_they_were(model, artifact):
    names = dict(model.named_modules())
    assert type(names["encoder.transformer_layers.0"]).__name__ == "FusedTransformerEncoderLayer"
    assert type(names["decoder"]).__name__.startswith("Fused") and "decoder.layers.1.encoder_attn.k_proj" in names
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        walk(model, 2, 9)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_real_speech_is_as_near_to_the_float_model_as_without_kernels(samples_dir, tmp_path, without_kernels):
    from asrcompress.ops.load import load_model
    from asrcompress.speech.audio import read_audio
    from asrcompress.speech.datasets import read_utterances

    quantize(samples_dir / "asr/checkpoint_best.pt", tmp_path / "w8a8.safetensors", QuantizeConfig(activations="int8"))
    models = [
        load_model(path, fused=True) for path in (samples_dir / "asr/checkpoint_best.pt", tmp_path / "w8a8.safetensors")
    ]
    family, spec = models[0].source.family, models[0].source.spec
    errors = {"fused": 0.0, "torch": 0.0, "between": 0.0}
    with torch.no_grad():
        for utterance in read_utterances(samples_dir / "asr/test.tsv").utterances[:12]:
            frames = family.features(spec, read_audio(utterance.audio, sample_rate_hz=16_000))
            inputs = pad([frames], models[0].module)
            in_float, fused = (model.module.encoder(*inputs)["encoder_out"][0] for model in models)
            by_torch = without_kernels(lambda inputs=inputs: models[1].module.encoder(*inputs)["encoder_out"][0])
            errors["fused"] += float((fused - in_float).square().sum())
            errors["torch"] += float((by_torch - in_float).square().sum())
            errors["between"] += float((fused - by_torch).square().sum())
    assert 0.9 < errors["fused"] / errors["torch"] < 1.1
    assert 0 < errors["between"] < 0.1 * errors["torch"]


OTHERS = {
    "wide-heads": dict(
        encoder_embed_dim=132, encoder_attention_heads=2, decoder_embed_dim=128, encoder_layers=1, decoder_layers=2
    ),
    "wider-heads": dict(
        encoder_embed_dim=200, encoder_attention_heads=2, decoder_embed_dim=200, encoder_layers=1, decoder_layers=1
    ),
    "groups": dict(granularity="per_group:4", encoder_ffn_embed_dim=96, decoder_ffn_embed_dim=72),
}


@pytest.fixture(scope="module", params=OTHERS)
def other(request, tmp_path_factory):
    """Heads of 66 and 64 or of 100, or scales by group; norms with an epsilon that shows."""
    path = write_artifact(tmp_path_factory.mktemp("other"), **OTHERS[request.param])
    model = build_model(open_source(path), fused=True).module
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 0.5
    return model


def test_other_sizes_and_more_rows_than_a_block_are_the_modules_one_by_one(other, without_kernels):
    def run():
        encoded = other.encoder(*speech(other, LONG))
        return encoded["encoder_out"][0][~encoded["encoder_padding_mask"][0].t()], walk(
            other, 3, 1, beam=36, lengths=LONG
        )

    before = torch.get_num_threads()
    with torch.no_grad():
        (encoded, logits), (encoded_wanted, wanted) = run(), without_kernels(run)
        torch.set_num_threads(2)
        try:
            encoded_by_two, by_two = run()
        finally:
            torch.set_num_threads(before)
    torch.testing.assert_close(encoded, encoded_wanted, rtol=0, atol=CLOSE)
    for ours, theirs, same in zip(logits, wanted, by_two, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=CLOSE)
        assert torch.equal(ours, same)
    assert torch.equal(encoded, encoded_by_two)


def test_what_the_last_batch_was_like_is_not_what_the_next_one_is(model, without_kernels):
    layer, x = model.encoder.transformer_layers[0], torch.randn(20, 2, 48)
    first, second = torch.zeros(2, 20, dtype=torch.bool), torch.zeros(2, 20, dtype=torch.bool)
    first[1, 17:], second[1, 11:] = True, True

    def run():
        inputs = ((x, None), (x, first), (x, second), (x[:11], None), (x[:9], None), (x, first))
        return [layer(part, padding)[: 11 if padding is second else 17] for part, padding in inputs]

    with torch.no_grad():
        for ours, theirs in zip(run(), without_kernels(run), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=CLOSE)


def test_a_layer_leaves_its_input_and_what_is_padding_as_they_are(model):
    layer, x = model.encoder.transformer_layers[0], torch.randn(9, 2, 48)
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[1, 5:] = True
    before = x.clone()
    with torch.no_grad():
        out = layer(x, padding)
        by_steps = layer(x.transpose(0, 1).contiguous().transpose(0, 1), padding)
    assert torch.equal(x, before) and torch.equal(out[5:, 1], x[5:, 1]) and not torch.equal(out[:5], x[:5])
    assert torch.equal(out, by_steps)


def test_a_layer_with_a_mask_or_in_training_is_fairseqs(model, without_kernels):
    layer, x = model.encoder.transformer_layers[0], torch.randn(9, 2, 48)
    later = torch.ones(9, 9).triu(1)
    with torch.no_grad():
        masked, wanted = layer(x, None, attn_mask=later), without_kernels(lambda: layer(x, None, attn_mask=later))
        torch.testing.assert_close(masked, wanted, rtol=0, atol=CLOSE)
        assert (masked - layer(x, None)).abs().max() > CLOSE
        try:
            layer.train()
            layer.dropout_module.p = 0.9
            assert (layer(x, None) - layer(x, None)).abs().max() > CLOSE
        finally:
            layer.eval()


def in_float(linear):
    linear.packed = FloatWeight(linear.packed.dequantize())


def in_groups(linear, number):
    linear.packed.scale = linear.packed.scale.expand(-1, number).contiguous()


UNFIT_LAYERS = {
    "activation": lambda layer: setattr(layer, "activation_fn", F.gelu),
    "norm": lambda layer: setattr(layer, "final_layer_norm", nn.Identity()),
    "norm-without-bias": lambda layer: setattr(
        layer, "self_attn_layer_norm", nn.LayerNorm(layer.embed_dim, bias=False)
    ),
    "float-activations": lambda layer: setattr(layer.fc1, "activations", "none"),
    "float-weight": lambda layer: in_float(layer.fc2),
    "groups-that-cut-words": lambda layer: in_groups(layer.self_attn.out_proj, layer.embed_dim // 2),
    "groups-that-differ": lambda layer: in_groups(layer.self_attn.k_proj, 2),
}
UNFIT_DECODER_LAYERS = {
    "cross-groups-that-differ": lambda layer: in_groups(layer.encoder_attn.v_proj, 2),
    "cross-heads": lambda layer: setattr(layer.encoder_attn, "num_heads", 4),
    "heads-of-no-words": lambda layer: [
        setattr(attention, "num_heads", 4) for attention in (layer.self_attn, layer.encoder_attn)
    ],
    "another-norm": lambda layer: setattr(layer, "ffn_layernorm", nn.LayerNorm(70)),
}
UNFIT_DECODERS = {
    "adaptive-softmax": lambda decoder: setattr(decoder, "adaptive_softmax", nn.Identity()),
    "project-out": lambda decoder: setattr(decoder, "project_out_dim", nn.Identity()),
    "noise": lambda decoder: setattr(decoder, "quant_noise", nn.Identity()),
    "cross-self": lambda decoder: setattr(decoder, "cross_self_attention", True),
    "float-output": lambda decoder: in_float(decoder.output_projection),
    "final-norm": lambda decoder: setattr(decoder, "layer_norm", nn.Identity()),
}


@pytest.fixture
def apart(artifact):
    return build_model(open_source(artifact)).module


@pytest.mark.parametrize(
    "change",
    [*UNFIT_LAYERS.values(), lambda layer: setattr(layer, "return_fc", True)],
    ids=[*UNFIT_LAYERS, "return-fc"],
)
def test_an_encoder_layer_that_the_kernels_would_get_wrong_is_left_alone(apart, change):
    change(apart.encoder.transformer_layers[0])
    assert fuse(apart) == 1
    assert [type(layer).__name__.startswith("Fused") for layer in apart.encoder.transformer_layers] == [False, True]


@pytest.mark.parametrize(
    "change", [*UNFIT_LAYERS.values(), *UNFIT_DECODER_LAYERS.values()], ids=[*UNFIT_LAYERS, *UNFIT_DECODER_LAYERS]
)
def test_a_decoder_with_layers_that_the_kernels_would_get_wrong_is_left_alone(apart, change):
    for layer in apart.decoder.layers:
        change(layer)
    assert not fuse_decoder(apart) and not type(apart.decoder).__name__.startswith("Fused")


@pytest.mark.parametrize("change", UNFIT_DECODERS.values(), ids=UNFIT_DECODERS)
def test_a_decoder_that_the_kernels_would_get_wrong_is_left_alone(apart, change):
    change(apart.decoder)
    assert not fuse_decoder(apart) and not type(apart.decoder).__name__.startswith("Fused")


def test_a_whole_sentence_given_at_once_is_fairseqs(model, without_kernels):
    """Also after rows were told to be copied."""
    tokens, rows = torch.tensor([[2, 5, 6, 7]] * 4), torch.tensor([1, 0, 2, 1])

    def run():
        encoder_out = model.encoder.reorder_encoder_out(model.encoder(*speech(model)), rows)
        state = {}
        steps = [
            model.decoder.forward(tokens[:, : n + 1], encoder_out=encoder_out, incremental_state=state)[0]
            for n in range(4)
        ]
        return model.decoder.forward(tokens, encoder_out=encoder_out)[0], torch.cat(steps, dim=1)

    with torch.no_grad():
        (found, stepped), (wanted, wanted_stepped) = run(), without_kernels(run)
    torch.testing.assert_close(found, wanted, rtol=0, atol=CLOSE)
    torch.testing.assert_close(stepped, wanted_stepped, rtol=0, atol=CLOSE)
    torch.testing.assert_close(stepped, wanted, rtol=0, atol=CLOSE)


def test_tokens_are_embedded_as_fairseq_does(model, without_kernels):
    """Projected and normed, where a model has such."""
    torch.manual_seed(7)
    model.decoder.project_in_dim, model.decoder.layernorm_embedding = nn.Linear(40, 40), nn.LayerNorm(40)
    model.decoder.embed_scale = 3.0
    model.decoder.layernorm_embedding.weight.data.uniform_(0.2, 2.0)
    with torch.no_grad():
        found, wanted = walk(model, 4, 1), without_kernels(lambda: walk(model, 4, 1))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=CLOSE)


def test_under_a_trace_of_operators_steps_are_the_modules(model):
    from asrcompress.metrics.cost import count_macs

    with torch.no_grad():
        count = count_macs(model, lambda: walk(model, 2, 9))
    assert any("decoder.layers.1" in record.module for record in count.records)
