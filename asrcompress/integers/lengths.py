"""Lengths of sequences as exact fractions.

Fairseq computes how many frames are left after a subsampler in floats: `((n.float() - 1) / 2 + 1).floor().long()`.
A LengthTensor runs the same lines on integers: a numerator a length, one denominator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CASTS = (Tensor.float, Tensor.double, Tensor.long, Tensor.int, Tensor.clone, torch.clone, Tensor.to, Tensor.type_as)
ADDITIONS = {
    torch.add: 1,
    Tensor.add: 1,
    Tensor.__add__: 1,
    Tensor.__radd__: 1,
    torch.sub: -1,
    Tensor.sub: -1,
    Tensor.__sub__: -1,
}
DIVISIONS = (torch.div, torch.true_divide, Tensor.div, Tensor.__truediv__)


class LengthTensor(Tensor):
    """numerator / denominator; the tensor itself holds the numerators, int64 of shape (batch,)."""

    denominator: int

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        x = args[0] if args else None
        other = args[1] if len(args) > 1 else None
        with torch._C.DisableTorchFunctionSubclass():
            if isinstance(x, LengthTensor):
                numerator = x.as_subclass(Tensor)
                if func in CASTS:
                    return lengths(numerator.clone(), x.denominator)
                if func in ADDITIONS and type(other) is int:
                    return lengths(numerator + ADDITIONS[func] * other * x.denominator, x.denominator)
                if func in DIVISIONS and type(other) is int and other > 0 and not kwargs.get("rounding_mode"):
                    return lengths(numerator, x.denominator * other)
                if func in (torch.floor, Tensor.floor):
                    return lengths(torch.div(numerator, x.denominator, rounding_mode="floor"))
                if func in (torch.ceil, Tensor.ceil):
                    return lengths(-torch.div(-numerator, x.denominator, rounding_mode="floor"))
            result = func(*args, **kwargs)
        return result.as_subclass(Tensor) if isinstance(result, LengthTensor) else result


def lengths(numerator: Tensor, denominator: int = 1) -> LengthTensor:
    """Integers as lengths."""
    tensor = numerator.to(torch.int64).as_subclass(LengthTensor)
    tensor.denominator = denominator
    return tensor
