"""Convolutions over time by the kernels: windows that overlap in memory as rows of a product, or channel by channel."""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from asrcompress.kernels.call import linear, loaded
from asrcompress.kernels.weights import VECTOR, PanelWeight


class CDepthwise(ctypes.Structure):
    """`Depthwise` of c/depthwise.h."""

    _fields_ = (
        ("codes", ctypes.c_void_p), ("offset", ctypes.c_void_p), ("scale", ctypes.c_void_p), ("bias", ctypes.c_void_p),
        ("channels", ctypes.c_int32), ("taps", ctypes.c_int32), ("stride", ctypes.c_int32), ("dilation", ctypes.c_int32),
    )  # fmt: skip


class WindowWeight:
    """A convolution over time of all channels: codes (out, in, taps) int8, one scale an output."""

    def __init__(
        self, codes: Tensor, scale: Tensor, zero_point: Tensor | None, bias: Tensor | None, *, stride: int
    ) -> None:
        outputs, channels, taps = codes.shape
        self.taps, self.stride = taps, stride
        self._panels = PanelWeight(codes.transpose(1, 2).reshape(outputs, taps * channels), scale, zero_point, bias)

    def __call__(self, x: Tensor) -> Tensor:
        """x (batch, in, time), padded already -> (batch, out, time_out)."""
        batch, channels, time = x.shape
        time_out = (time - self.taps) // self.stride + 1
        steps = -(-time // self.stride)  # of every utterance; the last ones reach into the next and are left out
        rows = x.new_zeros(batch * steps * self.stride + self.taps, channels)
        rows[: batch * steps * self.stride].view(batch, -1, channels)[:, :time].copy_(x.transpose(1, 2))
        windows = rows.as_strided((batch * steps, self.taps * channels), (self.stride * channels, 1))
        return linear(self._panels, windows).view(batch, steps, -1)[:, :time_out].transpose(1, 2)


class DepthwiseWeight:
    """A convolution over time of each channel by itself: codes (channels, taps) int8, one scale a channel."""

    def __init__(
        self,
        codes: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        bias: Tensor | None,
        *,
        stride: int,
        dilation: int,
    ) -> None:
        channels, taps = codes.shape
        more = -channels % VECTOR
        self.reach, self.stride = dilation * (taps - 1) + 1, stride
        self._codes = F.pad(codes.t().to(torch.int32), (0, more)).contiguous()
        self._scale = F.pad(scale.float().reshape(-1).expand(channels), (0, more)).contiguous()
        self._offset = (
            None
            if zero_point is None
            else F.pad(zero_point.to(torch.int32).reshape(-1).expand(channels), (0, more)).contiguous()
        )
        self._bias = None if bias is None else F.pad(bias.detach().float(), (0, more)).contiguous()
        offset, added = (None if tensor is None else tensor.data_ptr() for tensor in (self._offset, self._bias))
        self.c = CDepthwise(
            self._codes.data_ptr(), offset, self._scale.data_ptr(), added, channels, taps, stride, dilation
        )

    def __call__(self, x: Tensor) -> Tensor:
        """x (batch, channels, time), padded already -> (batch, channels, time_out)."""
        batch, channels, time = x.shape
        time_out = (time - self.reach) // self.stride + 1
        rows, out = x.transpose(1, 2).contiguous(), torch.empty(batch, time_out, channels)
        loaded().asrc_depthwise(
            ctypes.byref(self.c), ctypes.c_void_p(rows.data_ptr()), ctypes.c_int64(batch), ctypes.c_int64(time),
            ctypes.c_int64(time_out), ctypes.c_void_p(out.data_ptr()), torch.get_num_threads(),
        )  # fmt: skip
        return out.transpose(1, 2)
