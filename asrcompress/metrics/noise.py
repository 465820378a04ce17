"""How far a quantized model's outputs are from the float model's: the signal-to-quantization-noise ratio."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sqnr_db(signal: Tensor, quantized: Tensor) -> float:
    """10 log10(sum signal^2 / sum (signal - quantized)^2), in decibels; infinity where they are equal.

    Args:
        signal: what the float model gives, any shape.
        quantized: what the other one gives, the same shape.

    Raises:
        ValueError: shapes differ, or a number is not finite.
    """
    if signal.shape != quantized.shape:
        raise ValueError(f"outputs of {tuple(signal.shape)} and {tuple(quantized.shape)} cannot be compared")
    a, b = signal.double(), quantized.double()
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise ValueError("an output is not finite")
    noise = float((a - b).square().sum())
    power = float(a.square().sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(power / noise) if power > 0 else -math.inf
