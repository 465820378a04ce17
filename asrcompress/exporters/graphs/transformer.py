"""Fairseq's transformer layers and positions as ONNX nodes, for encoders and for steps of a decoder. (batch, time, dim)."""

from __future__ import annotations

import math
from typing import Any

import torch

from asrcompress.errors import AsrCompressError
from asrcompress.exporters.graphs import layers
from asrcompress.exporters.graphs.graph import Graph
from asrcompress.modules.positions import UNIT_GRID


def scaled(graph: Graph, x: str, factor: float) -> str:
    """Times a number, which changes a static grid alone."""
    return x if factor == 1 else graph.op("Mul", x, graph.constant(factor))


def positions(graph: Graph, name: str, module: Any, new: str, past: str | None) -> str:
    """Embeddings (1, new, dim) of the positions behind `past` ones: learned rows, or sinusoids, computed as the graph runs."""
    padding_idx = module.padding_idx or 0
    first = graph.integers(padding_idx + 1)
    if past is not None:
        first = graph.op("Add", past, first)
    index = graph.op("Unsqueeze", graph.count(new, first), graph.integers(0))
    if hasattr(module, "num_embeddings"):
        return layers.embedding(graph, name, module, index)
    dim = module.embedding_dim
    step = -(math.log(10000) / (dim // 2 - 1))
    frequencies = graph.constant(torch.exp(torch.arange(dim // 2, dtype=torch.float) * step).numpy())
    angles = graph.op("Mul", graph.op("Unsqueeze", layers.as_floats(graph, index), graph.integers(-1)), frequencies)
    parts = [graph.op("Sin", angles), graph.op("Cos", angles)]
    if dim % 2:
        parts.append(graph.op("Mul", graph.slice(angles, 0, 1, -1), graph.constant(0.0)))
    out = graph.op("Concat", *parts, axis=-1)
    return graph.on_grid(out, UNIT_GRID) if graph.grids else out


def future(graph: Graph, past: str, new: str) -> str:
    """(new, past + new) to be added to scores: -inf where a token would see later ones."""
    queries = graph.op("Unsqueeze", graph.count(new, past), graph.integers(1))
    keys = graph.count(graph.op("Add", past, new))
    hidden = graph.op("Greater", keys, queries)
    return graph.op("Where", hidden, graph.constant(-math.inf), graph.constant(0.0))


def encoder_layer(graph: Graph, name: str, layer: Any, x: str, hidden: str) -> str:
    """Fairseq's TransformerEncoderLayer, and wav2vec's TransformerSentenceEncoderLayer."""
    with graph.at(name):
        residual = x
        if _norms_first(layer):
            x = layers.layer_norm(graph, f"{name}.self_attn_layer_norm", layer.self_attn_layer_norm, x)
        x, _ = layers.attention(graph, f"{name}.self_attn", layer.self_attn, x, hidden=hidden)
        x = _added(graph, name, layer, "self_attn_layer_norm", residual, x)
        return _feed_forward(graph, name, layer, x)


def decoder_layer(
    graph: Graph, name: str, layer: Any, x: str, past: tuple[str, str], cross: tuple[str, str], future: str, hidden: str
) -> tuple[str, tuple[str, str]]:  # fmt: skip
    """Fairseq's TransformerDecoderLayer, and the keys and values with the new ones behind them."""
    for attribute in ("attn_ln", "ffn_layernorm", "w_resid", "c_attn"):
        if getattr(layer, attribute, None) is not None:
            raise AsrCompressError(f"{name}: {attribute} has no ONNX form here")
    with graph.at(name):
        residual = x
        if _norms_first(layer):
            x = layers.layer_norm(graph, f"{name}.self_attn_layer_norm", layer.self_attn_layer_norm, x)
        x, grown = layers.attention(graph, f"{name}.self_attn", layer.self_attn, x, past=past, hidden=future)
        x = residual = _added(graph, name, layer, "self_attn_layer_norm", residual, x)
        if layer.normalize_before:
            x = layers.layer_norm(graph, f"{name}.encoder_attn_layer_norm", layer.encoder_attn_layer_norm, x)
        x, _ = layers.attention(graph, f"{name}.encoder_attn", layer.encoder_attn, x, keys=cross, hidden=hidden)
        x = _added(graph, name, layer, "encoder_attn_layer_norm", residual, x)
        return _feed_forward(graph, name, layer, x), grown


def _feed_forward(graph: Graph, name: str, layer: Any, x: str) -> str:
    residual = x
    if _norms_first(layer):
        x = layers.layer_norm(graph, f"{name}.final_layer_norm", layer.final_layer_norm, x)
    x = layers.activation(graph, layer.activation_fn, layers.linear(graph, f"{name}.fc1", layer.fc1, x))
    x = layers.linear(graph, f"{name}.fc2", layer.fc2, x)
    return _added(graph, name, layer, "final_layer_norm", residual, x)


def _added(graph: Graph, name: str, layer: Any, norm: str, residual: str, x: str) -> str:
    """The residual connection, and the norm of layers that have it behind."""
    x = graph.point(graph.op("Add", residual, x), "add")
    return x if _norms_first(layer) else layers.layer_norm(graph, f"{name}.{norm}", getattr(layer, norm), x)


def _norms_first(layer: Any) -> bool:
    """Whether norms come before attention and feed-forward, by the names of both kinds of layer."""
    return bool(layer.normalize_before if hasattr(layer, "normalize_before") else layer.layer_norm_first)
