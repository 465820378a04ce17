"""The keyword CRNN as two graphs: whole clips, and one step of a stream with what it keeps given in and out.

A step of the stream is crnn_stream.py's: the stride's new frames complete one window of the convolution, the GRU goes one
step on, and the attention sees the last steps, as many as a second has.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from asrcompress.exporters import Subject
from asrcompress.exporters.graphs import layers
from asrcompress.exporters.graphs.convolution import convolution
from asrcompress.exporters.graphs.graph import FLOAT, Graph
from asrcompress.exporters.graphs.weights import biased, dequantized, integer_matmul, product, quantize_rows
from asrcompress.integers.lookup import SIGMOID_GRID
from asrcompress.models.kws_stream import window_steps
from asrcompress.modules.recurrent import OPERAND_GRID, UNIT_GRID
from asrcompress.modules.weight import FloatWeight, IntegerWeight

WINDOW_S = 1.0  # of audio that a stream's attention sees, as in eval --streaming


def graphs(subject: Subject) -> list[Graph]:
    """Whole clips and the stream's step.

    Raises:
        AsrCompressError: a convolution whose stride leaves out frames has no stream.
    """
    return [whole(subject), stream(subject, window_steps(subject.spec, WINDOW_S))]


def whole(subject: Subject) -> Graph:
    """log_mel (batch, mels, frames) -> logits (batch, classes)."""
    model: Any = subject.module
    graph = Graph("keyword", "whole clips: log-mel frames -> logits", _grids(subject))
    sizes = model.sizes
    log_mel = graph.input("log_mel", FLOAT, ["batch", sizes["num_mels"], "frames"])
    x = _convolved(graph, model, graph.point(log_mel, "input"))
    for layer in range(model.gru.num_layers):
        x = _run_layer(graph, model.gru, f"l{layer}", x)
    x = graph.transpose(x, 1, 0, 2)
    out = _attend(graph, model.attention, x, _energies(graph, model.attention, x))
    graph.output(
        "logits", layers.linear(graph, "classifier", model.classifier, out), FLOAT, ["batch", sizes["num_classes"]]
    )
    return graph


def stream(subject: Subject, window: int) -> Graph:
    """New frames and the state of before -> logits (batch, classes) of one step, and the state after it.

    past_frames (batch, mels, kernel - stride): the frames before the new ones; hidden (layers, batch, hidden), zeros at first;
    past_outputs and past_energies (batch, past, hidden or 1): up to window - 1 steps, none at first.
    """
    model: Any = subject.module
    graph = Graph("keyword_stream", "one step of a stream: new frames and state -> logits and state", _grids(subject))
    sizes, gru = model.sizes, model.gru
    kernel, stride, mels, width = sizes["kernel_size"][1], sizes["stride"][1], sizes["num_mels"], gru.hidden_size
    log_mel = graph.input("log_mel", FLOAT, ["batch", mels, stride])
    past = graph.input("past_frames", FLOAT, ["batch", mels, kernel - stride])
    hidden = graph.input("hidden", FLOAT, [gru.num_layers, "batch", width])
    outputs = graph.input("past_outputs", FLOAT, ["batch", "past", width])
    energies = graph.input("past_energies", FLOAT, ["batch", "past", 1])
    frames = graph.op("Concat", past, log_mel, axis=2)
    x = graph.op("Squeeze", _convolved(graph, model, graph.point(frames, "input")), graph.integers(0))
    states = []
    for layer in range(gru.num_layers):
        before = graph.op("Gather", hidden, graph.constant(layer, np.int64), axis=0)
        x = _step(graph, gru, f"l{layer}", _gates_in(graph, gru, f"l{layer}", x), before)
        states.append(graph.op("Unsqueeze", x, graph.integers(0)))
    x = graph.op("Unsqueeze", x, graph.integers(1))
    outputs = graph.op("Concat", outputs, x, axis=1)
    energies = graph.op("Concat", energies, _energies(graph, model.attention, x), axis=1)
    logits = layers.linear(graph, "classifier", model.classifier, _attend(graph, model.attention, outputs, energies))
    graph.output("logits", logits, FLOAT, ["batch", sizes["num_classes"]])
    graph.output("new_frames", graph.slice(frames, stride, kernel, 2), FLOAT, ["batch", mels, kernel - stride])
    joined = graph.op("Concat", *states, axis=0) if len(states) > 1 else states[0]
    graph.output("new_hidden", joined, FLOAT, [gru.num_layers, "batch", width])
    for name, value, size in (("new_outputs", outputs, width), ("new_energies", energies, 1)):
        kept = graph.slice(value, 1 - window, 2**62, 1) if window > 1 else graph.slice(value, 0, 0, 1)
        graph.output(name, kept, FLOAT, ["batch", "kept", size])
    return graph


def first_state(model: Any, frames: Any) -> dict[str, Any]:
    """What the first step is given: frames (batch, mels, kernel - stride), and nothing heard."""
    batch, gru = len(frames), model.gru
    return {
        "past_frames": frames,
        "hidden": np.zeros((gru.num_layers, batch, gru.hidden_size), FLOAT),
        "past_outputs": np.zeros((batch, 0, gru.hidden_size), FLOAT),
        "past_energies": np.zeros((batch, 0, 1), FLOAT),
    }


def next_state(outputs: dict[str, Any]) -> dict[str, Any]:
    """What the next step is given, from what a step gave."""
    names = {
        "past_frames": "new_frames",
        "hidden": "new_hidden",
        "past_outputs": "new_outputs",
        "past_energies": "new_energies",
    }
    return {name: outputs[source] for name, source in names.items()}


def compare(subject: Subject, run: Any) -> tuple[Any, Any]:
    """Logits of two clips of noise, whole and then step by step, where the clip ends."""
    from asrcompress.models.crnn_stream import Memory

    model: Any = subject.module
    sizes, generator = model.sizes, torch.Generator().manual_seed(0)
    kernel, stride = sizes["kernel_size"][1], sizes["stride"][1]
    steps = window_steps(subject.spec, WINDOW_S) + 3
    clips = torch.randn(2, sizes["num_mels"], kernel + (steps - 1) * stride, generator=generator) * 4 - 6
    with torch.inference_mode():
        expected = [model(clips)] + [model(clip[None], Memory(steps - 3)) for clip in clips]
    found = [run("keyword", {"log_mel": clips.numpy()})["logits"]]
    state, logits = first_state(model, clips[:, :, : kernel - stride].numpy()), []
    for step in range(steps):
        start = kernel - stride + step * stride
        outputs = run("keyword_stream", {"log_mel": clips[:, :, start : start + stride].numpy(), **state})
        state = next_state(outputs)
        logits.append(outputs["logits"])
    found += list(np.stack(logits, axis=1))
    return torch.cat(expected).numpy(), np.concatenate(found)


def _grids(subject: Subject) -> Any:
    return subject.content.grids if subject.content else None


def _convolved(graph: Graph, model: Any, frames: str) -> str:
    """(batch, mels, frames) -> (time, batch, channels * bands)."""
    x = convolution(graph, "conv.0", model.conv[0], graph.op("Unsqueeze", frames, graph.integers(1)))
    sizes = model.sizes
    bands = (sizes["num_mels"] - sizes["kernel_size"][0]) // sizes["stride"][0] + 1
    x = graph.transpose(x, 3, 0, 1, 2)
    return graph.reshape(x, 0, 0, sizes["num_channels"] * bands)


def _gru_part(gru: Any, kind: str, layer: str) -> tuple[Any, Any]:
    """Weight and bias of a layer, of torch's GRU or its twin."""
    if isinstance(gru, nn.GRU):
        return FloatWeight(getattr(gru, f"weight_{kind}_{layer}")), getattr(gru, f"bias_{kind}_{layer}")
    name = f"bias_{kind}_{layer}"
    return gru.packed[f"weight_{kind}_{layer}"], gru.biases.get(name, None)


