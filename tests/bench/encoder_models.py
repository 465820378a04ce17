"""The encoders that bench_encoder.py compares: Fairseq's, on disk and loaded, and the same weights in plain torch modules.

Fairseq's attention hands its weights past its modules, so no general tool can quantize it: the plain one is what a
user would have to write first. Weights are random; norms and biases are moved from 1 and 0.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYERS, FFN, NUM_BINS = 12, 2048, 80


def write_checkpoint(folder: Path, dim: int, *, layers: int = LAYERS, seed: int = 0) -> Path:
    """A checkpoint of s2t_transformer as fairseq-train leaves it, with one decoder layer: it is the encoder that is timed."""
    from asrcompress.models.fairseq_adapter import import_fairseq, quiet
    from tests.fixtures.fairseq_files import PIECES, age, save_checkpoint, write_dictionary

    write_dictionary(folder / "dict.txt", PIECES)
    (folder / "config.yaml").write_text(f"vocab_filename: dict.txt\ninput_feat_per_channel: {NUM_BINS}\n")
    args = argparse.Namespace(
        arch="s2t_transformer_s", task="speech_to_text", data=".", config_yaml="config.yaml", encoder_embed_dim=dim,
        encoder_ffn_embed_dim=FFN, encoder_layers=layers, encoder_attention_heads=dim // 64, decoder_layers=1, decoder_embed_dim=dim,
        decoder_ffn_embed_dim=FFN, decoder_attention_heads=dim // 64, share_decoder_input_output_embed=True,
        input_feat_per_channel=NUM_BINS, input_channels=1, max_source_positions=6000, max_target_positions=1024,
    )  # fmt: skip
    fairseq = import_fairseq()
    with quiet():
        fairseq.s2t.base_architecture(args)
        dictionary = fairseq.Dictionary.load(str(folder / "dict.txt"))
        torch.manual_seed(seed)
        task = argparse.Namespace(target_dictionary=dictionary, source_dictionary=None)
        model = fairseq.s2t.S2TTransformerModel.build_model(args, task)
    age(model)
    return save_checkpoint(folder / "checkpoint_best.pt", args, model)


class Ready(nn.Module):
    """In the place of a subsampler: the frames it is given are subsampled already."""

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, time, dim) -> (time, batch, dim)."""
        return x.transpose(0, 1), lengths


class FairseqEncoder(nn.Module):
    """One input, one output: (batch, time, bins or dim), all of full length -> (batch, time, dim)."""

    def __init__(self, encoder: Any, part: str) -> None:
        super().__init__()
        if part == "layers":
            encoder.subsample = Ready()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """As Fairseq's beam search calls it."""
        lengths = torch.full((x.shape[0],), x.shape[1])
        out: Tensor = self.encoder(x, lengths)["encoder_out"][0]
        return out.transpose(0, 1)


class PlainAttention(nn.Module):
    def __init__(self, source: Any) -> None:
        super().__init__()
        self.num_heads = source.num_heads
        self.q_proj, self.k_proj = source.q_proj, source.k_proj
        self.v_proj, self.out_proj = source.v_proj, source.out_proj

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, dim) -> the same."""
        batch, time, dim = x.shape
        q, k, v = (
            layer(x).view(batch, time, self.num_heads, dim // self.num_heads).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(out.transpose(1, 2).reshape(batch, time, dim))


class PlainLayer(nn.Module):
    """Pre-norm, ReLU."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.attention = PlainAttention(source.self_attn)
        self.attention_norm, self.norm = _norm(source.self_attn_layer_norm), _norm(source.final_layer_norm)
        self.fc1, self.fc2 = source.fc1, source.fc2

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, dim) -> the same."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.fc2(F.relu(self.fc1(self.norm(x))))


class PlainEncoder(nn.Module):
    """Fairseq's encoder, written with nn.Linear, nn.LayerNorm, nn.Conv1d and torch's fused attention."""

    def __init__(self, encoder: Any, part: str) -> None:
        super().__init__()
        self.convs = nn.ModuleList(encoder.subsample.conv_layers if part == "whole" else [])
        self.scale = float(encoder.embed_scale)
        positions = encoder.embed_positions(torch.zeros(1, 1500, dtype=torch.bool))
        self.register_buffer("positions", positions.detach().clone())
        self.layers = nn.ModuleList(map(PlainLayer, encoder.transformer_layers))
        self.layer_norm = _norm(encoder.layer_norm)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, bins or dim) -> (batch, time, dim)."""
        if len(self.convs):
            x = x.transpose(1, 2)
            for conv in self.convs:
                x = F.glu(conv(x), dim=1)
            x = x.transpose(1, 2)
        x = x * self.scale + self.positions[:, : x.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x)


def _norm(source: Any) -> nn.LayerNorm:
    norm = nn.LayerNorm(source.normalized_shape, eps=source.eps)
    norm.load_state_dict(source.state_dict())
    return norm


def count_macs(dim: int, batch: int, time: int, part: str, *, layers: int = LAYERS) -> int:
    """Multiply-accumulates of all products: projections, feed-forward, attention's two products, and convolutions."""
    per_layer = time * (4 * dim * dim + 2 * dim * FFN) + 2 * time * time * dim
    channels = 1024
    convs = 2 * time * 5 * NUM_BINS * channels + time * 5 * (channels // 2) * 2 * dim
    return batch * (layers * per_layer + (convs if part == "whole" else 0))


def inputs(dim: int, batch: int, time: int, part: str) -> Tensor:
    """Random frames: (batch, 4 * time, bins) for the whole encoder, (batch, time, dim) for its layers alone."""
    generator = torch.Generator().manual_seed(1)
    shape = (batch, 4 * time, NUM_BINS) if part == "whole" else (batch, time, dim)
    return torch.randn(shape, generator=generator) * (1.0 if part == "whole" else math.sqrt(1 / dim) * 2)
