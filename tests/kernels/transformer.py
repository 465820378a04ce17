"""A small s2t_transformer of Fairseq's as a W8A8 artifact, speech for it, and a beam search that chooses by dice."""

from __future__ import annotations

import argparse

import torch

from asrcompress.models.s2t import pad
from asrcompress.ops.quantize import quantize
from asrcompress.ops.recipe import QuantizeConfig

BEAM = 3


def write_artifact(folder, *, granularity="per_channel", **sizes):
    """A small s2t_transformer of Fairseq's as a W8A8 artifact."""
    from fairseq.data import Dictionary
    from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerModel, base_architecture

    from tests.fixtures.fairseq_files import PIECES, age, save_checkpoint, write_dictionary

    write_dictionary(folder / "dict.txt", PIECES)
    (folder / "config.yaml").write_text(
        "vocab_filename: dict.txt\ninput_feat_per_channel: 80\ntransforms: {'*': [utterance_cmvn]}\n"
    )
    arguments = dict(
        arch="s2t_transformer_s", task="speech_to_text", data=".", config_yaml="config.yaml", conv_channels=32,
        encoder_embed_dim=48, encoder_ffn_embed_dim=100, encoder_layers=2, encoder_attention_heads=4, decoder_layers=2,
        decoder_embed_dim=40, decoder_ffn_embed_dim=70, decoder_attention_heads=2, input_feat_per_channel=80, input_channels=1,
        max_source_positions=3000, max_target_positions=80, encoder_normalize_before=True, decoder_normalize_before=True,
    )  # fmt: skip
    args = argparse.Namespace(**(arguments | sizes))
    base_architecture(args)
    torch.manual_seed(1)
    task = argparse.Namespace(target_dictionary=Dictionary.load(str(folder / "dict.txt")), source_dictionary=None)
    model = S2TTransformerModel.build_model(args, task)
    age(model)
    checkpoint = save_checkpoint(folder / "checkpoint.pt", args, model)
    config = QuantizeConfig(num_bits=8, activations="int8", granularity=granularity)
    quantize(checkpoint, folder / "w8a8.safetensors", config)
    return folder / "w8a8.safetensors"


def speech(model, lengths=(120, 61, 90)):
    torch.manual_seed(5)
    return pad([torch.randn(length, 80) for length in lengths], model)


def walk(model, num_steps, shrink_at, *, beam=BEAM, lengths=(120, 61, 90)):
    """Logits of a beam search that chooses by dice, and drops an utterance on its way."""
    dice = torch.Generator().manual_seed(0)
    encoder_out = model.encoder(*speech(model, lengths))
    encoder_out = model.encoder.reorder_encoder_out(encoder_out, torch.arange(3).repeat_interleave(beam))
    tokens, state, logits = torch.full((3 * beam, 1), 2), {}, []
    for step in range(num_steps):
        out, _ = model.decoder.forward(tokens, encoder_out=encoder_out, incremental_state=state)
        logits.append(out[:, -1])
        tokens = torch.cat([tokens, torch.randint(4, out.shape[-1], (len(tokens), 1), generator=dice)], dim=1)
        order = torch.arange(len(tokens)).view(-1, beam)
        order = order[::2] if step == shrink_at else order
        order = order[:, torch.randint(0, beam, (beam,), generator=dice)].reshape(-1)
        model.decoder.reorder_incremental_state_scripting(state, order)
        encoder_out, tokens = model.encoder.reorder_encoder_out(encoder_out, order), tokens[order]
    return logits
