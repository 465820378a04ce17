"""Layers of our models as ONNX nodes: linear layers, norms, attention, activation functions.

Each takes the module that runs, twin or float, and writes what its forward computes, site by site. Sequences are
(batch, time, dim), where Fairseq has time first.
"""

from __future__ import annotations

import math
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.exporters.graphs.graph import Graph
from asrcompress.exporters.graphs.weights import (
    FLOAT_TYPE,
    biased,
    integer_matmul,
    look_up,
    product,
    quantize_rows,
    weight_of,
)
from asrcompress.modules.recurrent import OPERAND_GRID


def linear(graph: Graph, name: str, module: Any, x: str) -> str:
    """x (..., in) -> (..., out)."""
    with graph.at(name):
        x = graph.point(x, "in")
        out = product(graph, weight_of(module), x, getattr(module, "activations", "none"))
        return graph.point(biased(graph, out, module.bias), "out")


def embedding(graph: Graph, name: str, module: Any, index: str) -> str:
    """index (batch, time) -> (batch, time, dim)."""
    with graph.at(name):
        return graph.point(look_up(graph, weight_of(module), index), "out")


def layer_norm(graph: Graph, name: str, module: Any, x: str) -> str:
    """Over the last axis."""
    with graph.at(name):
        norm = getattr(module, "float_norm", module)
        inputs = [x, graph.floats(norm.weight)] + ([graph.floats(norm.bias)] if norm.bias is not None else [])
        return graph.point(graph.op("LayerNormalization", *inputs, axis=-1, epsilon=float(norm.eps)), "out")


def group_norm(graph: Graph, name: str, module: Any, x: str) -> str:
    """Over time, one channel a group: x (batch, channels, time)."""
    with graph.at(name):
        norm = getattr(module, "float_norm", module)
        if norm.num_groups != norm.num_channels:
            raise AsrCompressError(
                f"{name}: a norm of {norm.num_channels} channels in {norm.num_groups} groups has no ONNX form here"
            )
        inputs = [graph.floats(norm.weight), graph.floats(norm.bias)]
        return graph.point(graph.op("InstanceNormalization", x, *inputs, epsilon=float(norm.eps)), "out")


def module_activation(graph: Graph, name: str, module: Any, x: str) -> str:
    """An activation function that is a module."""
    with graph.at(name):
        return activation(graph, module, x)


def activation(graph: Graph, function: Any, x: str) -> str:
    """relu, gelu, silu, tanh or sigmoid, by the function's or the module's name."""
    name = getattr(function, "__name__", type(function).__name__).lower()
    if name == "linear":
        return x
    if name == "relu":
        return graph.op("Relu", x)
    if name in ("gelu", "gelu_fast", "gelu_accurate"):
        return graph.point(graph.op("Gelu", x, approximate="none" if name == "gelu" else "tanh"), "table")
    if name in ("silu", "swish"):
        return graph.point(graph.op("Mul", x, graph.op("Sigmoid", x)), "table")
    if name in ("tanh", "sigmoid"):
        return graph.point(graph.op(name.capitalize(), x), "table")
    raise AsrCompressError(f"the activation function {name} has no ONNX form here; use relu, gelu, silu or tanh")


def glu(graph: Graph, x: str, axis: int) -> str:
    """The first half times the sigmoid of the second."""
    kept, gate = graph.ops("Split", 2, x, axis=axis, num_outputs=2)
    return graph.point(graph.op("Mul", kept, graph.op("Sigmoid", gate)), "glu")


def hide(graph: Graph, x: str, seen: str, axis: int, dims: int) -> str:
    """Zeros where an utterance has ended: x (batch, ...) with time on `axis`, seen (batch, time) as floats, 1 or 0."""
    axes = [index for index in range(1, dims) if index != axis]
    return graph.op("Mul", x, graph.op("Unsqueeze", seen, graph.integers(*axes)))


def seen_frames(graph: Graph, lengths: str, total: str) -> str:
    """(batch,) lengths and (1,) frames -> (batch, frames) bool, True before an utterance's end."""
    return graph.op("Less", graph.count(total), graph.op("Unsqueeze", lengths, graph.integers(1)))


def as_floats(graph: Graph, x: str) -> str:
    """Cast to float32."""
    return graph.op("Cast", x, to=FLOAT_TYPE)


def heads(graph: Graph, x: str, count: int, width: int) -> str:
    """(batch, time, dim) -> (batch, heads, time, width)."""
    return graph.transpose(graph.reshape(x, 0, 0, count, width), 0, 2, 1, 3)


def batch_norm(graph: Graph, name: str, module: Any, x: str) -> str:
    """With running statistics: x (batch, channels, time)."""
    with graph.at(name):
        norm = getattr(module, "float_norm", module)
        tables = [graph.floats(table) for table in (norm.weight, norm.bias, norm.running_mean, norm.running_var)]
        out = graph.op("BatchNormalization", graph.point(x, "x"), *tables, epsilon=float(norm.eps))
        return graph.point(out, "out")


