"""Codes <-> bytes. Pure tensors.

num_bits = 8 is stored as int8, row by row. Fewer bits become one stream of uint8: code i takes the
bits i*b .. i*b + b - 1, least significant first, in two's complement, so n codes take ceil(n*b/8)
bytes and no row is padded. One bit holds the codes -1 and 1, as 0 and 1. Does not know about
scales; grids.py does.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

SUPPORTED_BITS = (8, 4, 3, 2, 1)
CODES_OF_WORD = 8
WORDS_AT_ONCE = 1 << 15  # 256 KiB of codes: with what lies beside them, they stay in a second-level cache


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
    if num_bits == 1:  # 0 and 1 stand for -1 and 1
        signs = np.unpackbits(stream, count=num_codes, bitorder="little")
        signs <<= np.uint8(1)
        signs -= np.uint8(1)
        return torch.from_numpy(signs.view(np.int8))
    return torch.from_numpy(_signed(unpack_lanes(stream, num_bits, num_codes), num_bits))


def pack_lanes(flat: np.ndarray, num_bits: int) -> np.ndarray:
    """Numbers of num_bits of 8, uint8, as one stream of bits.

    Of wider ones, as negative codes are in two's complement, the lower bits are taken. Neighbours are merged, then
    neighbouring pairs, until the bits fill whole bytes: many numbers at a time in each step, and few at once, so that what
    lies between the steps stays near the processor.
    """
    count, merges = len(flat), _merges(num_bits)
    stream = np.empty((-(-count // CODES_OF_WORD), num_bits), dtype=np.uint8)
    if not count or not merges:
        return np.array(flat, dtype=np.uint8)
    words = np.empty((min(len(stream), WORDS_AT_ONCE), CODES_OF_WORD), dtype=np.uint8)
    shifted = np.empty(len(words), dtype=np.uint64)
    for begin in range(0, len(stream), len(words)):
        part, out = flat[begin * CODES_OF_WORD :][: words.size], stream[begin : begin + len(words)]
        here = words[: len(out)].view(np.uint64).reshape(-1)
        words.reshape(-1)[: len(part)] = part
        words.reshape(-1)[len(part) : len(out) * CODES_OF_WORD] = 0
        upper = shifted[: len(here)]
        for low, high, shift in merges:
            np.bitwise_and(here, high, out=upper)
            np.right_shift(upper, shift, out=upper)
            np.bitwise_and(here, low, out=here)
            np.bitwise_or(here, upper, out=here)
        lanes = here.view(f"u{1 << len(merges)}")
        size = (num_bits << len(merges)) // 8
        if size == 1:
            np.copyto(out.reshape(-1), lanes, casting="unsafe")
        else:
            for byte in range(size):
                out.reshape(-1, size)[:, byte] = lanes.view(np.uint8).reshape(len(lanes), -1)[:, byte]
    return stream.reshape(-1)[: packed_size_bytes(count, num_bits)]


def unpack_lanes(stream: np.ndarray, num_bits: int, count: int) -> np.ndarray:
    """The inverse of `pack_lanes`: uint8 (count,). Bits behind the last number are not looked at."""
    merges = _merges(num_bits)
    if not count or not merges:
        return np.array(stream[:count], dtype=np.uint8)
    flat = np.empty((-(-count // CODES_OF_WORD), CODES_OF_WORD), dtype=np.uint8)
    size = (num_bits << len(merges)) // 8
    shifted = np.empty(min(len(flat), WORDS_AT_ONCE), dtype=np.uint64)
    for begin in range(0, len(flat), WORDS_AT_ONCE):
        here = flat[begin : begin + WORDS_AT_ONCE].view(np.uint64).reshape(-1)
        part, lanes = stream[begin * num_bits :][: len(here) * num_bits], here.view(f"u{1 << len(merges)}")
        if missing := len(here) * num_bits - len(part):
            part = np.concatenate([part, np.zeros(missing, dtype=np.uint8)])
        if size == 1:
            np.copyto(lanes, part)
        else:
            lanes[:] = 0
            for byte in range(size):
                lanes.view(np.uint8).reshape(len(lanes), -1)[:, byte] = part.reshape(-1, size)[:, byte]
        upper = shifted[: len(here)]
        for low, high, shift in reversed(merges):
            np.left_shift(here, shift, out=upper)
            np.bitwise_and(upper, high, out=upper)
            np.bitwise_and(here, low, out=here)
            np.bitwise_or(here, upper, out=here)
    return flat.reshape(-1)[:count]


@lru_cache(maxsize=8)
def _merges(num_bits: int) -> tuple[tuple[np.uint64, np.uint64, np.uint64], ...]:
    """Steps that bring two neighbours side by side each, until they fill whole bytes: (which bits of a word are the lower
    neighbours', which the upper ones', how far these move)."""
    steps, width = [], 8
    while num_bits * (width // 8) % 8:
        used = num_bits * (width // 8)
        low = sum(((1 << used) - 1) << place for place in range(0, 64, 2 * width))
        steps.append((np.uint64(low), np.uint64(low << width), np.uint64(width - used)))
        width *= 2
    return tuple(steps)


def _signed(numbers: np.ndarray, num_bits: int) -> np.ndarray:
    """Numbers of num_bits, uint8, as two's complement: the sign's bit counts down instead of up. Changes `numbers`."""
    sign = np.uint8(1 << (num_bits - 1))
    numbers ^= sign
    numbers -= sign
    return numbers.view(np.int8)


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
    bits = codes.contiguous().flatten().numpy().view(np.uint8) + np.uint8(1)  # 0 and 2
    if (bits & np.uint8(0b11111101)).any():
        raise ValueError("a code is neither -1 nor 1")
    return torch.from_numpy(np.packbits(bits, bitorder="little"))
