"""Fairseq's conformer encoder as ONNX nodes: ESPnet's attention with absolute, relative or rotary positions. (batch, time, dim)."""

from __future__ import annotations

import math
from typing import Any

import torch

from asrcompress.errors import AsrCompressError
from asrcompress.exporters.graphs import layers
from asrcompress.exporters.graphs.convolution import convolution
from asrcompress.exporters.graphs.graph import FLOAT, INT64, LARGEST, Graph
from asrcompress.modules.positions import UNIT_GRID


def encoder_layer(graph: Graph, name: str, layer: Any, x: str, hidden: str, seen: str, placed: str | None) -> str:
    """ConformerEncoderLayer: half a feed-forward, attention, convolution, half a feed-forward, each added to what it got.

    seen: (batch, time) floats, 1 before an utterance's end. placed: embeddings of distances, for relative positions.
    """
    with graph.at(name):
        x = _added(graph, _halved(graph, _feed_forward(graph, f"{name}.ffn1", layer.ffn1, x)), x)
        normed = layers.layer_norm(graph, f"{name}.self_attn_layer_norm", layer.self_attn_layer_norm, x)
        x = _added(graph, attention(graph, f"{name}.self_attn", layer.self_attn, normed, hidden, placed), x)
        x = _added(graph, x, _convolution(graph, f"{name}.conv_module", layer.conv_module, x, seen))
        x = _added(graph, _halved(graph, _feed_forward(graph, f"{name}.ffn2", layer.ffn2, x)), x)
    return layers.layer_norm(graph, f"{name}.final_layer_norm", layer.final_layer_norm, x)


def distances(graph: Graph, dim: int, time: str) -> str:
    """RelPositionalEncoding: (1, 2 time - 1, dim), from time - 1 to the left down to time - 1 to the right."""
    double = graph.op("Sub", graph.op("Add", time, time), graph.constant(1, INT64))
    numbers = graph.op("Sub", graph.op("Sub", time, graph.constant(1, INT64)), graph.count(double))
    angles = _angles(
        graph, numbers, torch.exp(torch.arange(0, dim, 2, dtype=torch.float32) * -(math.log(10000.0) / dim))
    )
    parts = [graph.op("Unsqueeze", graph.op(kind, angles), graph.integers(-1)) for kind in ("Sin", "Cos")]
    out = graph.op("Reshape", graph.op("Concat", *parts, axis=-1), graph.integers(1, -1, dim))
    return graph.on_grid(out, UNIT_GRID) if graph.grids else out


def attention(graph: Graph, name: str, module: Any, x: str, hidden: str, placed: str | None) -> str:
    """Self-attention of any of the kinds that a conformer layer has."""
    if hasattr(module, "q_proj"):
        return layers.attention(graph, name, module, x, hidden=hidden)[0]
    count = module.num_heads if hasattr(module, "num_heads") else module.h
    width = module.linear_q.out_features // count
    activations = getattr(module, "activations", "none")

    def project(short: str, value: str) -> str:
        projected = layers.linear(graph, f"{name}.{short}", getattr(module, short), value)
        return layers.heads(graph, projected, count, width)

    with graph.at(name):
        turned = _turned(graph, name, module, x, count, width) if hasattr(module, "rotary_emb") else x
        q, extra = project("linear_q", turned), None
        if hasattr(module, "linear_pos"):
            if placed is None:
                raise AsrCompressError(f"{name}: relative attention without relative positions has no ONNX form here")
            of_keys, of_distances = (
                graph.point(_scaled(graph, _biased(graph, name, module, short, q), width), "q") for short in ("pos_bias_u", "pos_bias_v")
            )  # fmt: skip
            keys = graph.point(project("linear_pos", placed), "operand")
            q, extra = (
                of_keys,
                _shifted(graph, graph.point(layers.scores(graph, of_distances, keys, activations), "distances")),
            )
        else:
            q = graph.point(_scaled(graph, q, width), "q")
        k, v = graph.point(project("linear_k", turned), "k"), graph.point(project("linear_v", x), "v")
        out = layers.attend(graph, q, k, v, activations, hidden, extra)
        out = graph.reshape(graph.transpose(out, 0, 2, 1, 3), 0, 0, count * width)
        return layers.linear(graph, f"{name}.linear_out", module.linear_out, out)


def _scaled(graph: Graph, q: str, width: int) -> str:
    return graph.op("Mul", q, graph.constant(width**-0.5))


