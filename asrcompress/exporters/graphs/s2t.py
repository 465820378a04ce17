"""Fairseq's speech-to-text transformer as two graphs: the encoder, and a step of the decoder.

The encoder also gives the keys and values that the decoder attends to in every step: they depend on the audio alone. A step
takes tokens and what earlier steps left, so that a beam search can run outside, in any language.
"""

from __future__ import annotations

from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.exporters import Subject
from asrcompress.exporters.graphs import conformer, layers, transformer
from asrcompress.exporters.graphs.convolution import convolution, frames_out
from asrcompress.exporters.graphs.decoding import Caches, compare, give_encoder_outputs
from asrcompress.exporters.graphs.graph import FLOAT, INT64, Graph
from asrcompress.integers.grid import Grid

Grids = dict[str, Grid]


__all__ = ["compare", "graphs"]


def graphs(subject: Subject) -> list[Graph]:
    """The encoder and the decoder's step."""
    grids = subject.content.grids if subject.content else {}
    return [
        encoder(subject.module, subject.spec.config["front_end"]["num_mel_bins"], grids),
        decoder(subject.module, grids),
    ]


def encoder(model: Any, num_bins: int, grids: Grids) -> Graph:
    """features (batch, frames, bins) and lengths (batch,) -> encoder_out (batch, time, dim), its lengths, keys and values."""
    graph = Graph(
        "encoder", "encoder: features -> encoder_out, and the keys and values that the decoder attends to", grids
    )
    features = graph.input("features", FLOAT, ["batch", "frames", num_bins])
    lengths = graph.input("lengths", INT64, ["batch"])
    part = model.encoder
    with graph.at(""):
        features = graph.point(features, "input")
    x, lengths = subsample(graph, part.subsample, features, lengths)
    seen = layers.seen_frames(graph, lengths, graph.shape(x, 1))
    encode = conformer_encoder if hasattr(part, "conformer_layers") else transformer_encoder
    x = encode(graph, part, x, seen)
    give_encoder_outputs(graph, model.decoder, x, lengths, model.decoder.embed_dim)
    return graph


def transformer_encoder(graph: Graph, part: Any, x: str, seen: str) -> str:
    """What S2TTransformerEncoder does behind subsampling."""
    x = placed(graph, part, x, seen)
    hidden = layers.hidden_keys(graph, seen)
    for index, layer in enumerate(part.transformer_layers):
        x = transformer.encoder_layer(graph, f"encoder.transformer_layers.{index}", layer, x, hidden)
    return x if part.layer_norm is None else layers.layer_norm(graph, "encoder.layer_norm", part.layer_norm, x)


def conformer_encoder(graph: Graph, part: Any, x: str, seen: str) -> str:
    """What S2TConformerEncoder does behind subsampling."""
    relative = None
    if part.pos_enc_type == "rel_pos":
        dim = part.linear.in_features
        x, relative = transformer.scaled(graph, x, part.embed_scale), conformer.distances(graph, dim, graph.shape(x, 1))
    elif part.embed_positions is None:
        x = transformer.scaled(graph, x, part.embed_scale)
    else:
        x = placed(graph, part, x, seen)
    x = layers.linear(graph, "encoder.linear", part.linear, x)
    hidden, shown = layers.hidden_keys(graph, seen), layers.as_floats(graph, seen)
    for index, layer in enumerate(part.conformer_layers):
        x = conformer.encoder_layer(graph, f"encoder.conformer_layers.{index}", layer, x, hidden, shown, relative)
    return x


def placed(graph: Graph, part: Any, x: str, seen: str) -> str:
    """Scaled, with absolute positions added to what is not padding."""
    with graph.at("encoder"):
        x = transformer.scaled(graph, x, part.embed_scale)
        rows = transformer.positions(graph, "encoder.embed_positions", part.embed_positions, graph.shape(x, 1), None)
        return graph.point(graph.op("Add", x, layers.hide(graph, rows, layers.as_floats(graph, seen), 1, 3)), "add")


def decoder(model: Any, grids: Grids) -> Graph:
    """tokens (batch, new) and caches -> logits (batch, new, units) of what comes next, and grown caches.

    The first token is the end of sentence, </s>; see Caches.
    """
    part = model.decoder
    graph = Graph("decoder", "decoder: tokens and caches -> logits of the next tokens, and grown caches", grids)
    if part.adaptive_softmax is not None or part.project_in_dim is not None or part.project_out_dim is not None:
        raise AsrCompressError(
            "a decoder with an adaptive softmax or other widths than its embeddings has no ONNX form here"
        )
    tokens = graph.input("tokens", INT64, ["batch", "new"])
    caches = Caches(graph, part, tokens)
    with graph.at("decoder"):
        x = transformer.scaled(
            graph, layers.embedding(graph, "decoder.embed_tokens", part.embed_tokens, tokens), part.embed_scale
        )
        if part.embed_positions is not None:
            rows = transformer.positions(
                graph, "decoder.embed_positions", part.embed_positions, caches.new, caches.past
            )
            x = graph.point(graph.op("Add", x, rows), "add")
    if part.layernorm_embedding is not None:
        x = layers.layer_norm(graph, "decoder.layernorm_embedding", part.layernorm_embedding, x)
    for index, layer in enumerate(part.layers):
        x = caches.run(index, layer, x)
    if part.layer_norm is not None:
        x = layers.layer_norm(graph, "decoder.layer_norm", part.layer_norm, x)
    logits = layers.linear(graph, "decoder.output_projection", part.output_projection, x)
    graph.output("logits", logits, FLOAT, ["batch", "new", part.output_projection.out_features])
    return graph


def subsample(graph: Graph, module: Any, features: str, lengths: str) -> tuple[str, str]:
    """Fairseq's Conv1dSubsampler or Conv2dSubsampler: (batch, frames, bins) -> (batch, time, dim) and the lengths left."""
    if not hasattr(module, "conv_layers"):
        return _subsample_2d(graph, module, features, lengths)
    x = graph.transpose(features, 0, 2, 1)
    with graph.at("encoder.subsample"):
        for index, conv in enumerate(module.conv_layers):
            seen = layers.as_floats(graph, layers.seen_frames(graph, lengths, graph.shape(x, 2)))
            x = layers.hide(graph, x, seen, 2, 3)
            x = layers.glu(graph, convolution(graph, f"encoder.subsample.conv_layers.{index}", conv, x), 1)
            lengths = frames_out(graph, lengths, conv.kernel_size[0], conv.stride[0], conv.kernel_size[0] // 2)
    return graph.transpose(x, 0, 2, 1), lengths


def _subsample_2d(graph: Graph, module: Any, features: str, lengths: str) -> tuple[str, str]:
    """Convolutions over time and bins, with activations between, and a projection."""
    x = graph.op("Unsqueeze", features, graph.integers(1))
    frames = lengths
    for index, layer in enumerate(module.conv):
        name = f"encoder.subsample.conv.{index}"
        if not hasattr(layer, "kernel_size"):
            x = layers.module_activation(graph, name, layer, x)
            continue
        seen = layers.as_floats(graph, layers.seen_frames(graph, frames, graph.shape(x, 2)))
        x = convolution(graph, name, layer, layers.hide(graph, x, seen, 2, 4))
        frames = frames_out(graph, frames, layer.kernel_size[0], layer.stride[0], layer.kernel_size[0] // 2)
    x = graph.transpose(x, 0, 2, 1, 3)
    x = graph.op("Reshape", x, graph.op("Concat", graph.op("Shape", x, start=0, end=2), graph.integers(-1), axis=0))
    return layers.linear(graph, "encoder.subsample.out", module.out, x), frames
