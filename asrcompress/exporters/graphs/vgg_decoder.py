"""Fairseq's VGG transformer with a decoder as two graphs; its decoder has causal convolutions where others have positions."""

from __future__ import annotations

from typing import Any

from asrcompress.exporters import Subject
from asrcompress.exporters.graphs import layers
from asrcompress.exporters.graphs.convolution import convolution
from asrcompress.exporters.graphs.decoding import Caches, compare, give_encoder_outputs
from asrcompress.exporters.graphs.graph import FLOAT, INT64, LARGEST, Graph
from asrcompress.exporters.graphs.vgg import vgg_encoder

__all__ = ["compare", "graphs"]


def graphs(subject: Subject) -> list[Graph]:
    """The encoder and the decoder's step."""
    grids = subject.content.grids if subject.content else None
    return [_encoder(subject, grids), _decoder(subject.module, grids)]


def _encoder(subject: Subject, grids: Any) -> Graph:
    """features (batch, frames, bins) and lengths (batch,) -> encoder_out (batch, time, dim), its lengths, keys and values."""
    model: Any = subject.module
    role = "encoder: features -> encoder_out, and the keys and values that the decoder attends to"
    graph, bins = Graph("encoder", role, grids), subject.spec.config["front_end"]["num_mel_bins"]
    features, lengths = (
        graph.input("features", FLOAT, ["batch", "frames", bins]),
        graph.input("lengths", INT64, ["batch"]),
    )
    x, lengths = vgg_encoder(graph, model.encoder, graph.point(features, "input"), lengths)
    give_encoder_outputs(graph, model.decoder, x, lengths, model.encoder.encoder_output_dim)
    return graph


def _decoder(model: Any, grids: Any) -> Graph:
    """tokens (batch, new) and caches -> logits (batch, new, units) of what comes next, and grown caches; see Caches.

    past_frames_<layer> (batch, channels, kernel - 1): what a convolution reaches back to, zeros at first.
    """
    part = model.decoder
    graph = Graph("decoder", "decoder: tokens and caches -> logits of the next tokens, and grown caches", grids)
    tokens = graph.input("tokens", INT64, ["batch", "new"])
    caches = Caches(graph, part, tokens)
    x = layers.embedding(graph, "decoder.embed_tokens", part.embed_tokens, tokens)
    for index, layer in enumerate(part.conv_layers):
        name = f"decoder.conv_layers.{index}"
        if hasattr(layer, "conv"):
            x = _causal(graph, name, index, layer.conv, x)
        elif hasattr(layer, "eps") or hasattr(layer, "float_norm"):
            x = layers.layer_norm(graph, name, layer, x)
        else:
            x = layers.module_activation(graph, name, layer, x)
    for index, layer in enumerate(part.layers):
        if hasattr(layer, "self_attn"):
            x = caches.run(index, layer, x)
        else:
            x = layers.linear(graph, f"decoder.layers.{index}", layer, x)
    logits = layers.linear(graph, "decoder.fc_out", part.fc_out, x)
    graph.output("logits", logits, FLOAT, ["batch", "new", part.fc_out.out_features])
    return graph


def _causal(graph: Graph, name: str, index: int, conv: Any, x: str) -> str:
    """A convolution over the past: (batch, new, in) -> (batch, new, out)."""
    _, channels, kernel = conv.packed.shape if hasattr(conv, "packed") else conv.weight.shape
    shape = ["batch", channels, kernel - 1]
    past = graph.input(f"past_frames_{index}", FLOAT, shape)
    window = graph.op("Concat", past, graph.transpose(x, 0, 2, 1), axis=2)
    kept = graph.slice(window, 1 - kernel, LARGEST, 2) if kernel > 1 else past
    graph.output(f"new_frames_{index}", kept, FLOAT, shape)
    return graph.transpose(convolution(graph, f"{name}.conv", conv, window), 0, 2, 1)
