"""A static grid of activations: which number a code stands for, fixed before the model runs.

Pure Python numbers: on a device they are constants. How a grid is chosen from observed values is in
observers.py; grids of weights are in asrcompress/grids.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from asrcompress.errors import AsrCompressError

SMALLEST_SCALE = 2.0**-60


@dataclass(frozen=True)
class Grid:
    """number = (code - zero_point) * scale; codes are two's complement integers of `num_bits`.

    A symmetric grid (zero_point 0) leaves out the most negative code, so that negation is exact.
    """

    scale: float
    zero_point: int = 0
    num_bits: int = 8

    @cached_property
    def code_max(self) -> int:
        """The largest code."""
        return int(2 ** (self.num_bits - 1)) - 1

    @cached_property
    def code_min(self) -> int:
        """The smallest code."""
        return -self.code_max - (1 if self.zero_point else 0)

    @cached_property
    def dtype(self) -> torch.dtype:
        """What holds the codes: int8, or int16 above 8 bits."""
        return torch.int8 if self.num_bits <= 8 else torch.int16

    def scaled(self, factor: float) -> Grid:
        """The grid of the same codes for numbers times a positive factor."""
        return Grid(self.scale * factor, self.zero_point, self.num_bits)

    @classmethod
    def of_range(cls, low: float, high: float, num_bits: int, *, symmetric: bool = True) -> Grid:
        """The finest grid that covers low..high (and 0)."""
        low, high = min(low, 0.0), max(high, 0.0)
        top = 2 ** (num_bits - 1) - 1
        scale = max((high - low) / (2 * top + 1), SMALLEST_SCALE)
        zero_point = min(max(round(-top - 1 - low / scale), -top - 1), top)
        if symmetric or low == high or zero_point == 0:  # which leaves out the lowest code
            return cls(max(max(-low, high) / top, SMALLEST_SCALE), 0, num_bits)
        return cls(scale, zero_point, num_bits)

    def to_json(self) -> list[float | int]:
        """[scale, zero_point, num_bits]: what the artifact stores."""
        return [self.scale, self.zero_point, self.num_bits]

    @classmethod
    def from_json(cls, value: object) -> Grid:
        """The inverse of `to_json`, checked.

        Raises:
            AsrCompressError: not three numbers of their kinds and ranges.
        """
        if isinstance(value, list) and len(value) == 3:
            scale, zero_point, num_bits = value
            whole = type(zero_point) is int and type(num_bits) is int
            if type(scale) in (int, float) and whole and 2 <= num_bits <= 16 and 0 < scale < float("inf"):
                top = 2 ** (num_bits - 1)
                if -top <= zero_point < top:
                    return cls(float(scale), zero_point, num_bits)
        raise AsrCompressError(f"{str(value)[:60]} is not a grid: [scale above 0, zero point, 2 to 16 bits]")
