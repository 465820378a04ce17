"""Whole encoder layers in one call: what passes between the products of a block of rows stays in the processor's cache."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asrcompress.kernels.call import check, loaded
from asrcompress.kernels.weights import CWeight, PanelWeight


class CNorm(ctypes.Structure):
    """`Norm` of c/layers.h."""

    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("eps", ctypes.c_float))


class CEncoderLayer(ctypes.Structure):
    """`EncoderLayer` of c/layers.h."""

    _fields_ = (
        ("attention_norm", CNorm), ("ffn_norm", CNorm),
        ("qkv", CWeight), ("out", CWeight), ("fc1", CWeight), ("fc2", CWeight),
        ("heads", ctypes.c_int32), ("pre_norm", ctypes.c_int32),
    )  # fmt: skip


@dataclass(frozen=True)
class EncoderWeights:
    """What one layer holds: projections to queries, keys and values as one weight; ReLU between fc1 and fc2."""

    qkv: PanelWeight
    out: PanelWeight
    fc1: PanelWeight
    fc2: PanelWeight
    attention_norm: nn.LayerNorm
    ffn_norm: nn.LayerNorm
    num_heads: int
    pre_norm: bool


def c_norm(norm: nn.LayerNorm) -> CNorm:
    """A layer norm's parameters, where they lie."""
    return CNorm(norm.weight.data_ptr(), norm.bias.data_ptr(), norm.eps)


class Scratch:
    """What the layers of one encoder share while they run on inputs of one shape.

    Args:
        x: (time, batch, dim).
        padding: (batch, time) bool, True = padding, or None.
    """

    def __init__(self, x: Tensor, padding: Tensor | None) -> None:
        self.shape = tuple(x.shape)
        time, batch, dim = x.shape
        self.padding = None if padding is None else padding.clone()
        self.mask: Tensor | None = None
        self.mask_stride = -(-time // 16) * 16
        rows = torch.arange(time * batch, dtype=torch.int32)
        if padding is not None and bool(padding.any()):
            self.mask = torch.zeros(batch, self.mask_stride)
            self.mask[:, :time].masked_fill_(padding.bool(), -math.inf)
            rows = rows[~padding.bool().t().reshape(-1)]
        self.rows = rows.contiguous()
        self.qkv = torch.zeros(time * batch, 3 * dim)
        self.attended = torch.empty(time * batch, dim)

    def is_for(self, padding: Tensor | None) -> bool:
        """Whether it was made for this padding."""
        if self.padding is None or padding is None:
            return self.padding is padding
        return torch.equal(self.padding, padding)


class WholeLayer:
    """One encoder layer, in one call."""

    def __init__(self, weights: EncoderWeights) -> None:
        self.weights = weights  # keeps what `c` points to
        self.c = CEncoderLayer(
            c_norm(weights.attention_norm), c_norm(weights.ffn_norm),
            weights.qkv.c, weights.out.c, weights.fc1.c, weights.fc2.c, weights.num_heads, int(weights.pre_norm),
        )  # fmt: skip

    def __call__(self, x: Tensor, scratch: Scratch) -> Tensor:
        """x (time, batch, dim) float32 contiguous -> the layer's output, written over x; rows of padding stay as they are."""
        time, batch, _ = scratch.shape
        failed = loaded().asrc_encoder_layer(
            ctypes.byref(self.c), ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(scratch.rows.data_ptr()),
            ctypes.c_int64(len(scratch.rows)), time, batch,
            ctypes.c_void_p(None if scratch.mask is None else scratch.mask.data_ptr()), scratch.mask_stride,
            ctypes.c_void_p(scratch.qkv.data_ptr()), ctypes.c_void_p(scratch.attended.data_ptr()), torch.get_num_threads(),
        )  # fmt: skip
        check(failed)
        return x
