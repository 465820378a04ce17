"""Convolutions and poolings over 1 or 2 dimensions as ONNX nodes.

On integers a convolution is a product of windows, as in modules/conv.py: ConvInteger has one scale for all of its input, and
here every window has its own.
"""

from __future__ import annotations

import math
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.exporters.graphs.graph import INT64, Graph
from asrcompress.exporters.graphs.weights import (
    biased,
    dequantized,
    grouped_integer_product,
    integer_product,
    weight_of,
)
from asrcompress.modules.weight import FloatWeight, IntegerWeight


def convolution(graph: Graph, name: str, module: Any, x: str) -> str:
    """x (batch, in, *size) -> (batch, out, *size out), of a twin or of torch's Conv1d and Conv2d."""
    with graph.at(name):
        x = graph.point(x, "in")
        weight = weight_of(module)
        padding = list(module.padding if hasattr(module, "packed") else module._reversed_padding_repeated_twice)
        if module.padding_mode != "zeros":
            raise AsrCompressError(f"{name}: padding by {module.padding_mode} has no ONNX form here")
        begins, ends = padding[0::2][::-1], padding[1::2][::-1]
        if isinstance(weight, IntegerWeight) and module.activations == "int8":
            out = _patch_product(graph, module, weight, x, begins, ends)
        else:
            bias = [] if module.bias is None else [graph.floats(module.bias)]
            sizes = {"strides": list(module.stride), "dilations": list(module.dilation), "pads": [*begins, *ends]}
            out = graph.op("Conv", x, _kernel(graph, weight), *bias, group=module.groups, **sizes)
        return graph.point(out, "out")


def max_pool(graph: Graph, module: Any, x: str) -> str:
    """torch's MaxPool1d and MaxPool2d: (batch, channels, *size)."""
    kernel, stride, padding = (
        list(size) if isinstance(size, (tuple, list)) else [size, size]
        for size in (module.kernel_size, module.stride, module.padding)
    )
    if module.dilation not in (1, (1, 1)):
        raise AsrCompressError("a pooling with dilation has no ONNX form here")
    options = {"kernel_shape": kernel, "strides": stride, "pads": padding * 2, "ceil_mode": int(module.ceil_mode)}
    return graph.ops("MaxPool", 1, x, **options)[0]


def frames_out(graph: Graph, lengths: str, kernel: int, stride: int, padding: int) -> str:
    """(length + 2 padding - kernel) // stride + 1, int64."""
    moved = graph.op("Add", lengths, graph.constant(2 * padding - kernel, INT64))
    return graph.op("Add", graph.op("Div", moved, graph.constant(stride, INT64)), graph.constant(1, INT64))


def _kernel(graph: Graph, weight: FloatWeight) -> str:
    """A convolution's weight in its own shape."""
    if isinstance(weight, IntegerWeight):
        return graph.reshape(dequantized(graph, weight), *weight.shape)
    return graph.constant(weight.values.float().numpy())


def _patch_product(graph: Graph, module: Any, weight: IntegerWeight, x: str, begins: list[int], ends: list[int]) -> str:
    """On integers: every output position's window is a token."""
    dims = len(module.kernel_size)
    x = graph.transpose(x, 0, *range(2, 2 + dims), 1)  # channels last, so that a window's frames are whole
    if any((*begins, *ends)):
        x = graph.op("Pad", x, graph.integers(0, *begins, 0, 0, *ends, 0), graph.constant(0.0))
    for axis in range(dims):  # of each dimension two: positions, and places in the window
        x = graph.op("Gather", x, _windows(graph, x, module, axis), axis=1 + 2 * axis)
    spots = [1 + 2 * axis for axis in range(dims)]
    x = graph.transpose(x, 0, *spots, 1 + 2 * dims, *(spot + 1 for spot in spots))
    columns = math.prod(weight.shape[1:])
    if module.groups == 1:
        out = integer_product(graph, weight, graph.reshape(x, *[0] * (1 + dims), columns))
    else:
        patches = graph.reshape(x, *[0] * (1 + dims), module.groups, columns)
        out = grouped_integer_product(graph, weight, patches, module.groups, dims)
    return graph.transpose(biased(graph, out, module.bias), 0, 1 + dims, *range(1, 1 + dims))


def _windows(graph: Graph, x: str, module: Any, axis: int) -> str:
    """Numbers (positions, places) of the frames in each window along a dimension."""
    kernel, stride, dilation = module.kernel_size[axis], module.stride[axis], module.dilation[axis]
    size = graph.shape(x, 1 + 2 * axis)
    positions = graph.count(frames_out(graph, size, dilation * (kernel - 1) + 1, stride, 0))
    starts = graph.op("Mul", graph.op("Unsqueeze", positions, graph.integers(1)), graph.constant(stride, INT64))
    return graph.op("Add", starts, graph.integers(*range(0, dilation * kernel, dilation)))
