"""Products and lookups of a weight: float, packed with float activations, on integers, or on static grids.

Activations int8 (level computed) as modules/weight.py has them: one scale a token, found as the graph runs, int8 codes,
int32 sums from MatMulInteger, floats that only rescale. The codes of activations are stored with 128 added, as uint8 with
that zero point: the sums are the same, and it is the form that x86 processors multiply fastest.
Activations in float: 8 bits are dequantized for MatMul when a runtime loads the file, fewer go to ONNX Runtime's MatMulNBits,
which keeps them packed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.exporters.graphs.graph import CONTRIB, INT8, UINT8, Graph
from asrcompress.modules.weight import FloatWeight, IntegerWeight

FLOAT_TYPE, INT8_TYPE = 1, 3  # TensorProto's numbers
NBITS_BLOCKS = (256, 128, 64, 32, 16)  # sizes of block that MatMulNBits multiplies without unpacking


def weight_of(module: Any) -> FloatWeight:
    """The weight of a twin, or of a float module."""
    found = getattr(module, "packed", None)
    return found if isinstance(found, FloatWeight) else FloatWeight(module.weight)


def quantize_rows(graph: Graph, x: str, *, unsigned: bool = True) -> tuple[str, str]:
    """Codes (..., columns), uint8 around 128 or int8, and scales (..., 1): `quantize_tokens` of integers/matmul.py."""
    largest = graph.op("ReduceMax", graph.op("Abs", x), graph.integers(-1), keepdims=1)
    scale = graph.op("Div", largest, graph.constant(127.0))
    empty = graph.op("Equal", scale, graph.constant(0.0))
    scale = graph.op("Where", empty, graph.constant(1.0), scale)
    zero_point = graph.constant(128, UINT8) if unsigned else graph.constant(0, INT8)
    return graph.op("QuantizeLinear", graph.op("Div", x, scale), graph.constant(1.0), zero_point), scale


def integer_matmul(graph: Graph, left: str, right: str, zero_point: str = "") -> str:
    """uint8 codes around 128 times int8 codes, as float sums."""
    inputs = [left, right, graph.constant(128, UINT8)] + ([zero_point] if zero_point else [])
    return graph.op("Cast", graph.op("MatMulInteger", *inputs), to=FLOAT_TYPE)


def product(graph: Graph, weight: FloatWeight, x: str, activations: str = "none") -> str:
    """x (..., columns) -> (..., rows), as `weight.product`."""
    if not isinstance(weight, IntegerWeight):
        key = ("matrix", weight.values.data_ptr(), weight.shape)
        return graph.op(
            "MatMul", x, graph.stored(key, lambda: graph.constant(weight.matrix().t().contiguous().numpy()))
        )
    if activations == "int8":
        return integer_product(graph, weight, x)
    block = _nbits_block(weight)
    if block and not graph.grids and not graph.has(("codes", id(weight))):
        return _nbits_product(graph, weight, x, block)
    matrix = dequantized(graph, weight)
    turned = graph.transpose(matrix, 1, 0) if graph.grids else graph.prepare("Transpose", matrix, perm=[1, 0])
    return graph.op("MatMul", x, turned)


def look_up(graph: Graph, weight: FloatWeight, index: str) -> str:
    """Rows by number: index (batch, time) -> (batch, time, columns), as `weight.rows`."""
    if not isinstance(weight, IntegerWeight):
        key = ("table", weight.values.data_ptr())
        return graph.op("Gather", graph.stored(key, lambda: graph.constant(weight.matrix().numpy())), index, axis=0)
    rows, groups = weight.codes.shape[0], weight.scale.shape[1]
    found = graph.op("Cast", graph.op("Gather", _codes(graph, weight), index, axis=0), to=FLOAT_TYPE)
    if groups > 1:
        found = graph.reshape(found, 0, 0, groups, weight.codes.shape[1] // groups)
    axis = -1 if groups > 1 else None
    for kind, table in (("Sub", weight.zero_point), ("Mul", weight.scale)):
        if table is not None:
            numbers = graph.op("Gather", _numbers(graph, table.expand(rows, groups)), index, axis=0)
            if axis is not None:
                numbers = graph.op("Unsqueeze", numbers, graph.integers(axis))
            found = graph.op(kind, found, numbers)
    return graph.reshape(found, 0, 0, weight.codes.shape[1]) if groups > 1 else found


def dequantized(graph: Graph, weight: IntegerWeight) -> str:
    """The weight (rows, columns) in float, made of its codes by nodes that a runtime runs once, when it loads.

    On static grids it is DequantizeLinear, which runtimes take, with that of the other operand, for integer arithmetic.
    Elsewhere it is not: ONNX Runtime, left to itself, turns that and a MatMul into a product of int8 activations.
    """
    (rows, columns), groups = weight.codes.shape, weight.scale.shape[1]
    codes = _codes(graph, weight)
    if graph.grids and groups == 1:
        whole = weight.scale.shape[0] == 1  # one scale for all rows
        tables = [graph.floats(weight.scale.reshape(()) if whole else weight.scale[:, 0])]
        if weight.zero_point is not None:
            tables.append(graph.constant(weight.zero_point.reshape(() if whole else (-1,)).numpy(), INT8))
        return graph.ops("DequantizeLinear", 1, codes, *tables, **({} if whole else {"axis": 0}))[0]
    out = graph.prepare("Cast", codes, to=FLOAT_TYPE)
    if groups > 1:
        out = graph.prepare("Reshape", out, graph.integers(rows, groups, columns // groups))
    for kind, table in (("Sub", weight.zero_point), ("Mul", weight.scale)):
        if table is not None:
            out = graph.prepare(kind, out, _numbers(graph, table.unsqueeze(-1) if groups > 1 else table))
    return graph.prepare("Reshape", out, graph.integers(rows, columns)) if groups > 1 else out


def _numbers(graph: Graph, table: Tensor) -> str:
    """Scales, or zero points, which stay int8 in the file, as floats."""
    if table.dtype.is_floating_point:
        return graph.floats(table)
    return graph.prepare("Cast", graph.constant(table.contiguous().numpy(), INT8), to=FLOAT_TYPE)


def _codes(graph: Graph, weight: IntegerWeight) -> str:
    """The codes (rows, columns) as int8, stored once for all that use them."""
    name = graph.stored(("codes", id(weight)), lambda: graph.codes(weight.codes, weight.num_bits))
    return name if weight.num_bits > 4 else graph.prepare("Cast", name, to=INT8_TYPE)


def integer_product(graph: Graph, weight: IntegerWeight, x: str) -> str:
    """x (..., columns) -> (..., rows), multiplied on integers, with a scale for each row of x."""
    codes, token_scale = quantize_rows(graph, x)
    matrix = graph.prepare("Transpose", _codes(graph, weight), perm=[1, 0])
    (rows, columns), groups = weight.codes.shape, weight.scale.shape[1]
    size, parts = columns // groups, []
    for group in range(groups):
        left, right, zero_point = codes, matrix, ""
        if groups > 1:
            left = graph.slice(codes, group * size, (group + 1) * size, -1)
            span = graph.integers(group * size), graph.integers((group + 1) * size), graph.integers(0)
            right = graph.prepare("Slice", matrix, *span)
        if weight.zero_point is not None:
            zero_point = graph.constant(weight.zero_point.expand(rows, groups)[:, group].numpy(), INT8)
        sums = integer_matmul(graph, left, right, zero_point)
        parts.append(graph.op("Mul", sums, graph.floats(weight.scale[:, group])))
    return graph.op("Mul", graph.op("Sum", *parts) if groups > 1 else parts[0], token_scale)


def grouped_integer_product(graph: Graph, weight: IntegerWeight, x: str, groups: int, dims: int) -> str:
    """x (batch, *size, groups, columns) -> (batch, *size, rows): each group of x meets its own rows / groups rows.

    Raises:
        AsrCompressError: a weight with several scales a row.
    """
    rows, columns = weight.codes.shape
    if weight.scale.shape[1] > 1:
        raise AsrCompressError(
            "a grouped convolution on integers with several scales a row has no ONNX form; use --granularity per_channel"
        )
    codes, scale = quantize_rows(graph, x)
    first = graph.transpose(codes, 1 + dims, *range(1 + dims), 2 + dims)  # groups first: one product for each
    first = graph.reshape(first, groups, -1, columns)
    matrix = graph.transpose(graph.reshape(_codes(graph, weight), groups, rows // groups, columns), 0, 2, 1)
    zero_point = ""
    if weight.zero_point is not None:
        zeros = weight.zero_point.expand(rows, 1).reshape(groups, 1, rows // groups)
        zero_point = graph.constant(zeros.numpy(), INT8)
    sums = graph.transpose(
        integer_matmul(graph, first, matrix, zero_point), 1, 0, 2
    )  # (positions, groups, rows / groups)
    scales = graph.reshape(graph.floats(weight.scale.expand(rows, 1)), groups, rows // groups)
    out = graph.op("Mul", graph.op("Mul", sums, scales), graph.reshape(scale, -1, groups, 1))
    ends = graph.op("Concat", graph.op("Shape", x, start=0, end=1 + dims), graph.integers(rows), axis=0)
    return graph.op("Reshape", out, ends)


def _nbits_block(weight: IntegerWeight) -> int:
    """The block that MatMulNBits can have for this weight; 0 where it cannot."""
    columns, groups = weight.codes.shape[1], weight.scale.shape[1]
    if weight.num_bits > 4:
        return 0
    if groups > 1:
        return columns // groups if columns // groups in NBITS_BLOCKS else 0
    return min(NBITS_BLOCKS, key=lambda block: (-(-columns // block) * block, -block))  # the least padding


def _nbits_product(graph: Graph, weight: IntegerWeight, x: str, block: int) -> str:
    (rows, columns), groups = weight.codes.shape, weight.scale.shape[1]
    blocks, num_bits = -(-columns // block), 2 if weight.num_bits <= 2 else 4
    key = ("nbits", id(weight))
    codes = F.pad(weight.codes, (0, blocks * block - columns))
    packed = graph.stored(
        key, lambda: graph.constant(_merged(codes, num_bits).reshape(rows, blocks, block * num_bits // 8), UINT8)
    )
    scales = graph.floats(weight.scale.expand(rows, groups).contiguous())
    if groups == 1 and blocks > 1:
        scales = graph.op("Expand", scales, graph.integers(rows, blocks))
    inputs = [x, packed, graph.reshape(scales, -1)]
    if weight.zero_point is not None:
        zeros = weight.zero_point.expand(rows, groups if groups > 1 else blocks)
        zeros = F.pad(zeros, (0, -blocks % (8 // num_bits)))
        inputs.append(graph.constant(_merged(zeros, num_bits).reshape(-1), UINT8))
    return graph.op(
        "MatMulNBits", *inputs, domain=CONTRIB, K=columns, N=rows, bits=num_bits, block_size=block, accuracy_level=1
    )


def _merged(codes: Tensor, num_bits: int) -> np.ndarray[Any, Any]:
    """Codes (rows, columns) from 0 on, several a byte, the first in the lowest bits: (rows, columns * num_bits / 8) uint8."""
    values = (codes.numpy().astype(np.int16) + 2 ** (num_bits - 1)).astype(UINT8)
    parts = [values[:, place :: 8 // num_bits] << (place * num_bits) for place in range(8 // num_bits)]
    return np.bitwise_or.reduce(parts)


def biased(graph: Graph, x: str, bias: Tensor | None) -> str:
    """x (..., rows) plus a bias (rows,)."""
    return x if bias is None else graph.op("Add", x, graph.floats(bias))