def _biased(graph: Graph, name: str, module: Any, short: str, q: str) -> str:
    """q (batch, heads, time, width) with a bias a head."""
    bias = module.query_biases[short].bias if hasattr(module, "query_biases") else getattr(module, short)
    with graph.at(f"{name}.query_biases.{short}"):
        return graph.point(graph.op("Add", q, graph.floats(bias.unsqueeze(1))), "add")


def _shifted(graph: Graph, scores: str) -> str:
    """Scores by distance (batch, heads, time, 2 time - 1) -> by key (batch, heads, time, time): rows become diagonals."""
    time = graph.shape(scores, 2)
    padded = graph.op("Pad", scores, graph.integers(0, 0, 0, 1, 0, 0, 0, 0), graph.constant(0.0))
    rows = graph.op("Reshape", padded, graph.op("Concat", graph.integers(0, 0, -1), time, axis=0))
    rows = graph.slice(rows, 1, LARGEST, 2)
    rows = graph.op("Reshape", rows, graph.op("Concat", graph.integers(0, 0), time, graph.integers(-1), axis=0))
    return graph.op("Slice", rows, graph.integers(0), time, graph.integers(3))


def _turned(graph: Graph, name: str, module: Any, x: str, count: int, width: int) -> str:
    """Rotary positions: x cos + (the halves of each head exchanged, one negated) sin."""
    steps = 1.0 / (10000 ** (torch.arange(0, width, 2).float() / width))
    steps = module.rotary_emb.inv_freq.float() if hasattr(module.rotary_emb, "inv_freq") else steps
    angles = _angles(graph, graph.count(graph.shape(x, 1)), steps)
    angles = graph.op("Unsqueeze", graph.op("Concat", angles, angles, axis=-1), graph.integers(1))  # (time, 1, width)
    cos, sin = (graph.op(kind, angles) for kind in ("Cos", "Sin"))
    if graph.grids:
        cos, sin = graph.on_grid(cos, UNIT_GRID), graph.on_grid(sin, UNIT_GRID)
    split = graph.reshape(x, 0, 0, count, width)
    first, second = graph.ops("Split", 2, split, axis=-1, num_outputs=2)
    exchanged = graph.op("Concat", graph.op("Neg", second), first, axis=-1)
    kept = graph.point(graph.op("Mul", split, cos), "mul")
    moved = graph.point(graph.op("Mul", exchanged, sin), "mul")
    return graph.reshape(graph.point(graph.op("Add", kept, moved), "add"), 0, 0, count * width)


def _angles(graph: Graph, numbers: str, steps: torch.Tensor) -> str:
    """(count,) numbers times (width,) steps -> (count, width) float."""
    column = graph.op("Unsqueeze", layers.as_floats(graph, numbers), graph.integers(1))
    return graph.op("Mul", column, graph.constant(steps.numpy(), FLOAT))


def _convolution(graph: Graph, name: str, module: Any, x: str, seen: str) -> str:
    """ConvolutionModule."""
    x = graph.transpose(layers.layer_norm(graph, f"{name}.layer_norm", module.layer_norm, x), 0, 2, 1)
    x = convolution(graph, f"{name}.pointwise_conv1", module.pointwise_conv1, x)
    with graph.at(f"{name}.glu"):
        x = layers.hide(graph, layers.glu(graph, x, 1), seen, 2, 3)
    x = convolution(graph, f"{name}.depthwise_conv", module.depthwise_conv, x)
    x = layers.batch_norm(graph, f"{name}.batch_norm", module.batch_norm, x)
    x = layers.module_activation(graph, f"{name}.activation", module.activation, x)
    return graph.transpose(convolution(graph, f"{name}.pointwise_conv2", module.pointwise_conv2, x), 0, 2, 1)


def _feed_forward(graph: Graph, name: str, module: Any, x: str) -> str:
    """FeedForwardModule."""
    x = layers.linear(
        graph, f"{name}.w_1", module.w_1, layers.layer_norm(graph, f"{name}.layer_norm", module.layer_norm, x)
    )
    return layers.linear(
        graph, f"{name}.w_2", module.w_2, layers.module_activation(graph, f"{name}.activation", module.activation, x)
    )


def _halved(graph: Graph, x: str) -> str:
    return graph.op("Mul", x, graph.constant(0.5))


def _added(graph: Graph, one: str, other: str) -> str:
    return graph.point(graph.op("Add", one, other), "add")
