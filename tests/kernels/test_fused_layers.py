"""Fairseq's encoder layers and decoder run whole, against the same modules one by one; and that they are run whole."""

from __future__ import annotations

import argparse

import pytest
import torch

from asrcompress.models.s2t import pad
from asrcompress.ops.load import build_model, open_source
from asrcompress.ops.quantize import quantize
from asrcompress.ops.recipe import QuantizeConfig

CLOSE = 0.05  # a code that falls to the other side of a half moves everything behind it a little; outputs are of size 1
BEAM = 3


@pytest.fixture(scope="module", params=[True, False], ids=["pre-norm", "post-norm"])
def artifact(request, tmp_path_factory):
    """A small s2t_transformer of Fairseq's as a W8A8 artifact."""
    from fairseq.data import Dictionary
    from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel, base_architecture

    from tests.fixtures.fairseq_files import PIECES, age, save_checkpoint, write_dictionary

    folder = tmp_path_factory.mktemp("fused")
    write_dictionary(folder / "dict.txt", PIECES)
    (folder / "config.yaml").write_text("vocab_filename: dict.txt\ninput_feat_per_channel: 80\ntransforms: {'*': [utterance_cmvn]}\n")
    args = argparse.Namespace(
        arch="s2t_transformer_s", task="speech_to_text", data=".", config_yaml="config.yaml", conv_channels=32,
        encoder_embed_dim=48, encoder_ffn_embed_dim=100, encoder_layers=2, encoder_attention_heads=4, decoder_layers=2,
        decoder_embed_dim=40, decoder_ffn_embed_dim=70, decoder_attention_heads=2, input_feat_per_channel=80, input_channels=1,
        max_source_positions=3000, max_target_positions=80, encoder_normalize_before=request.param, decoder_normalize_before=request.param,
    )  # fmt: skip
    base_architecture(args)
    torch.manual_seed(1)
    task = argparse.Namespace(target_dictionary=Dictionary.load(str(folder / "dict.txt")), source_dictionary=None)
    model = S2TTransformerModel.build_model(args, task)
    age(model)
    checkpoint = save_checkpoint(folder / "checkpoint.pt", args, model)
    quantize(checkpoint, folder / "w8a8.safetensors", QuantizeConfig(num_bits=8, activations="int8"))
    return folder / "w8a8.safetensors"


@pytest.fixture
def model(artifact):
    return build_model(open_source(artifact), fused=True).module


def speech(model, lengths=(120, 61, 90)):
    torch.manual_seed(5)
    return pad([torch.randn(length, 80) for length in lengths], model)


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


def walk(model, num_steps, shrink_at):
    """Logits of a beam search that chooses by dice, and drops an utterance on its way."""
    dice = torch.Generator().manual_seed(0)
    encoder_out = model.encoder(*speech(model))
    encoder_out = model.encoder.reorder_encoder_out(encoder_out, torch.arange(3).repeat_interleave(BEAM))
    tokens, state, logits = torch.full((3 * BEAM, 1), 2), {}, []
    for step in range(num_steps):
        out, _ = model.decoder.forward(tokens, encoder_out=encoder_out, incremental_state=state)
        logits.append(out[:, -1])
        tokens = torch.cat([tokens, torch.randint(4, out.shape[-1], (len(tokens), 1), generator=dice)], dim=1)
        order = torch.arange(len(tokens)).view(-1, BEAM)
        order = order[::2] if step == shrink_at else order
        order = order[:, torch.randint(0, BEAM, (BEAM,), generator=dice)].reshape(-1)
        model.decoder.reorder_incremental_state_scripting(state, order)
        encoder_out, tokens = model.encoder.reorder_encoder_out(encoder_out, order), tokens[order]
    return logits


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
    models = [load_model(path, fused=True) for path in (samples_dir / "asr/checkpoint_best.pt", tmp_path / "w8a8.safetensors")]
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
