"""Pointwise functions of codes by table.

Codes of up to 12 bits: one entry a code, so the result is the function's value, rounded once. Wider codes: 4097 knots
over the grid and integer interpolation between them. Entries are integers that Python computes when the table is
made; a device has them as constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from asrcompress.integers.grid import Grid
from asrcompress.integers.rescale import rescale, shift_right, to_codes
from asrcompress.integers.tensor import GridTensor

KNOT_BITS = 12  # 4097 knots: a 16-bit grid of -128 to 128, twice what GELU saw, has 16 between 0 and 1
FRACTION_BITS = 8  # that table entries carry beyond the grid
SIGMOID_GRID = Grid(2.0**-15, 0, 16)


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def gelu(x: float, approximate: str = "none") -> float:
    """x times the normal distribution function; "tanh": its approximation (arXiv 1606.08415)."""
    if approximate == "tanh":
        return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def silu(x: float, inplace: bool = False) -> float:
    """x sigmoid(x), also called swish."""
    return x * sigmoid(x)


def elu(x: float, alpha: float = 1.0, inplace: bool = False) -> float:
    """x, or alpha (exp(x) - 1) below 0."""
    return x if x > 0 else alpha * math.expm1(x)


def leaky_relu(x: float, negative_slope: float = 0.01, inplace: bool = False) -> float:
    """x, or a fraction of it below 0."""
    return x if x > 0 else x * negative_slope


def softplus(x: float, beta: float = 1.0, threshold: float = 20.0) -> float:
    """log(1 + exp(beta x)) / beta."""
    return x if beta * x > threshold else math.log1p(math.exp(beta * x)) / beta


def hardswish(x: float, inplace: bool = False) -> float:
    """x relu6(x + 3) / 6."""
    return x * min(max(x + 3, 0), 6) / 6


def hardsigmoid(x: float, inplace: bool = False) -> float:
    """relu6(x + 3) / 6."""
    return min(max(x + 3, 0), 6) / 6


POINTWISE: dict[Any, Callable[..., float]] = {
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid, F.sigmoid, torch.sigmoid_), sigmoid),
    **dict.fromkeys((torch.tanh, Tensor.tanh, F.tanh), math.tanh),
    **dict.fromkeys((F.gelu, torch._C._nn.gelu), gelu),
    F.silu: silu,
    F.elu: elu,
    F.leaky_relu: leaky_relu,
    F.softplus: softplus,
    F.hardswish: hardswish,
    F.hardsigmoid: hardsigmoid,
}


@lru_cache(maxsize=512)
def _entries(function: Callable[..., float], options: tuple[Any, ...], old: Grid, new: Grid) -> tuple[Tensor, int]:
    """(int64 table, codes between entries as a power of two): values in units of new.scale / 2^FRACTION_BITS."""
    segment_bits = max(old.num_bits - KNOT_BITS, 0)
    low = -(2 ** (old.num_bits - 1))
    knots = range(low, 2 ** (old.num_bits - 1) + 1, 2**segment_bits)
    limit = 2.0**40
    values = (
        function((code - old.zero_point) * old.scale, **dict(options)) / new.scale * 2**FRACTION_BITS for code in knots
    )
    table = torch.tensor([round(min(max(value, -limit), limit)) for value in values], dtype=torch.int64)
    return table, segment_bits


def look_up(codes: Tensor, old: Grid, new: Grid, function: Callable[..., float], **options: Any) -> Tensor:
    """Codes of `new` for function(number), number by number, of codes of `old`."""
    table, segment_bits = _entries(function, tuple(sorted(options.items())), old, new)
    table = table.to(codes.device)
    index = codes.to(torch.int64) + 2 ** (old.num_bits - 1)
    if segment_bits == 0:
        return to_codes(shift_right(table[index], FRACTION_BITS), new)
    knot, rest = index >> segment_bits, index & (2**segment_bits - 1)
    left = table[knot]
    value = (left << segment_bits) + (table[knot + 1] - left) * rest
    return to_codes(shift_right(value, FRACTION_BITS + segment_bits), new)


def runner(function: Callable[..., float]) -> Callable[..., Tensor]:
    """The integer version of a pointwise torch function."""

    def run(grid: Grid, x: GridTensor, *args: Any, **options: Any) -> Tensor:
        named = {name: value for name, value in options.items() if name != "inplace"}
        if args:
            names = function.__code__.co_varnames[1:]  # type: ignore[attr-defined]
            named |= {name: value for name, value in zip(names, args, strict=False) if name != "inplace"}
        return look_up(x.payload, x.grid, grid, function, **named)

    return run


def glu(grid: Grid, x: GridTensor, dim: int = -1) -> Tensor:
    """Codes of a sigmoid(b), where a and b are the halves of x along `dim` (arXiv 1612.08083)."""
    value, gate = x.payload.chunk(2, dim)
    wide = value.to(torch.int64) - x.grid.zero_point
    gates = look_up(gate, x.grid, SIGMOID_GRID, sigmoid)
    return rescale(wide * gates.to(torch.int64), x.grid.scale * SIGMOID_GRID.scale / grid.scale, grid)
