"""Scaled dot-product attention on int8 codes, from floats to floats, head by head; see c/attention.h."""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from asrcompress.kernels.call import check, loaded


class CAttention(ctypes.Structure):
    """`Attention` of c/kernels.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "mask", "extra", "out")),
        *(
            (f"{name}_{axis}", ctypes.c_int64)
            for name in ("q", "k", "v", "extra", "out")
            for axis in ("batch", "head", "time")
        ),
        *((name, ctypes.c_int32) for name in ("batch", "heads", "num_queries", "num_keys", "width", "mask_stride")),
        ("scaling", ctypes.c_float),
    )  # fmt: skip


WIDEST = 4096  # of a head, as c/attention.h has it


def fits_width(width: int) -> bool:
    """Whether the kernels take heads of this width."""
    return width % 4 == 0 and 0 < width <= WIDEST


def fits(q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None, extra: Tensor | None) -> bool:
    """Whether these are of the very shapes that `attention` takes, and not to be broadcast, and hold something."""
    batch, heads, num_queries, width = q.shape
    keys = batch, heads, k.shape[2], width
    return (
        fits_width(width) and q.numel() > 0 and k.numel() > 0 and k.shape == keys and v.shape == keys
        and (padding is None or padding.shape == (batch, k.shape[2]))
        and (extra is None or extra.shape == (batch, heads, num_queries, k.shape[2]))
    )  # fmt: skip


def attention(q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None, extra: Tensor | None = None) -> Tensor:
    """softmax(q k^T + extra, padding left out) v; `usable` said yes to all of them.

    Args:
        q: (batch, heads, queries, width), scaled already.
        k: (batch, heads, keys, width); width is a multiple of 4.
        v: as k.
        padding: (batch, keys), True = left out, or None.
        extra: (batch, heads, queries, keys), or None.

    Returns:
        (batch, heads, queries, width), in memory as (batch, queries, heads, width).
    """
    q, k, v = (_rows(tensor) for tensor in (q, k, v))
    extra = None if extra is None else _rows(extra)
    batch, heads, num_queries, width = q.shape
    num_keys = k.shape[2]
    out = torch.empty(batch, num_queries, heads, width).transpose(1, 2)
    mask = None
    if padding is not None:
        mask = torch.zeros(batch, -(-num_keys // 16) * 16)
        mask[:, :num_keys].masked_fill_(padding.bool(), -math.inf)
    call = CAttention(
        q.data_ptr(), k.data_ptr(), v.data_ptr(), _pointer(mask), _pointer(extra), out.data_ptr(),
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        *((0, 0, 0) if extra is None else extra.stride()[:3]), *out.stride()[:3],
        batch, heads, num_queries, num_keys, width, 0 if mask is None else mask.shape[1], 1.0,
    )  # fmt: skip
    check(loaded().asrc_attention(ctypes.byref(call), torch.get_num_threads()))
    return out


def _rows(tensor: Tensor) -> Tensor:
    """The same with its last dimension in one piece."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
