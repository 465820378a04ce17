"""Codes <-> bytes. Pure tensors.

num_bits = 8 is stored as int8, row by row. Fewer bits become one stream of uint8: code i takes the
bits i*b .. i*b + b - 1, least significant first, in two's complement, so n codes take ceil(n*b/8)
bytes and no row is padded. One bit holds the codes -1 and 1, as 0 and 1. Does not know about
scales; grids.py does.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SUPPORTED_BITS = (8, 4, 3, 2, 1)


def packed_size_bytes(num_codes: int, num_bits: int) -> int:
    """Bytes that `num_codes` codes take."""
    return -(-num_codes * num_bits // 8)


def pack(codes: Tensor, num_bits: int) -> Tensor:
    """Pack int8 codes of any shape.

    Returns:
        int8 of the same shape at 8 bits; else uint8 of shape (ceil(n * num_bits / 8),).

    Raises:
        ValueError: a code does not fit in num_bits (a bug in a quantizer, never the user's fault).
    """
    if num_bits not in SUPPORTED_BITS or codes.dtype != torch.int8:
        raise ValueError(f"cannot pack {codes.dtype} in {num_bits} bits")
    if num_bits == 8:
        return codes.contiguous()
    if num_bits == 1:
        return _pack_signs(codes)
    low, high = -(2 ** (num_bits - 1)), 2 ** (num_bits - 1) - 1
    if codes.numel() and (int(codes.min()) < low or int(codes.max()) > high):
        raise ValueError(f"a code is outside {low}..{high}")
    flat = codes.contiguous().flatten().numpy().view(np.uint8)
    bits = np.unpackbits(flat[:, None], axis=1, count=num_bits, bitorder="little")
    return torch.from_numpy(np.packbits(bits, bitorder="little"))


def unpack(packed: Tensor, num_bits: int, num_codes: int) -> Tensor:
    """The inverse of `pack`: int8 codes of shape (num_codes,).

    Raises:
        ValueError: the number of bytes is not the one that num_codes takes, or a padding bit is set.
    """
    if num_bits not in SUPPORTED_BITS:
        raise ValueError(f"{num_bits} bits per code are not supported")
    if packed.numel() != packed_size_bytes(num_codes, num_bits):
        raise ValueError(
            f"{packed.numel()} bytes where {num_codes} codes of {num_bits} bits take {packed_size_bytes(num_codes, num_bits)}"
        )
    if num_bits == 8:
        return packed.reshape(-1).to(torch.int8) if packed.dtype == torch.int8 else packed.reshape(-1).view(torch.int8)
    bits = np.unpackbits(packed.contiguous().numpy(), bitorder="little")
    if bits[num_codes * num_bits :].any():
        raise ValueError("padding bits behind the last code are not zero")
    if num_bits == 1:
        return torch.from_numpy(bits[:num_codes].astype(np.int8) * 2 - 1)
    rows = bits[: num_codes * num_bits].reshape(num_codes, num_bits)
    # Sign extension: the top bit of two's complement fills the rest of the byte.
    filled = np.concatenate([rows, np.repeat(rows[:, -1:], 8 - num_bits, axis=1)], axis=1)
    return torch.from_numpy(np.packbits(filled, axis=1, bitorder="little").reshape(-1).view(np.int8))


def pack_mask(mask: Tensor) -> Tensor:
    """A mask of any shape, bool, as a stream of bits like that of codes: uint8 (ceil(n / 8),), bit i for element i."""
    return torch.from_numpy(np.packbits(mask.contiguous().flatten().numpy(), bitorder="little"))


def unpack_mask(packed: Tensor, num_bits: int) -> Tensor:
    """The inverse of `pack_mask`: bool (num_bits,).

    Raises:
        ValueError: another type, another number of bytes than num_bits take, or a padding bit is set.
    """
    due = packed_size_bytes(num_bits, 1)
    if packed.dtype != torch.uint8 or packed.dim() != 1 or packed.numel() != due:
        raise ValueError(f"a bitmask of {list(packed.shape)} {packed.dtype} where {due} bytes are due")
    bits = np.unpackbits(packed.contiguous().numpy(), bitorder="little").view(bool)
    if bits[num_bits:].any():
        raise ValueError("padding bits behind the bitmask are not zero")
    return torch.from_numpy(bits[:num_bits])


def _pack_signs(codes: Tensor) -> Tensor:
    """-1 and 1 as one bit each, 0 and 1."""
    if not bool((codes.abs() == 1).all()):
        raise ValueError("a code is neither -1 nor 1")
    return torch.from_numpy(np.packbits(codes.contiguous().flatten().numpy() > 0, bitorder="little"))
