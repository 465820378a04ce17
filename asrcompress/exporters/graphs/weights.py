"""Products and lookups of a weight: float, packed with float activations, on integers, or on static grids.

Activations int8 (level computed) as modules/weight.py has them: one scale a token, found as the graph runs, int8 codes,
int32 sums from MatMulInteger, floats that only rescale. The codes of activations are stored with 128 added, as uint8 with
that zero point: the sums are the same, and it is the form that x86 processors multiply fastest.
Activations in float: 8 bits by DequantizeLinear and MatMul, fewer by ONNX Runtime's MatMulNBits, which keeps 4 bits packed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

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
        return _integer_product(graph, weight, x)
    block = _nbits_block(weight)
    if block and not graph.has(("rows", id(weight))):
        return _nbits_product(graph, weight, x, block)
    return graph.op("MatMul", x, dequantized(graph, weight))


def look_up(graph: Graph, weight: FloatWeight, index: str) -> str:
    """Rows by number: index (batch, time) -> (batch, time, columns), as `weight.rows`."""
    if not isinstance(weight, IntegerWeight):
        key = ("table", weight.values.data_ptr())
        return graph.op("Gather", graph.stored(key, lambda: graph.constant(weight.matrix().numpy())), index, axis=0)
    rows, groups = weight.codes.shape[0], weight.scale.shape[1]
    found = graph.op("Cast", graph.op("Gather", _row_codes(graph, weight), index, axis=0), to=FLOAT_TYPE)
    if groups > 1:
        found = graph.reshape(found, 0, 0, groups, weight.codes.shape[1] // groups)
    axis = -1 if groups > 1 else None
    for kind, table in (("Sub", weight.zero_point), ("Mul", weight.scale)):
        if table is not None:
            numbers = graph.op("Gather", graph.floats(table.float().expand(rows, groups)), index, axis=0)
            if axis is not None:
                numbers = graph.op("Unsqueeze", numbers, graph.integers(axis))
            found = graph.op(kind, found, numbers)
    return graph.reshape(found, 0, 0, weight.codes.shape[1]) if groups > 1 else found


def dequantized(graph: Graph, weight: IntegerWeight) -> str:
    """The weight (columns, rows) in float, made of its codes as the graph runs."""
    rows, columns = weight.codes.shape
    groups = weight.scale.shape[1]
    scale = graph.floats(_one_axis(weight.scale.expand(rows, groups).t()))
    options = {"axis": 1} if groups == 1 else {"axis": 0, "block_size": columns // groups}
    inputs = [_column_codes(graph, weight), scale]
    if weight.zero_point is not None:
        zeros = _one_axis(weight.zero_point.expand(rows, groups).t())
        inputs.append(graph.constant(zeros.contiguous().numpy(), INT8))
    return graph.op("DequantizeLinear", *inputs, **options)


def _one_axis(by_group: Tensor) -> Tensor:
    """(groups, rows), or (rows,) where there is one group: what DequantizeLinear takes along an axis."""
    return by_group[0] if len(by_group) == 1 else by_group


def _row_codes(graph: Graph, weight: IntegerWeight) -> str:
    """The codes (rows, columns) as int8."""
    return _as_int8(
        graph, weight, graph.stored(("rows", id(weight)), lambda: graph.codes(weight.codes, weight.num_bits))
    )


def _column_codes(graph: Graph, weight: IntegerWeight) -> str:
    """The codes (columns, rows) as int8; made of the rows where a lookup has them stored already."""
    if graph.has(("rows", id(weight))):
        return graph.transpose(_row_codes(graph, weight), 1, 0)
    key = ("columns", id(weight))
    return _as_int8(graph, weight, graph.stored(key, lambda: graph.codes(weight.codes.t(), weight.num_bits)))


def _as_int8(graph: Graph, weight: IntegerWeight, codes: str) -> str:
    return codes if weight.num_bits > 4 else graph.op("Cast", codes, to=INT8_TYPE)


def _integer_product(graph: Graph, weight: IntegerWeight, x: str) -> str:
    codes, token_scale = quantize_rows(graph, x)
    matrix = _column_codes(graph, weight)
    (rows, columns), groups = weight.codes.shape, weight.scale.shape[1]
    size, parts = columns // groups, []
    for group in range(groups):
        left, right, zero_point = codes, matrix, ""
        if groups > 1:
            left = graph.slice(codes, group * size, (group + 1) * size, -1)
            right = graph.slice(matrix, group * size, (group + 1) * size, 0)
        if weight.zero_point is not None:
            zero_point = graph.constant(weight.zero_point.expand(rows, groups)[:, group].numpy(), INT8)
        sums = integer_matmul(graph, left, right, zero_point)
        parts.append(graph.op("Mul", sums, graph.floats(weight.scale[:, group])))
    return graph.op("Mul", graph.op("Sum", *parts) if groups > 1 else parts[0], token_scale)


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
    blocks = -(-columns // block)
    key = ("nbits", id(weight))
    packed = graph.stored(key, lambda: graph.constant(_nbits_codes(weight, blocks, block), UINT8))
    scale = weight.scale.expand(rows, groups).contiguous()
    scales = graph.floats(scale)
    if groups == 1 and blocks > 1:
        scales = graph.op("Expand", scales, graph.integers(rows, blocks))
    inputs = [x, packed, graph.reshape(scales, -1)]
    if weight.zero_point is not None:
        zeros = (
            weight.zero_point.expand(rows, groups).expand(rows, blocks) if groups == 1 else weight.zero_point
        ).numpy()
        zeros = (zeros.astype(np.int16) + 8).astype(UINT8)
        if blocks % 2:
            zeros = np.pad(zeros, ((0, 0), (0, 1)), constant_values=8)
        inputs.append(graph.constant((zeros[:, 0::2] | (zeros[:, 1::2] << 4)).reshape(-1), UINT8))
    return graph.op(
        "MatMulNBits", *inputs, domain=CONTRIB, K=columns, N=rows, bits=4, block_size=block, accuracy_level=1
    )


def _nbits_codes(weight: IntegerWeight, blocks: int, block: int) -> np.ndarray[Any, Any]:
    """Codes with 8 added, two a byte, low half first: (rows, blocks, block / 2) uint8."""
    rows, columns = weight.codes.shape
    codes = np.full((rows, blocks * block), 8, dtype=UINT8)
    codes[:, :columns] = (weight.codes.numpy().astype(np.int16) + 8).astype(UINT8)
    packed = codes[:, 0::2] | (codes[:, 1::2] << 4)
    return packed.reshape(rows, blocks, block // 2)


def biased(graph: Graph, x: str, bias: Tensor | None) -> str:
    """x (..., rows) plus a bias (rows,)."""
    return x if bias is None else graph.op("Add", x, graph.floats(bias))
