"""The constants of a keyword model on static grids: all that its C source is made from, as plain integers.

Read from the twins as they run, so that nothing is derived a second time. Refuses what has no form in C.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.exporters import Subject
from asrcompress.exporters.c_curves import (
    Curve,
    probability_curve,
    rate_of,
    sigmoid_curve,
    softmax_corrections,
    tanh_curve,
)
from asrcompress.integers.grid import Grid
from asrcompress.integers.products import FixedWeight
from asrcompress.integers.rescale import fixed_point
from asrcompress.modules.recurrent import OPERAND_GRID, UNIT_GRID
from asrcompress.modules.weight import IntegerWeight

MOST_SUM = 2**31 - 1  # of products of codes
MOST_TOTAL = 2**63 - 1  # of these, times their multipliers
MOST_TRIALS = 2**21  # of sums, to find coarser offsets


@dataclass(frozen=True)
class Scaling:
    """(code - old_zero) * multiplier / 2^shift + new_zero, between low and high."""

    multiplier: int
    shift: int
    old_zero: int
    new_zero: int
    low: int
    high: int


@dataclass(frozen=True)
class Product:
    """A weight and what rescales its sums.

    codes: of `code_bits` without sign, code_low + code_step each. zeros_apart: every weight takes one bit more and those that
    are 0 nothing else, None here; where that is smaller: of patterns, fractions and three values. multipliers, zero_points: one,
    or rows * groups; zero_points may be empty. offsets: one a row, of the bias alone, multiples of 2^offset_shift.
    """

    codes: list[int | None]
    zeros_apart: bool
    code_bits: int
    code_low: int
    code_step: int
    rows: int
    groups: int
    group_size: int
    multipliers: list[int]
    zero_points: list[int]
    offsets: list[int]
    offset_shift: int
    shift: int
    input_zero: int
    output: Grid


@dataclass(frozen=True)
class Layer:
    """Of the GRU."""

    input: Scaling
    from_input: Product
    from_hidden: Product
    sigmoid: Curve
    tanh: Curve
    gates: Grid


@dataclass(frozen=True)
class Network:
    """A keyword model; `sizes` as CRNN.sizes, `input` and `logits` the grids of its ends."""

    sizes: dict[str, Any]
    window_steps: int
    input: Grid
    frame: Scaling
    convolution: Product
    layers: list[Layer]
    hidden: Scaling
    energy_input: Scaling
    energy_hidden: Product
    energy_tanh: Curve
    score_input: Scaling
    energy_score: Product
    softmax_rate: int
    softmax_corrections: dict[int, int]
    weight_max: int
    values: Scaling
    attended: Scaling
    class_input: Scaling
    classes: Product
    probability: Curve
    logits: Grid

    @property
    def products(self) -> list[Product]:
        """All weights, in the order in which they run."""
        of_layers = [product for layer in self.layers for product in (layer.from_input, layer.from_hidden)]
        return [self.convolution, *of_layers, self.energy_hidden, self.energy_score, self.classes]

    @property
    def num_bands(self) -> int:
        """Positions of the convolution over mel bins."""
        return int((self.sizes["num_mels"] - self.sizes["kernel_size"][0]) // self.sizes["stride"][0] + 1)

    @property
    def num_features(self) -> int:
        """What the first layer of the GRU is given."""
        return int(self.sizes["num_channels"] * self.num_bands)


def read_network(subject: Subject, window_steps: int) -> Network:
    """The constants of a built model.

    Raises:
        AsrCompressError: it is no keyword model, is not integer-only all through, or overflows what C's types hold.
    """
    path, content = subject.path, subject.content
    if subject.spec.family != "kws_crnn":
        raise AsrCompressError(
            f"{path}: is a {subject.spec.family}, and the C source is of keyword models (kws_crnn); use --to onnx"
        )
    if content is None or not content.grids:
        raise AsrCompressError(
            f"{path}: does not compute in integers alone; quantize the model with --level integer-only --calibrate SPEECH first"
        )
    kept = content.recipe.get("islands", ())
    if kept:
        raise AsrCompressError(
            f"{path}: {kept[0]} computes in float; quantize it without --exclude and without rules of another level"
        )
    try:
        return _read(subject.module, content.grids, window_steps)
    except AsrCompressError as error:
        raise AsrCompressError(f"{path}: {error}") from error


def _read(module: Any, grids: dict[str, Grid], window_steps: int) -> Network:
    conv, gru, energy = module.conv[0], module.gru, module.attention.energy
    convolution = _product("conv.0", conv.packed, conv.bias, conv.fixed)
    layers, before = [], conv.fixed.grid
    for index in range(gru.num_layers):
        name = f"l{index}"
        gates, into = gru.grids[f"gates_{name}"], gru.grids[f"in_{name}"]
        products = [
            _product(f"gru.{kind}_{name}", gru.packed[f"weight_{kind}_{name}"], gru.biases.get(f"bias_{kind}_{name}"), gru.fixed[f"{kind}_{name}"])
            for kind in ("ih", "hh")
        ]  # fmt: skip
        curves = sigmoid_curve(gates, f"gru:gates_{name}"), tanh_curve(gates, UNIT_GRID, f"gru:gates_{name}")
        layers.append(Layer(_scaling(before, into), products[0], products[1], *curves, gates))
        before = UNIT_GRID
    hidden, score, classifier = energy[0], energy[2], module.classifier
    table, attended = grids["attention.energy.1:table"], grids["attention:attended"]
    scores, values = score.fixed.grid, grids["attention:v"]
    rate = rate_of(scores.scale, 2**16 - 1, "attention.energy.2:out")
    bits = min(module.attention.sites.operand_bits("attention:softmax"), 8)
    logits = classifier.fixed.grid
    factor = values.scale / attended.scale * 2.0**-16
    return Network(
        sizes=module.sizes,
        window_steps=window_steps,
        input=grids[":input"],
        frame=_scaling(grids[":input"], conv.fixed.input_grid),
        convolution=convolution,
        layers=layers,
        hidden=_scaling(UNIT_GRID, OPERAND_GRID),
        energy_input=_scaling(UNIT_GRID, hidden.fixed.input_grid),
        energy_hidden=_product("attention.energy.0", hidden.packed, hidden.bias, hidden.fixed),
        energy_tanh=tanh_curve(hidden.fixed.grid, table, "attention.energy.1:table"),
        score_input=_scaling(table, score.fixed.input_grid),
        energy_score=_product("attention.energy.2", score.packed, score.bias, score.fixed),
        softmax_rate=rate,
        softmax_corrections=softmax_corrections(scores.scale, rate),
        weight_max=2 ** (bits - 1) - 1,
        values=_scaling(UNIT_GRID, values),
        attended=_onto(attended, *fixed_point(factor)),
        class_input=_scaling(attended, classifier.fixed.input_grid),
        classes=_product("classifier", classifier.packed, classifier.bias, classifier.fixed),
        probability=probability_curve(logits.scale, "classifier:out"),
        logits=logits,
    )


def _scaling(old: Grid, new: Grid) -> Scaling:
    """rescale.regrid."""
    return _onto(new, *((1, 0) if old == new else fixed_point(old.scale / new.scale)), old_zero=old.zero_point)


def _onto(grid: Grid, multiplier: int, shift: int, old_zero: int = 0) -> Scaling:
    return Scaling(multiplier, shift, old_zero, grid.zero_point, grid.code_min, grid.code_max)


def _product(name: str, weight: IntegerWeight, bias: torch.Tensor | None, fixed: FixedWeight) -> Product:
    """products.weight_product; its offset without the input's zero point, which the C source takes from each input."""
    codes = weight.codes.to(torch.int64)
    rows, columns = codes.shape
    groups = fixed.multiplier.shape[1]
    size = columns // groups
    grouped = codes.reshape(rows, groups, size)
    zero_points = fixed.weight_zero_point
    if zero_points is not None:
        grouped = grouped - zero_points.unsqueeze(-1)
    zero = fixed.input_grid.zero_point
    offsets = fixed.offset + zero * (grouped.sum(dim=-1) * fixed.multiplier).sum(dim=-1)
    furthest = 2 ** (fixed.input_grid.num_bits - 1) + abs(zero)
    sums = grouped.abs().sum(dim=-1) * furthest
    totals = [
        sum(s * abs(m) for s, m in zip(*pair, strict=True)) + abs(offset)
        for *pair, offset in zip(sums.tolist(), fixed.multiplier.tolist(), offsets.tolist(), strict=True)
    ]
    if int(sums.max()) > MOST_SUM or max(totals) + 2**62 > MOST_TOTAL or fixed.input_grid.num_bits > 8:
        raise AsrCompressError(
            f"{name}: its sums may leave 32 bits, or their multiples 64; use fewer bits or smaller layers"
        )
    found, offset_shift = _coarser(offsets, fixed, sums)
    stored, flat = codes.flatten().tolist(), grouped.flatten().tolist()
    apart = [code if weight else None for code, weight in zip(stored, flat, strict=True)]
    plans = [(_code_bits(stored), stored, False), (_code_bits(apart), apart, True)]
    (code_bits, low, step), chosen, zeros_apart = min(
        plans, key=lambda plan: plan[0][0] * sum(code is not None for code in plan[1]) + plan[2] * len(stored)
    )
    return Product(
        codes=[None if code is None else (code - low) // step for code in chosen],
        zeros_apart=zeros_apart,
        code_bits=code_bits,
        code_low=low,
        code_step=step,
        rows=rows,
        groups=groups,
        group_size=size,
        multipliers=_shared(fixed.multiplier),
        zero_points=[] if zero_points is None else _shared(zero_points),
        offsets=found,
        offset_shift=offset_shift,
        shift=fixed.shift,
        input_zero=zero,
        output=fixed.grid,
    )


def _coarser(offsets: torch.Tensor, fixed: FixedWeight, sums: torch.Tensor) -> tuple[list[int], int]:
    """(offsets, k): other offsets, all multiples of 2^k, that give the same code for every sum of products that can come.

    The sums of a row are whole numbers up to `sums` (rows, 1), and the shift rounds what they are multiplied to; so an offset may
    move as far as no sum's product gets over a rounding's edge. Of small weights alone, as all sums are tried.
    """
    exact: list[int] = offsets.tolist()
    if fixed.shift == 0 or fixed.multiplier.shape[1] > 1 or int(sums.sum()) > MOST_TRIALS:
        return exact, 0
    ranges = []
    for offset, (multiplier,), (furthest,) in zip(exact, fixed.multiplier.tolist(), sums.tolist(), strict=True):
        products = torch.arange(-furthest, furthest + 1) * multiplier + (offset + (1 << (fixed.shift - 1)))
        behind = products & ((1 << fixed.shift) - 1)
        ranges.append((offset - int(behind.min()), offset + (1 << fixed.shift) - 1 - int(behind.max())))
    for shift in range(fixed.shift, 0, -1):
        multiples = [-(-low >> shift) << shift for low, _ in ranges]
        if all(multiple <= high for multiple, (_, high) in zip(multiples, ranges, strict=True)):
            return multiples, shift
    return exact, 0


def _code_bits(codes: list[int | None]) -> tuple[int, int, int]:
    """(bits of a code, the lowest code, the step between codes)."""
    found = {code for code in codes if code is not None} or {0}
    low = min(found)
    step = gcd(*(code - low for code in found)) or 1
    return max(((max(found) - low) // step).bit_length(), 1), low, step


def _shared(numbers: torch.Tensor) -> list[int]:
    """All of them, or one that all are."""
    flat: list[int] = numbers.flatten().tolist()
    return flat[:1] if len(set(flat)) == 1 else flat


def packed_codes(product: Product) -> bytes:
    """Codes as one stream of bits, the least significant first; with a byte behind it where its last bit may not fill a code."""
    bits: list[int] = []
    places = range(product.code_bits)
    for code in product.codes:
        if product.zeros_apart:
            bits.append(int(code is not None))
        if code is not None:
            bits += [code >> place & 1 for place in places]
    return np.packbits(np.array(bits, dtype=np.uint8), bitorder="little").tobytes() + bytes(product.zeros_apart)


def offset_bytes(product: Product) -> tuple[int, int, bytes]:
    """(the lowest offset, bytes each, how many units higher each is, the least significant byte first); the lowest alone where all are alike."""
    low, shift = min(product.offsets), product.offset_shift
    above = [(offset - low) >> shift for offset in product.offsets]
    width = -(-max(above).bit_length() // 8)
    return low, width, b"".join(number.to_bytes(width, "little") for number in above)
