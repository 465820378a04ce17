"""One ONNX graph under construction: nodes, constants, and the place in the model that is being written.

A value is the name of what a node gives. Nothing here knows about models. Float constants whose values float16 holds
exactly are stored as float16 and cast, which a runtime does once, when it loads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.integers.grid import Grid

OPSET = 21  # the first with 4-bit integers, blocked DequantizeLinear and 16-bit QuantizeLinear
IR_VERSION = 10  # of the file format, as old as OPSET allows
CONTRIB = "com.microsoft"
# Kinds of node that multiply matrices. They alone are named, after their module: names are bytes.
PRODUCTS = ("MatMulInteger", "MatMulNBits", "MatMul", "Conv", "GRU")
LARGEST = 2**63 - 1  # as the end of a Slice: up to the end
FLOAT, FLOAT16, INT64, INT8, INT16, UINT8 = np.float32, np.float16, np.int64, np.int8, np.int16, np.uint8


class Graph:
    """Nodes and constants in the order in which they are made.

    Args:
        name: of the graph, and of its file.
        role: what the graph is for, in a few words.
        grids: the static grids of level integer-only by site, as the artifact has them; empty at other levels.
    """

    def __init__(self, name: str, role: str, grids: dict[str, Grid] | None = None) -> None:
        self.name, self.role = name, role
        self.grids = grids or {}
        self.nodes: list[Any] = []
        self.prepared: list[Any] = []  # nodes that depend on constants alone, and so come first
        self.initializers: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._known: dict[Any, str] = {}
        self._done: dict[Any, list[str]] = {}
        self._prepared: dict[Any, list[str]] = {}
        self._places: list[tuple[str, dict[str, int]]] = [("", {})]
        self._number = 0

    # ------------------------------------------------------------ where we are

    @contextmanager
    def at(self, module_name: str) -> Iterator[None]:
        """Nodes written in this block belong to this module's call; sites count anew, as in integers/sites.py."""
        self._places.append((module_name, {}))
        try:
            yield
        finally:
            self._places.pop()

    def below(self, name: str) -> str:
        """The full name of a module inside the one that is being written."""
        here = self._places[-1][0]
        return f"{here}.{name}" if here else name

    def grid(self, kind: str) -> Grid | None:
        """The static grid of the next site of this kind; None where there are none."""
        if not self.grids:
            return None
        name, counts = self._places[-1]
        ordinal = counts.get(kind, 0)
        counts[kind] = ordinal + 1
        site = f"{name}:{kind}{ordinal or ''}"
        if site not in self.grids:
            raise AsrCompressError(
                f"{site}: has no static grid, and modules in float among integers have no ONNX form here; quantize all "
                "of the model, or use --level computed"
            )
        return self.grids[site]

    # ------------------------------------------------------------ values

    def input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> str:
        """An input of the graph; sizes that are words are free."""
        from onnx import helper

        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def output(self, name: str, value: str, dtype: Any, shape: Sequence[int | str]) -> None:
        """Give a value out under this name."""
        from onnx import helper

        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, kind, list(shape)))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """One node with one result."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, num_results: int, *inputs: str, **attributes: Any) -> list[str]:
        """One node with several results. An empty name is an input that is left out; `domain` may be among the attributes."""
        from onnx import helper

        told = len(self.nodes) if "body" in attributes else repr(sorted(attributes.items()))
        key = (kind, inputs, num_results, told)
        if key in self._done:  # the same of the same, such as three projections of one input
            return self._done[key]
        self._number += 1
        stem = f"{self._places[-1][0]}/{kind}_{self._number}".lstrip("/") if kind in PRODUCTS else ""
        results = [f"v{self._number}" if index == 0 else f"v{self._number}.{index}" for index in range(num_results)]
        self.nodes.append(helper.make_node(kind, list(inputs), results, name=stem, **attributes))
        self._done[key] = results
        return results

    def prepare(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node that depends on constants alone: it comes before all others, once, so that loops may use it too."""
        nodes, done = self.nodes, self._done
        self.nodes, self._done = self.prepared, self._prepared
        try:
            return self.op(kind, *inputs, **attributes)
        finally:
            self.nodes, self._done = nodes, done

    def scan(self, write: Callable[[list[str], str], list[str]], states: list[str], sequence: str) -> list[str]:
        """A loop over the first axis of `sequence`: `write(states, element)` gives the next states, which start as `states`.

        Returns every state at every step, stacked: (time, ...) each.
        """
        from onnx import helper

        nodes, self.nodes = self.nodes, []
        done, self._done = self._done, dict(self._done)
        self._number += 1
        names = [f"s{self._number}.{index}" for index in range(len(states))]
        element = f"e{self._number}"
        found = write(names, element)
        body, self.nodes, self._done = self.nodes, nodes, done
        results = [f"r{self._number}.{index}" for index in range(2 * len(found))]
        for value, name in zip(found * 2, results, strict=True):
            body.append(helper.make_node("Identity", [value], [name]))

        def untyped(values: list[str]) -> list[Any]:
            return [helper.make_tensor_value_info(name, 1, None) for name in values]

        block = helper.make_graph(body, f"body_{self._number}", untyped([*names, element]), untyped(results))
        return self.ops("Scan", 2 * len(found), *states, sequence, body=block, num_scan_inputs=1)[len(found) :]

    def constant(self, values: Any, dtype: Any = FLOAT) -> str:
        """Numbers, stored once however often they are asked for."""
        from onnx import numpy_helper

        array = np.asarray(values, dtype=dtype)
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self._known:
            self._known[key] = f"c{len(self._known)}"
            self.initializers.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def integers(self, *values: int) -> str:
        """Shapes, axes, indices: int64, one dimension."""
        return self.constant(values, INT64)

    def floats(self, tensor: Tensor) -> str:
        """A learned tensor of floats: a bias, a norm's weight, scales."""
        array = tensor.detach().float().contiguous().numpy()
        with np.errstate(over="ignore"):
            half = array.astype(FLOAT16)
        if array.size < 16 or not np.array_equal(half.astype(FLOAT), array):
            return self.constant(array)
        return self.prepare("Cast", self.constant(half, FLOAT16), to=1)

    def stored(self, key: Any, make: Any) -> str:
        """The value of `key`, made when it is asked for first. `make()` gives a value's name."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def has(self, key: Any) -> bool:
        """Whether `stored` made the value of this key already."""
        return key in self._known

    def codes(self, codes: Tensor, num_bits: int) -> str:
        """Codes of a weight as a constant: int4 up to 4 bits, two a byte, else int8."""
        from onnx import TensorProto, helper, numpy_helper

        self._number += 1
        name = f"{self._places[-1][0]}.weight_{self._number}".lstrip(".")
        array = codes.detach().to(torch.int8).contiguous().numpy()
        if num_bits > 4:
            self.initializers.append(numpy_helper.from_array(array, name))
            return name
        flat = array.reshape(-1).view(UINT8) & 15
        flat = np.append(flat, UINT8(0)) if len(flat) % 2 else flat
        packed = (flat[0::2] | (flat[1::2] << 4)).astype(UINT8)
        self.initializers.append(helper.make_tensor(name, TensorProto.INT4, array.shape, packed.tobytes(), raw=True))
        return name

    # ------------------------------------------------------------ small pieces that many layers need

    def shape(self, value: str, axis: int) -> str:
        """The size of one axis, int64 of shape (1,)."""
        end = {} if axis == -1 else {"end": axis + 1}
        return self.ops("Shape", 1, value, start=axis, **end)[0]

    def reshape(self, value: str, *sizes: int) -> str:
        """Sizes as ONNX has them: 0 keeps the axis, -1 takes the rest."""
        return self.op("Reshape", value, self.integers(*sizes))

    def transpose(self, value: str, *axes: int) -> str:
        """Axes in a new order."""
        return self.op("Transpose", value, perm=list(axes))

    def slice(self, value: str, start: int, end: int, axis: int, step: int = 1) -> str:
        """value[start:end:step] along an axis."""
        return self.op(
            "Slice", value, self.integers(start), self.integers(end), self.integers(axis), self.integers(step)
        )

    def count(self, length: str, start: str | None = None) -> str:
        """0, 1, ... length - 1, moved by `start`; both int64 of shape (1,)."""
        zero, one = self.constant(0, INT64), self.constant(1, INT64)
        numbers = self.op("Range", zero, self.op("Squeeze", length), one)
        return numbers if start is None else self.op("Add", numbers, start)

    # ------------------------------------------------------------ static grids

    def point(self, value: str, kind: str) -> str:
        """Pass a site: put on its static grid, as QuantizeLinear and DequantizeLinear; nothing at other levels."""
        grid = self.grid(kind)
        return value if grid is None else self.on_grid(value, grid)

    def on_grid(self, value: str, grid: Grid) -> str:
        """Rounded to a grid's codes and back: the pair that runtimes take for integer arithmetic.

        8-bit codes have 128 added, as uint8: what x86 processors multiply fastest, and what ONNX Runtime makes of int8 there.
        """
        is_small = grid.num_bits <= 8
        zero_point = self.constant(grid.zero_point + 128, UINT8) if is_small else self.constant(grid.zero_point, INT16)
        if grid.num_bits not in (8, 16):
            low, high = (float((code - grid.zero_point) * grid.scale) for code in (grid.code_min, grid.code_max))
            value = self.op("Clip", value, self.constant(low), self.constant(high))
        scale = self.constant(grid.scale)
        return self.op("DequantizeLinear", self.op("QuantizeLinear", value, scale, zero_point), scale, zero_point)

    # ------------------------------------------------------------ the file

    def model(self, metadata: dict[str, str]) -> Any:
        """The finished ModelProto."""
        from onnx import helper

        from asrcompress import __version__

        graph = helper.make_graph(self.prepared + self.nodes, self.name, self.inputs, self.outputs, self.initializers)
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain == CONTRIB for node in self.nodes):
            opsets.append(helper.make_opsetid(CONTRIB, 1))
        model = helper.make_model(
            graph, producer_name="asrcompress", producer_version=__version__, opset_imports=opsets, ir_version=IR_VERSION
        )  # fmt: skip
        helper.set_model_props(model, metadata)
        return model