def _run_layer(graph: Graph, gru: Any, layer: str, x: str) -> str:
    """A layer over a whole sequence: x (time, batch, in) -> (time, batch, hidden)."""
    if not graph.grids and getattr(gru, "activations", "none") == "none":
        return _float_layer(graph, gru, layer, x)
    gates = _gates_in(graph, gru, layer, x)
    batch = graph.op("Concat", graph.shape(x, 1), graph.integers(gru.hidden_size), axis=0)
    start = graph.op("Expand", graph.constant(0.0), batch)
    return graph.scan(lambda states, gate: [_step(graph, gru, layer, gate, states[0])], [start], gates)[0]


def _float_layer(graph: Graph, gru: Any, layer: str, x: str) -> str:
    """ONNX's own GRU, whose gates are in another order: update, reset, new."""
    operands = []
    for kind in ("ih", "hh"):
        weight, _ = _gru_part(gru, kind, layer)
        matrix = (
            dequantized(graph, weight) if isinstance(weight, IntegerWeight) else graph.constant(weight.matrix().numpy())
        )
        operands.append(graph.prepare("Unsqueeze", _reordered(graph, matrix, gru.hidden_size), graph.integers(0)))
    biases = [_gru_part(gru, kind, layer)[1] for kind in ("ih", "hh")]
    if biases[0] is not None:
        parts = [_reordered(graph, graph.floats(bias), gru.hidden_size) for bias in biases]
        joined = graph.prepare("Concat", *parts, axis=0)
        operands.append(graph.prepare("Unsqueeze", joined, graph.integers(0)))
    outputs = graph.ops("GRU", 1, x, *operands, hidden_size=gru.hidden_size, linear_before_reset=1)[0]
    return graph.op("Squeeze", outputs, graph.integers(1))


