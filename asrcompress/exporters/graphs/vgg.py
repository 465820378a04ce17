"""Fairseq's VGG transformer encoder as ONNX nodes, and with CTC as one graph: filter banks in, log-probabilities out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.exporters import Subject
from asrcompress.exporters.graphs import layers, transformer
from asrcompress.exporters.graphs.convolution import convolution, frames_out, max_pool
from asrcompress.exporters.graphs.graph import FLOAT, INT64, Graph


def graphs(subject: Subject) -> list[Graph]:
    """features (batch, frames, bins) and lengths (batch,) -> log_probs (batch, time, units) and their lengths."""
    model: Any = subject.module
    encoder, bins = model.encoder, subject.spec.config["front_end"]["num_mel_bins"]
    graph = Graph(
        "ctc",
        "encoder: features -> log-probabilities of the units, for CTC",
        subject.content.grids if subject.content else None,
    )
    features, lengths = (
        graph.input("features", FLOAT, ["batch", "frames", bins]),
        graph.input("lengths", INT64, ["batch"]),
    )
    x, lengths = vgg_encoder(graph, encoder, graph.point(features, "input"), lengths)
    x = layers.linear(graph, "encoder.fc_out", encoder.fc_out, x)
    graph.output("log_probs", graph.op("LogSoftmax", x, axis=-1), FLOAT, ["batch", "time", encoder.fc_out.out_features])
    graph.output("output_lengths", lengths, INT64, ["batch"])
    return [graph]


def compare(subject: Subject, run: Any) -> tuple[Any, Any]:
    """Log-probabilities after noise of two lengths in one batch."""
    generator = torch.Generator().manual_seed(0)
    bins = subject.spec.config["front_end"]["num_mel_bins"]
    batch = [torch.randn(frames, bins, generator=generator) for frames in (119, 85)]
    with torch.inference_mode():
        expected = subject.family.log_probs(subject.spec, subject.module, batch, None)
    source = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
    found = run("ctc", {"features": source.numpy(), "lengths": np.array([119, 85], dtype=INT64)})
    rows = [rows[:end] for rows, end in zip(found["log_probs"], found["output_lengths"], strict=True)]
    return torch.cat(expected).numpy(), np.concatenate(rows)


def vgg_encoder(graph: Graph, encoder: Any, features: str, lengths: str) -> tuple[str, str]:
    """VGGTransformerEncoder: (batch, frames, channels * bins) -> (batch, time, dim) and the lengths that are left.

    Raises:
        AsrCompressError: attention with a limited context.
    """
    if encoder.transformer_context is not None:
        raise AsrCompressError("a VGG transformer with a limited context (transformer_context) has no ONNX form here")
    x = graph.transpose(graph.reshape(features, 0, 0, encoder.in_channels, encoder.input_dim), 0, 2, 1, 3)
    for index, block in enumerate(encoder.conv_layers):
        for number, layer in enumerate(block.layers):
            x, lengths = _block_layer(graph, f"encoder.conv_layers.{index}.layers.{number}", layer, x, lengths)
    x = graph.transpose(x, 0, 2, 1, 3)
    x = graph.op("Reshape", x, graph.op("Concat", graph.op("Shape", x, start=0, end=2), graph.integers(-1), axis=0))
    seen = layers.seen_frames(graph, lengths, graph.shape(x, 1))
    samplings = list(encoder.transformer_sampling)
    for index, layer in enumerate(encoder.transformer_layers):
        name = f"encoder.transformer_layers.{index}"
        if hasattr(layer, "self_attn"):
            x = transformer.encoder_layer(graph, name, layer, x, layers.hidden_keys(graph, seen))
            step = samplings.pop(0)
            if step != 1:
                x, seen = (graph.slice(value, 0, 2**62, 1, step) for value in (x, seen))
                lengths = frames_out(graph, lengths, 1, step, 0)
        else:
            write = layers.linear if hasattr(layer, "out_features") else layers.layer_norm
            x = write(graph, name, layer, x)
    return x, lengths


def _block_layer(graph: Graph, name: str, layer: Any, x: str, lengths: str) -> tuple[str, str]:
    """One layer of a VGG block over (batch, channels, time, bins). What looks beyond a frame sees zeros behind an utterance."""
    if not hasattr(layer, "kernel_size"):
        if hasattr(layer, "normalized_shape") or hasattr(layer, "float_norm"):
            return layers.layer_norm(graph, name, layer, x), lengths
        return layers.module_activation(graph, name, layer, x), lengths
    seen = layers.as_floats(graph, layers.seen_frames(graph, lengths, graph.shape(x, 2)))
    x = layers.hide(graph, x, seen, 2, 4)
    if isinstance(layer, torch.nn.MaxPool2d):
        kernel = layer.kernel_size if isinstance(layer.kernel_size, int) else layer.kernel_size[0]
        return max_pool(graph, layer, x), frames_out(graph, lengths, 1, kernel, 0)  # the last window may be cut short
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    return convolution(graph, name, layer, x), frames_out(graph, lengths, kernel, stride, kernel // 2)
