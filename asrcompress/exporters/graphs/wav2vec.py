"""wav2vec 2.0 and HuBERT with CTC as one graph: waveforms in, log-probabilities of the units out.

What padding changes in the module, it changes here: where the extractor's first norm runs over time (mode `default`),
utterances of one batch have to be equally long.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.exporters import Subject
from asrcompress.exporters.graphs import layers, transformer
from asrcompress.exporters.graphs.convolution import convolution, frames_out
from asrcompress.exporters.graphs.graph import FLOAT, INT64, Graph

ENCODER = "w2v_encoder.w2v_model.encoder"


def graphs(subject: Subject) -> list[Graph]:
    """waveform (batch, samples) and lengths (batch,) -> log_probs (batch, time, units) and their lengths."""
    module: Any = subject.module
    whole, model = module.w2v_encoder, module.w2v_encoder.w2v_model
    graph = Graph(
        "ctc",
        "encoder: waveform -> log-probabilities of the units, for CTC",
        subject.content.grids if subject.content else None,
    )
    waveform, lengths = graph.input("waveform", FLOAT, ["batch", "samples"]), graph.input("lengths", INT64, ["batch"])
    x = graph.op("Unsqueeze", graph.point(waveform, "input"), graph.integers(1))
    for index, block in enumerate(model.feature_extractor.conv_layers):
        x = _extractor_block(graph, f"w2v_encoder.w2v_model.feature_extractor.conv_layers.{index}", block, x)
    x = layers.layer_norm(graph, "w2v_encoder.w2v_model.layer_norm", model.layer_norm, graph.transpose(x, 0, 2, 1))
    for _, kernel, stride in module.conv_layers:
        lengths = frames_out(graph, lengths, kernel, stride, 0)
    x, lengths = _cropped(graph, x, lengths, module.crop_multiple)
    if model.post_extract_proj is not None:
        x = layers.linear(graph, "w2v_encoder.w2v_model.post_extract_proj", model.post_extract_proj, x)
    x = _encoder(graph, model.encoder, x, layers.seen_frames(graph, lengths, graph.shape(x, 1)))
    x = layers.linear(graph, "w2v_encoder.proj", whole.proj, x)
    scores = graph.op("LogSoftmax", _weighed(graph, x, subject.spec.config["blank"], whole.proj.out_features), axis=-1)
    graph.output("log_probs", scores, FLOAT, ["batch", "time", whole.proj.out_features])
    graph.output("output_lengths", lengths, INT64, ["batch"])
    return [graph]


def compare(subject: Subject, run: Any) -> tuple[Any, Any]:
    """Log-probabilities after noise of two lengths, one utterance after the other."""
    generator = torch.Generator().manual_seed(0)
    batch = [torch.randn(samples, generator=generator) for samples in (8000, 6500)]
    with torch.inference_mode():
        expected = subject.family.log_probs(subject.spec, subject.module, batch, None)
    rows = []
    for one in batch:
        found = run("ctc", {"waveform": one[None].numpy(), "lengths": np.array([len(one)], dtype=INT64)})
        rows.append(found["log_probs"][0, : found["output_lengths"][0]])
    return torch.cat(expected).numpy(), np.concatenate(rows)


def _extractor_block(graph: Graph, name: str, block: Any, x: str) -> str:
    """Convolution, dropout, maybe a norm, activation: over (batch, channels, time)."""
    for index, layer in enumerate(block):
        inner = f"{name}.{index}"
        if hasattr(layer, "kernel_size"):
            x = convolution(graph, inner, layer, x)
        elif isinstance(layer, torch.nn.Sequential):  # a layer norm between two transpositions
            x = graph.transpose(layers.layer_norm(graph, f"{inner}.1", layer[1], graph.transpose(x, 0, 2, 1)), 0, 2, 1)
        elif hasattr(layer, "num_groups") or hasattr(layer, "float_norm"):
            x = layers.group_norm(graph, inner, layer, x)
        elif not isinstance(layer, torch.nn.Dropout):
            x = layers.module_activation(graph, inner, layer, x)
    return x


def _encoder(graph: Graph, encoder: Any, x: str, seen: str) -> str:
    """TransformerEncoder: positions by a grouped convolution, then layers."""
    if any(isinstance(layer, torch.nn.Sequential) or hasattr(layer, "running_mean") for layer in encoder.pos_conv):
        raise AsrCompressError("a positional convolution that is repeated or has a batch norm has no ONNX form here")
    x = layers.hide(graph, x, layers.as_floats(graph, seen), 1, 3)
    conv, same_pad, activation = encoder.pos_conv
    placed = convolution(graph, f"{ENCODER}.pos_conv.0", conv, graph.transpose(x, 0, 2, 1))
    if same_pad.remove > 0:
        placed = graph.slice(placed, 0, -same_pad.remove, 2)
    placed = layers.module_activation(graph, f"{ENCODER}.pos_conv.2", activation, placed)
    with graph.at(ENCODER):
        x = graph.point(graph.op("Add", x, graph.transpose(placed, 0, 2, 1)), "add")
    if not encoder.layer_norm_first:
        x = layers.layer_norm(graph, f"{ENCODER}.layer_norm", encoder.layer_norm, x)
    hidden = layers.hidden_keys(graph, seen)
    for index, layer in enumerate(encoder.layers):
        x = transformer.encoder_layer(graph, f"{ENCODER}.layers.{index}", layer, x, hidden)
    return layers.layer_norm(graph, f"{ENCODER}.layer_norm", encoder.layer_norm, x) if encoder.layer_norm_first else x


def _cropped(graph: Graph, x: str, lengths: str, multiple: int) -> tuple[str, str]:
    """Frames and lengths down to a multiple of so many."""
    if multiple == 1:
        return x, lengths
    size, by = graph.shape(x, 1), graph.constant(multiple, INT64)
    size, lengths = (graph.op("Mul", graph.op("Div", count, by), by) for count in (size, lengths))
    return graph.op("Slice", x, graph.integers(0), size, graph.integers(1)), lengths


def _weighed(graph: Graph, x: str, blank: dict[str, Any], num_units: int) -> str:
    """The blank's score as the configuration wants it; the blank is the first unit."""
    if not blank["weight"]:
        return x
    column = np.zeros(num_units, dtype=FLOAT)
    column[0] = 1
    if blank["mode"] != "add":
        x = graph.op("Mul", x, graph.constant(1 - column))
    return graph.op("Add", x, graph.constant(column * blank["weight"]))
