"""Packed weights as the kernels read them: panels of 64 outputs, words of 4 inputs; see c/product.h."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

PANEL = 64
VECTOR = 16
WORD = 4


def fits(num_inputs: int, groups: int) -> bool:
    """Whether a weight divides into the words that are multiplied: one scale for all inputs, or groups of whole words."""
    return groups == 1 or num_inputs // groups % WORD == 0


class CWeight(ctypes.Structure):
    """`Weight` of c/product.h."""

    _fields_ = (
        ("codes", ctypes.c_void_p), ("scale", ctypes.c_void_p), ("offset", ctypes.c_void_p), ("bias", ctypes.c_void_p),
        ("n", ctypes.c_int32), ("groups", ctypes.c_int32), ("k4", ctypes.c_int32), ("k", ctypes.c_int32),
    )  # fmt: skip


class PanelWeight:
    """A weight (out, in) laid out for the kernels; keeps the memory that `c` points to.

    Args:
        codes: (out, in) int8.
        scale: (out or 1, groups) float32; in is a multiple of groups.
        zero_point: like scale, int8, or None.
        bias: (out,) float32, or None.
    """

    def __init__(self, codes: Tensor, scale: Tensor, zero_point: Tensor | None, bias: Tensor | None) -> None:
        num_outputs, num_inputs = codes.shape
        groups = scale.shape[1]
        size = num_inputs // groups
        words = -(-size // WORD)
        padded = -(-num_outputs // VECTOR) * VECTOR
        unsigned = torch.full((padded, groups, words * WORD), 128, dtype=torch.uint8)
        unsigned[:num_outputs, :, :size] = codes.view(torch.uint8).bitwise_xor(0x80).view(num_outputs, groups, size)
        panels = unsigned.view(padded, groups * words, WORD).split(PANEL)
        self._codes = torch.cat([panel.transpose(0, 1).reshape(-1) for panel in panels])
        self._scale = _by_group(scale.float(), num_outputs, padded)
        self._offset = None if zero_point is None else _by_group(zero_point.to(torch.int32) + 128, num_outputs, padded)
        self._bias = (
            None
            if bias is None
            else torch.nn.functional.pad(bias.detach().float(), (0, padded - num_outputs)).contiguous()
        )
        self.shape = (num_outputs, num_inputs)
        self.c = CWeight(
            self._codes.data_ptr(), self._scale.data_ptr(), _pointer(self._offset), _pointer(self._bias),
            num_outputs, groups, words, num_inputs,
        )  # fmt: skip
        self.reference = ctypes.byref(self.c)


Part = tuple[Tensor, Tensor, Tensor | None, Tensor | None]  # codes, scale, zero point, bias


def stack(parts: Sequence[Part]) -> PanelWeight:
    """Several weights over the same inputs as one, outputs behind one another."""
    codes = torch.cat([codes for codes, _, _, _ in parts])
    scale = torch.cat([scale.expand(len(codes), -1) for codes, scale, _, _ in parts])
    zero_point = bias = None
    if any(part[2] is not None for part in parts):
        zeros = [torch.zeros_like(part[1], dtype=torch.int8) if part[2] is None else part[2] for part in parts]
        zero_point = torch.cat([zero.expand(len(part[0]), -1) for zero, part in zip(zeros, parts, strict=True)])
    if any(part[3] is not None for part in parts):
        bias = torch.cat([torch.zeros(len(part[0])) if part[3] is None else part[3] for part in parts])
    return PanelWeight(codes, scale, zero_point, bias)


def _by_group(values: Tensor, num_outputs: int, padded: int) -> Tensor:
    """(out or 1, groups) -> (groups, out padded with zeros)."""
    out = values.new_zeros(values.shape[1], padded)
    out[:, :num_outputs] = values.expand(num_outputs, -1).t()
    return out


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
