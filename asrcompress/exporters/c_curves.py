"""Sigmoid, tanh and exponentials in integers without tables: what the C source computes, number for number, in Python.

integers/lookup.py and integers/softmax.py hold functions as tables of thousands of entries, which a microcontroller has no
room for. Here one exponential of 64-bit integers gives the same entries: every entry is compared when a model is exported,
and where it would be off by one a correction is written down. The C functions of the same names are in templates/keyword.c.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from asrcompress.errors import AsrCompressError
from asrcompress.integers.grid import Grid
from asrcompress.integers.lookup import FRACTION_BITS, KNOT_BITS, SIGMOID_GRID, _entries, sigmoid
from asrcompress.integers.softmax import FRACTION_BITS as SOFTMAX_BITS
from asrcompress.integers.softmax import _tables

RATE_BITS = 48  # fraction bits of a rate: powers of two that a unit is worth
EXP_BITS = 40  # fraction bits of an exponential
SPAN_BITS = 36  # fraction bits of a quotient's numerator; what is left of 64 is for the largest span
# 2^(-i/64) = 1 - WHOLE[i] / 2^33 and 2^(-i/4096) = 1 - PARTS[i] / 2^38, so that 32 bits keep 33 and 38
WHOLE = [round((1 - 2.0 ** (-index / 64)) * 2**33) for index in range(64)]
PARTS = [round(-math.expm1(-math.log(2) * index / 4096) * 2**38) for index in range(64)]
LN2 = round(math.log(2) * 2**32)


def exponential(count: int, rate: int) -> int:
    """2^40 exp(-count s) for a rate of s, to some 2^-34 of itself; count 0 to 2^17 - 1."""
    exponent = count * rate
    below = exponent & (2**RATE_BITS - 1)
    if exponent >> RATE_BITS > EXP_BITS:
        return 0
    first, second = below >> 42, below >> 36 & 63
    rest = below >> 4 & 0xFFFFFFFF  # 2^-44 each
    power = 2**40 - (WHOLE[first] << 7)
    power -= (power >> 9) * PARTS[second] >> 29
    less = rest * LN2 >> 32
    less -= less * less >> 45
    power -= (power >> 9) * less >> 35
    return power >> (exponent >> RATE_BITS)


def rate_of(scale: float, most: int, where: str) -> int:
    """A unit's worth for `exponential`.

    Raises:
        AsrCompressError: `most` units overflow.
    """
    rate = round(scale / math.log(2) * 2**RATE_BITS)
    if most * rate >= 2**64:
        raise AsrCompressError(
            f"{where}: a grid of steps of {scale} is too coarse for the C source; calibrate with data that use all of the model"
        )
    return rate


@dataclass(frozen=True)
class Curve:
    """A function of codes as the C source has it.

    Knot n's value is round(span / (1 + exp(-n s)) - base), for negative n `mirror` less that of -n, plus its correction.
    rate: of s. span: of SPAN_BITS fraction bits. base: of 16. segment_bits: codes between knots, as a power of two.
    low, high: of the results. corrections: knot -> what to add.
    """

    rate: int
    span: int
    base: int
    mirror: int
    segment_bits: int
    low: int
    high: int
    corrections: dict[int, int]

    def plain(self, knot: int) -> int:
        """A knot's value before correction."""
        divisor = (2**EXP_BITS + exponential(abs(knot), self.rate) + 8) >> (EXP_BITS - SPAN_BITS)
        quotient, rest = divmod(self.span, divisor)
        quotient = (quotient << 16) + (rest << 16) // divisor
        value = (quotient - self.base + 2**15) >> 16
        return self.mirror - value if knot < 0 else value


def sigmoid_curve(old: Grid, where: str) -> Curve:
    """lookup.look_up(codes, old, SIGMOID_GRID, sigmoid)."""
    one = 2.0**15 * 2**FRACTION_BITS
    return _curve(sigmoid, old, SIGMOID_GRID, where, unit=1.0, span=one, base=0.0, mirror=round(one))


def tanh_curve(old: Grid, new: Grid, where: str) -> Curve:
    """lookup.look_up(codes, old, new, math.tanh): twice a sigmoid of twice the number, less one."""
    one = 2**FRACTION_BITS / new.scale
    return _curve(math.tanh, old, new, where, unit=2.0, span=2 * one, base=one, mirror=0)


def probability_curve(scale: float, where: str) -> Curve:
    """sigmoid of a difference of logits in units of `scale`, of 15 fraction bits."""
    rate = rate_of(scale, 2**17, where)
    return Curve(rate, 2 ** (15 + SPAN_BITS), 0, 2**15, 0, 0, 2**15, {})


def softmax_corrections(scale: float, rate: int) -> dict[int, int]:
    """Where round(2^15 exp(-n s)) is not what softmax's tables hold: n -> what to add."""
    coarse, fine = (table.tolist() for table in _tables(scale))
    entries = {256 * index: value for index, value in enumerate(coarse)} | dict(enumerate(fine))
    half = 2 ** (EXP_BITS - SOFTMAX_BITS - 1)
    return _corrections(entries.items(), lambda n: (exponential(n, rate) + half) >> (EXP_BITS - SOFTMAX_BITS))


def _curve(
    function: Callable[[float], float], old: Grid, new: Grid, where: str, *, unit: float, span: float, base: float, mirror: int
) -> Curve:  # fmt: skip
    segment_bits = max(old.num_bits - KNOT_BITS, 0)
    reach = 2 ** (old.num_bits - 1 - segment_bits)
    if old.zero_point or new.zero_point or span * 2**SPAN_BITS >= 2**64:
        raise AsrCompressError(
            f"{where}: {new} of {old} has no form in C; calibrate with data that use all of the model"
        )
    rate = rate_of(unit * old.scale * 2**segment_bits, reach, where)
    made = Curve(
        rate, round(span * 2**SPAN_BITS), round(base * 2**16), mirror, segment_bits, new.code_min, new.code_max, {}
    )
    table, _ = _entries(function, (), old, new)
    made.corrections.update(_corrections(enumerate(table.tolist(), start=-reach), made.plain))
    return made


def _corrections(entries: Iterable[tuple[int, int]], computed: Callable[[int], int]) -> dict[int, int]:
    """What to add to `computed` at each n where it differs from the entry."""
    differences = ((n, value - computed(n)) for n, value in entries)
    return {n: difference for n, difference in differences if difference}
