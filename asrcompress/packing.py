"""Codes <-> bytes. Pure tensors.

num_bits = 8 is stored as int8, row by row. Fewer bits become one stream of uint8: code i takes the
bits i*b .. i*b + b - 1, least significant first, in two's complement, so n codes take ceil(n*b/8)
bytes and no row is padded. One bit holds the codes -1 and 1, as 0 and 1. Does not know about
scales; grids.py does.
"""

from __future__ import annotations

import math
from functools import lru_cache

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
    return torch.from_numpy(pack_lanes(codes.contiguous().flatten().numpy().view(np.uint8), num_bits))


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
    stream, rest = packed.contiguous().numpy().view(np.uint8), num_codes * num_bits % 8
    if rest and stream[-1] >> rest:
        raise ValueError("padding bits behind the last code are not zero")
    if 8 % num_bits:
        return torch.from_numpy(_signed(unpack_lanes(stream, num_bits, num_codes), num_bits))
    return torch.from_numpy(np.take(_codes_of_byte(num_bits), stream).view(np.int8)[:num_codes])


def pack_lanes(flat: np.ndarray, num_bits: int) -> np.ndarray:
    """Numbers of num_bits of 8, uint8, as one stream of bits: what lies alike in every period of whole bytes goes at once.

    Of wider ones, as negative codes are in two's complement, the lower bits are taken.
    """
    codes, size = _period(num_bits)
    lanes = np.zeros((-(-len(flat) // codes), codes), dtype=np.uint8)
    np.bitwise_and(flat, np.uint8(2**num_bits - 1), out=lanes.reshape(-1)[: len(flat)])
    stream = np.zeros((len(lanes), size), dtype=np.uint8)
    for lane in range(codes):
        byte, shift = divmod(lane * num_bits, 8)
        stream[:, byte] |= lanes[:, lane] << np.uint8(shift)
        if shift + num_bits > 8:
            stream[:, byte + 1] |= lanes[:, lane] >> np.uint8(8 - shift)
    return stream.reshape(-1)[: packed_size_bytes(len(flat), num_bits)]


def unpack_lanes(stream: np.ndarray, num_bits: int, count: int) -> np.ndarray:
    """The inverse of `pack_lanes`: uint8 (count,). Bits behind the last number are not looked at."""
    codes, size = _period(num_bits)
    whole = np.zeros((-(-count // codes), size), dtype=np.uint8)
    whole.reshape(-1)[: len(stream)] = stream
    lanes = np.empty((len(whole), codes), dtype=np.uint8)
    for lane in range(codes):
        byte, shift = divmod(lane * num_bits, 8)
        lanes[:, lane] = whole[:, byte] >> np.uint8(shift)
        if shift + num_bits > 8:
            lanes[:, lane] |= whole[:, byte + 1] << np.uint8(8 - shift)
    flat = lanes.reshape(-1)[:count]
    flat &= np.uint8(2**num_bits - 1)
    return flat


def _signed(numbers: np.ndarray, num_bits: int) -> np.ndarray:
    """Numbers of num_bits as two's complement: the sign is shifted to the top of the byte, and back."""
    unused = 8 - num_bits
    signed = (numbers << np.uint8(unused)).view(np.int8)
    signed >>= np.int8(unused)
    return signed


def _period(num_bits: int) -> tuple[int, int]:
    """How many codes take how many whole bytes: 2 take 1 at 4 bits, 8 take 3 at 3 bits."""
    size = num_bits // math.gcd(8, num_bits)
    return size * 8 // num_bits, size


@lru_cache(maxsize=3)
def _codes_of_byte(num_bits: int) -> np.ndarray:
    """The codes in each byte, (256,), as one number of as many bytes: for 1, 2 and 4 bits."""
    count = 8 // num_bits
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").reshape(
        256, count, num_bits
    )
    values = (bits.astype(np.int16) << np.arange(num_bits, dtype=np.int16)).sum(axis=2)
    codes = values * 2 - 1 if num_bits == 1 else np.where(values >= 2 ** (num_bits - 1), values - 2**num_bits, values)
    return codes.astype(np.int8).view(f"u{count}").reshape(256)


def count_true(mask: Tensor) -> int:
    """How many of a mask are True."""
    return int(np.count_nonzero(mask.numpy()))


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