def _reordered(graph: Graph, rows: str, size: int) -> str:
    index = np.concatenate([np.arange(size, 2 * size), np.arange(size), np.arange(2 * size, 3 * size)])
    return graph.prepare("Gather", rows, graph.constant(index, np.int64), axis=0)


def _gates_in(graph: Graph, gru: Any, layer: str, x: str) -> str:
    """What the input adds to the gates: (..., in) -> (..., 3 hidden)."""
    weight, bias = _gru_part(gru, "ih", layer)
    with graph.at("gru"):
        x = graph.point(x, f"in_{layer}")
        out = biased(graph, product(graph, weight, x, getattr(gru, "activations", "none")), bias)
        return graph.point(out, f"gates_{layer}")


def _step(graph: Graph, gru: Any, layer: str, gates_in: str, state: str) -> str:
    """One step: gates (batch, 3 hidden) and the state (batch, hidden) -> the next state."""
    weight, bias = _gru_part(gru, "hh", layer)
    is_static = bool(graph.grids)
    with graph.at("gru"):
        operand = graph.on_grid(state, OPERAND_GRID) if is_static else state
        out = biased(graph, product(graph, weight, operand, getattr(gru, "activations", "none")), bias)
        grid = graph.grid(f"gates_{layer}")
    if grid is not None:
        out = graph.on_grid(out, grid)
    reset_x, update_x, new_x = graph.ops("Split", 3, gates_in, axis=-1, num_outputs=3)
    reset_h, update_h, new_h = graph.ops("Split", 3, out, axis=-1, num_outputs=3)

    def gate(kind: str, left: str, right: str, result: Any) -> str:
        total = graph.op("Add", left, right)
        if grid is None:
            return graph.op(kind, total)
        limit = graph.constant(-grid.code_max * grid.scale), graph.constant(grid.code_max * grid.scale)
        return graph.on_grid(graph.op(kind, graph.op("Clip", total, *limit)), result)

    reset, update = gate("Sigmoid", reset_x, reset_h, SIGMOID_GRID), gate("Sigmoid", update_x, update_h, SIGMOID_GRID)
    candidate = gate("Tanh", new_x, graph.op("Mul", reset, new_h), UNIT_GRID)
    if is_static:  # n + z (h - n), as the twin has it on integers
        moved = graph.op("Mul", update, graph.op("Sub", state, candidate))
        return graph.on_grid(graph.op("Add", candidate, moved), UNIT_GRID)
    kept = graph.op("Mul", update, state)
    return graph.op("Add", graph.op("Mul", graph.op("Sub", graph.constant(1.0), update), candidate), kept)


def _energies(graph: Graph, module: Any, x: str) -> str:
    """(batch, time, hidden) -> (batch, time, 1)."""
    first, tanh, last = module.energy
    x = layers.linear(graph, "attention.energy.0", first, x)
    return layers.linear(
        graph, "attention.energy.2", last, layers.module_activation(graph, "attention.energy.1", tanh, x)
    )


def _attend(graph: Graph, module: Any, frames: str, energies: str) -> str:
    """(batch, time, hidden) -> (batch, hidden): frames summed, weighted by a softmax over time."""
    with graph.at("attention"):
        values, scores = graph.point(frames, "v"), graph.transpose(energies, 0, 2, 1)
        if graph.grids:
            out = layers.static_sum(graph, scores, values)
        elif getattr(module, "activations", "none") == "none":
            out = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), values)
        else:
            codes, scale = quantize_rows(graph, values, unsigned=False)
            weights = graph.op("Mul", graph.op("Softmax", scores, axis=-1), graph.transpose(scale, 0, 2, 1))
            weights, weight_scale = quantize_rows(graph, weights)
            out = graph.op("Mul", integer_matmul(graph, weights, codes), weight_scale)
        return graph.point(graph.op("Squeeze", out, graph.integers(1)), "attended")
