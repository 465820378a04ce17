"""Lengths of sequences as exact fractions.

Fairseq computes how many frames are left after a subsampler in floats: `((n.float() - 1) / 2 + 1).floor().long()`.
A LengthTensor runs the same lines on integers: a numerator a length, one denominator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError

T = Tensor
CASTS = (T.float, T.double, T.clone, torch.clone, T.detach)
TO_WHOLE = (T.long, T.int)
CASTS_TO = (T.to, T.type_as, T.type)
ADDITIONS = {torch.add: 1, T.add: 1, T.__add__: 1, T.__radd__: 1, torch.sub: -1, T.sub: -1, T.__sub__: -1}
PRODUCTS = (torch.mul, T.mul, T.__mul__, T.__rmul__)
DIVISIONS = (torch.div, torch.true_divide, T.div, T.true_divide, T.__truediv__)
FLOOR_DIVISIONS = (torch.floor_divide, T.floor_divide, T.__floordiv__)


class LengthTensor(Tensor):
    """numerator / denominator; the tensor itself holds the numerators, int64 of shape (batch,).

    Whole numbers are a plain tensor for every function that is not below; of fractions there are no others.
    """

    denominator: int

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        x = args[0] if args else None
        with torch._C.DisableTorchFunctionSubclass():
            if isinstance(x, LengthTensor):
                result = _exactly(x, func, args[1:], kwargs)
                if result is not None:
                    return result
            fractions = any(isinstance(y, LengthTensor) and y.denominator > 1 for y in (*args, *kwargs.values()))
            if fractions and getattr(func, "__name__", "") not in ("__get__", "dim", "size", "__len__", "numel"):
                raise AsrCompressError(
                    f"lengths: {getattr(func, '__qualname__', func)} of fractions has no exact version; round them first"
                )
            result = func(*args, **kwargs)
        return result.as_subclass(Tensor) if isinstance(result, LengthTensor) else result


def _exactly(x: LengthTensor, func: Any, others: Any, kwargs: Any) -> LengthTensor | None:
    """What a function makes of lengths, as lengths; None where it has no exact version here."""
    numerator, denominator = x.as_subclass(Tensor), x.denominator
    other = others[0] if others else None
    number = int(other) if isinstance(other, int | float) and other == int(other) else None
    whole = func in TO_WHOLE or (func in CASTS_TO and _names_integers((*others, *kwargs.values())))
    if whole and denominator > 1:
        return lengths(torch.div(numerator, denominator, rounding_mode="trunc"))
    if whole or func in CASTS or func in CASTS_TO:
        return lengths(numerator.clone(), denominator)
    if func in (torch.floor, T.floor):
        return lengths(torch.div(numerator, denominator, rounding_mode="floor"))
    if func in (torch.ceil, T.ceil):
        return lengths(-torch.div(-numerator, denominator, rounding_mode="floor"))
    if number is None:
        return None
    if func in ADDITIONS and not kwargs:
        return lengths(numerator + ADDITIONS[func] * number * denominator, denominator)
    if func in PRODUCTS:
        return lengths(numerator * number, denominator)
    if number > 0 and func in (*DIVISIONS, *FLOOR_DIVISIONS):
        rounding = "floor" if func in FLOOR_DIVISIONS else kwargs.get("rounding_mode")
        if rounding is None:
            return lengths(numerator, denominator * number)
        return lengths(torch.div(numerator, denominator * number, rounding_mode=rounding))
    return None


def _names_integers(arguments: Any) -> bool:
    """Whether a cast is to integers, by the type or the tensor that it names."""
    types = [x.dtype if isinstance(x, Tensor) else x for x in arguments]
    return any(isinstance(x, torch.dtype) and not x.is_floating_point for x in types)


def lengths(numerator: Tensor, denominator: int = 1) -> LengthTensor:
    """Integers as lengths."""
    tensor = numerator.to(torch.int64).as_subclass(LengthTensor)
    tensor.denominator = denominator
    return tensor