def scores(graph: Graph, q: str, k: str, activations: str) -> str:
    """q k^T: (batch, heads, queries, width) x (batch or 1, heads, keys, width) -> (batch, heads, queries, keys)."""
    if activations == "none" or graph.grids:
        return graph.op("MatMul", q, graph.transpose(k, 0, 1, 3, 2))
    (q_codes, q_scale), (k_codes, k_scale) = quantize_rows(graph, q), quantize_rows(graph, k, unsigned=False)
    sums = integer_matmul(graph, q_codes, graph.transpose(k_codes, 0, 1, 3, 2))
    return graph.op("Mul", graph.op("Mul", sums, q_scale), graph.transpose(k_scale, 0, 1, 3, 2))


def attend(graph: Graph, q: str, k: str, v: str, activations: str, hidden: str | None, extra: str | None = None) -> str:
    """softmax(q k^T + extra, masked) v, as modules/attend.py: q, k, v (batch, heads, time, width), q scaled already.

    hidden: floats that are added to the scores and broadcast over (batch, heads, queries, keys): 0, or -inf where left out.
    """
    found = scores(graph, q, k, activations)
    found = graph.point(found if extra is None else graph.op("Add", found, extra), "scores")
    if hidden is not None:
        found = graph.op("Add", found, hidden)
    if graph.grids:
        return graph.point(static_sum(graph, found, v), "attended")
    weights = graph.op("Softmax", found, axis=-1)
    if activations == "int8":
        v_codes, v_scale = quantize_rows(graph, v, unsigned=False)
        w_codes, w_scale = quantize_rows(graph, graph.op("Mul", weights, graph.transpose(v_scale, 0, 1, 3, 2)))
        out = graph.op("Mul", integer_matmul(graph, w_codes, v_codes), w_scale)
    else:
        out = graph.op("MatMul", weights, v)
    return graph.point(out, "attended")


def static_sum(graph: Graph, scores: str, values: str) -> str:
    """softmax(scores) @ values as integers/softmax.py has it: exponentials as codes whose largest is 127, divided once."""
    largest = graph.op("ReduceMax", scores, graph.integers(-1), keepdims=1)
    weights = graph.on_grid(graph.op("Exp", graph.op("Sub", scores, largest)), OPERAND_GRID)
    total = graph.op("ReduceSum", weights, graph.integers(-1), keepdims=1)
    return graph.op("Div", graph.op("MatMul", weights, values), total)


def hidden_keys(graph: Graph, seen: str) -> str:
    """(batch, keys) bool, True = seen -> (batch, 1, 1, keys) to be added to scores: 0 or -inf."""
    hidden = graph.op("Where", seen, graph.constant(0.0), graph.constant(-math.inf))
    return graph.op("Unsqueeze", hidden, graph.integers(1, 2))


def attention_keys(graph: Graph, name: str, module: Any, x: str) -> tuple[str, str]:
    """Keys and values of Fairseq's attention, (batch, heads, time, width).

    Raises:
        AsrCompressError: the attention adds keys of its own, which no twin does.
    """
    for attribute in ("bias_k", "bias_v"):
        if getattr(module, attribute, None) is not None:
            raise AsrCompressError(f"{name}: attention with {attribute} has no ONNX form here")
    found = []
    with graph.at(name):
        for short in ("k", "v"):
            projected = linear(graph, graph.below(f"{short}_proj"), getattr(module, f"{short}_proj"), x)
            found.append(graph.point(heads(graph, projected, module.num_heads, module.head_dim), short))
    return found[0], found[1]


def attention(
    graph: Graph, name: str, module: Any, x: str, *, keys: tuple[str, str] | None = None, past: tuple[str, str] | None = None,
    hidden: str | None = None,
) -> tuple[str, tuple[str, str]]:  # fmt: skip
    """Fairseq's attention of queries x (batch, time, dim) over its own keys, over `past` ones and its own, or over `keys`.

    Returns the result (batch, time, dim), and the keys and values that were attended to.
    """
    width, count = module.head_dim, module.num_heads
    with graph.at(name):
        q = linear(graph, graph.below("q_proj"), module.q_proj, x)
        q = heads(graph, graph.op("Mul", q, graph.constant(width**-0.5)), count, width)
        q = graph.point(q, "q")
        if keys is None:
            keys = attention_keys(graph, name, module, x)
            if past is not None:
                keys = tuple(graph.op("Concat", old, new, axis=2) for old, new in zip(past, keys, strict=True))  # type: ignore[assignment]
        assert keys is not None  # noqa: S101 (for the type checker)
        out = attend(graph, q, *keys, getattr(module, "activations", "none"), hidden)
        out = graph.reshape(graph.transpose(out, 0, 2, 1, 3), 0, 0, count * width)
        return linear(graph, graph.below("out_proj"), module.out_proj, out), keys
