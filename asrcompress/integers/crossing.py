"""The two operations at the border between floats and integers: features in, logits out.

They are torch operations of their own, `asrcompress::enter_integers` and `asrcompress::leave_integers`,
so that a trace of what torch dispatches shows every crossing by name. Between them a model of level
integer-only runs no float operation. Nothing else hides behind a custom operation.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("asrcompress", "DEF")
_LIBRARY.define("enter_integers(Tensor x, float scale, int zero_point, int num_bits) -> Tensor")
_LIBRARY.define("leave_integers(Tensor codes, float scale, int zero_point) -> Tensor")


def _enter(x: Tensor, scale: float, zero_point: int, num_bits: int) -> Tensor:
    high = 2 ** (num_bits - 1) - 1
    low = -high - (1 if zero_point else 0)  # as in Grid: a symmetric grid negates exactly
    codes = (x.float() / scale).round().add(zero_point).clamp(low, high)
    return codes.to(torch.int8 if num_bits <= 8 else torch.int16)


def _leave(codes: Tensor, scale: float, zero_point: int) -> Tensor:
    return (codes.to(torch.int32) - zero_point).float() * scale


_LIBRARY.impl("enter_integers", _enter, "CompositeExplicitAutograd")
_LIBRARY.impl("leave_integers", _leave, "CompositeExplicitAutograd")


def enter_integers(x: Tensor, scale: float, zero_point: int, num_bits: int) -> Tensor:
    """Round float features (...) to the nearest code of a static grid: int8 up to 8 bits, else int16."""
    codes: Tensor = torch.ops.asrcompress.enter_integers(x, scale, zero_point, num_bits)
    return codes


def leave_integers(codes: Tensor, scale: float, zero_point: int) -> Tensor:
    """The float32 numbers that codes (...) of a static grid stand for."""
    x: Tensor = torch.ops.asrcompress.leave_integers(codes, scale, zero_point)
    return x
