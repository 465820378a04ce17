"""Which weights are stored.

N:M patterns: of every group_m neighbours in a row, keep_n are stored, and which ones as one code per group.

A group code is the rank of the kept places among all choices of keep_n of group_m, in lexicographic order: for 2:4 the
places 0 and 1 have rank 0, 2 and 3 have rank 5. It takes ceil(log2 C(group_m, keep_n)) bits, which is never more than
an index per kept code. Group codes are one stream of bits as packing.py's. Unstructured: any weights, told by a bitmask.
What makes a weight worth keeping is decided in sparsifiers/.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.packing import pack_lanes, packed_size_bytes, unpack_lanes

Pattern = tuple[int, int]  # keep_n, group_m
Unstructured = Literal["unstructured"]
UNSTRUCTURED: Final = "unstructured"
LARGEST_GROUP = 16


def parse_pattern(text: str) -> Pattern:
    """`2:4` -> (2, 4).

    Raises:
        AsrCompressError: not keep_n:group_m with 0 < keep_n < group_m <= 16.
    """
    keep, _, group = text.partition(":")
    if all(part.isascii() and part.isdigit() and len(part) <= 2 for part in (keep, group)):
        keep_n, group_m = int(keep), int(group)
        if 0 < keep_n < group_m <= LARGEST_GROUP and text == f"{keep_n}:{group_m}":
            return keep_n, group_m
    raise AsrCompressError(
        f"pattern '{text[:40]}': use keep_n:group_m such as 2:4, two values kept of every four; groups of {LARGEST_GROUP} at most"
    )


def pattern_name(pattern: Pattern | Unstructured) -> str:
    """(2, 4) -> `2:4`; `unstructured` as it is."""
    return pattern if isinstance(pattern, str) else f"{pattern[0]}:{pattern[1]}"


def group_code_bits(pattern: Pattern) -> int:
    """Bits of a group code: 3 for 2:4, 2 for 1:4, 7 for 4:8."""
    keep_n, group_m = pattern
    return (math.comb(group_m, keep_n) - 1).bit_length()


def code_sizes(
    num_codes: int, num_bits: int, pattern: Pattern | Unstructured | None = None, num_kept: int | None = None
) -> dict[str, int]:
    """Bytes that the codes of a weight take: {"packed": of the codes} and {"pattern": of the group codes} or {"bitmask": ...}.

    `num_codes` counts the dropped ones, too. `num_kept`, where unstructured, are those that stand for something else than 0.
    """
    if isinstance(pattern, tuple):
        groups = num_codes // pattern[1]
        return {
            "packed": packed_size_bytes(groups * pattern[0], num_bits),
            "pattern": packed_size_bytes(groups, group_code_bits(pattern)),
        }
    if pattern is not None and num_kept is not None and takes_bitmask(num_codes, num_kept, num_bits):
        return {"packed": packed_size_bytes(num_kept, num_bits), "bitmask": packed_size_bytes(num_codes, 1)}
    return {"packed": packed_size_bytes(num_codes, num_bits)}


def takes_bitmask(num_codes: int, num_kept: int, num_bits: int) -> bool:
    """Whether an unstructured weight is stored as a bitmask and the codes that it keeps: where that is smaller than all codes.

    At 1 bit always where something is dropped: dense codes of 1 bit have no zero.
    """
    if num_bits == 1:
        return num_kept < num_codes
    masked = packed_size_bytes(num_codes, 1) + packed_size_bytes(num_kept, num_bits)
    return masked < packed_size_bytes(num_codes, num_bits)


def require_whole_groups(columns: int, pattern: Pattern, name: str) -> None:
    """Raise, with the ways out, when `columns` inputs do not divide into groups of the pattern."""
    if columns % pattern[1] == 0:
        return
    divisor = next((size for size in range(LARGEST_GROUP, 1, -1) if columns % size == 0), None)
    other = f"a pattern whose groups divide, such as {pattern[0] % divisor or 1}:{divisor}, " if divisor else ""
    raise AsrCompressError(
        f"{name}: {columns} inputs do not divide into groups of {pattern[1]} for {pattern_name(pattern)}; use {other}"
        f"a rule for it with pattern = 'none', or --exclude '{name}'"
    )


def keep_largest(score: Tensor, keep_n: int, group_m: int) -> Tensor:
    """Which columns to keep: the keep_n with the largest score of every group_m, of equals the first.

    By rank, not by threshold, so that every group keeps exactly keep_n.

    Args:
        score: (..., columns); no NaN.
        keep_n: how many of a group are kept.
        group_m: size of a group; columns divide by it.

    Returns:
        (..., columns) bool.
    """
    groups = score.unflatten(-1, (-1, group_m)).movedim(-1, 0).contiguous()
    return (places(groups) < keep_n).movedim(0, -1).flatten(-2)


def places(score: Tensor) -> Tensor:
    """(members, ...) -> uint8: how many members have a larger score, or as large a one and come before."""
    ahead = torch.zeros(score.shape, dtype=torch.uint8, device=score.device)
    for one, other in combinations(range(len(score)), 2):
        first = score[one] >= score[other]
        ahead[other] += first
        ahead[one] += ~first
    return ahead


def split(codes: Tensor, zeros: Tensor, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """Codes as what is stored of them; `join` is the inverse.

    A group with fewer than keep_n codes that are not zero keeps its first zeros besides, so that the same codes have the
    same bytes.

    Args:
        codes: (rows, columns) int8.
        zeros: int8, the code that stands for 0; broadcasts to the shape of codes.
        pattern: (keep_n, group_m); columns divide by group_m.

    Returns:
        The kept codes (rows, columns / group_m * keep_n) int8, and the packed group codes, uint8.

    Raises:
        ValueError: a group has more than keep_n codes that are not zero (a bug in a quantizer, never the user's fault).
    """
    mask, group_codes = pack_groups(codes != zeros, pattern)
    kept = codes.contiguous().numpy().reshape(-1)[mask.numpy().reshape(-1)].reshape(len(codes), -1)
    return torch.from_numpy(kept), group_codes


def pack_groups(mask: Tensor, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """The group codes of a mask; `unpack_groups` is the inverse for a mask with exactly keep_n of every group.

    Args:
        mask: (rows, columns) bool; columns divide by group_m.
        pattern: (keep_n, group_m).

    Returns:
        The mask (rows, columns) that the codes stand for, where groups with fewer have their first others besides, and the
        packed group codes, uint8.

    Raises:
        ValueError: a group has more than keep_n (a bug in what made the mask, never the user's fault).
    """
    rows, columns = mask.shape
    if columns % pattern[1]:
        raise ValueError(f"{columns} columns do not divide into groups of {pattern[1]}")
    ranks = _ranks(mask, pattern)
    if (ranks < 0).any():
        raise ValueError(f"a group has more that is not zero than {pattern_name(pattern)} keeps")
    whole = torch.from_numpy(_choices(pattern)[0][ranks].reshape(rows, columns))
    return whole, torch.from_numpy(_pack(ranks, group_code_bits(pattern)))


def join(kept: Tensor, group_codes: Tensor, zeros: Tensor, pattern: Pattern, name: str = "weight") -> Tensor:
    """Codes (rows, columns) int8 from what is stored of them.

    Args:
        kept: (rows, columns / group_m * keep_n) int8.
        group_codes: uint8, as they were packed.
        zeros: int8, the code that dropped places get; broadcasts to (rows, columns).
        pattern: (keep_n, group_m).
        name: for messages.

    Raises:
        AsrCompressError: the group codes are of another type or size, have a padding bit set or are no rank, or a group
            is not stored as `split` stores it (it keeps a zero that is not among its first).
    """
    keep_n, group_m = pattern
    rows, groups = kept.shape[0], kept.numel() // keep_n
    columns = groups // rows * group_m if rows else 0
    mask = unpack_groups(group_codes, rows, columns, pattern, name)
    codes = zeros.expand(rows, columns).clone(memory_format=torch.contiguous_format)
    codes.numpy().reshape(-1)[mask.numpy().reshape(-1)] = kept.contiguous().numpy().reshape(-1)
    if not np.array_equal(_choices(pattern)[0][_ranks(codes != zeros, pattern)], mask.numpy().reshape(-1, group_m)):
        raise AsrCompressError(f"{name}: a group keeps another zero than its first ones")
    return codes


def unpack_groups(group_codes: Tensor, rows: int, columns: int, pattern: Pattern, name: str = "weight") -> Tensor:
    """The mask (rows, columns), bool, that packed group codes stand for: exactly keep_n of every group_m columns.

    Raises:
        AsrCompressError: the group codes are of another type or size, have a padding bit set or are no rank.
    """
    groups, num_bits = rows * columns // pattern[1], group_code_bits(pattern)
    due = packed_size_bytes(groups, num_bits)
    if group_codes.dtype != torch.uint8 or group_codes.dim() != 1 or group_codes.numel() != due:
        raise AsrCompressError(
            f"{name}: group codes are {list(group_codes.shape)} of {group_codes.dtype} where {due} bytes are due"
        )
    ranks, padding = _unpack(group_codes.contiguous().numpy(), num_bits, groups)
    if padding:
        raise AsrCompressError(f"{name}: padding bits behind the last group code are not zero")
    masks = _choices(pattern)[0]
    if groups and int(ranks.max()) >= len(masks):
        raise AsrCompressError(f"{name}: the group code {int(ranks.max())} is none of the {len(masks)} choices")
    return torch.from_numpy(masks[ranks].reshape(rows, columns))


@lru_cache(maxsize=8)
def _choices(pattern: Pattern) -> tuple[np.ndarray, np.ndarray]:
    """(masks (choices, group_m) bool by rank, ranks (2^group_m,) int16 by the bits of a mask).

    The rank of a mask with fewer than keep_n places is that with its first zeros added; with more places it is -1.
    """
    keep_n, group_m = pattern
    places = np.array(list(combinations(range(group_m), keep_n)))
    masks = np.zeros((len(places), group_m), dtype=bool)
    np.put_along_axis(masks, places, True, axis=1)
    bits = np.arange(2**group_m, dtype=np.int64)
    count = sum((bits >> place) & 1 for place in range(group_m))
    for place in range(group_m):
        missing = (count < keep_n) & ((bits >> place) & 1 == 0)
        bits, count = bits | missing.astype(np.int64) << place, count + missing
    ranks = np.full(2**group_m, -1, dtype=np.int16)
    ranks[(1 << places).sum(axis=1)] = np.arange(len(places), dtype=np.int16)
    return masks, ranks[bits]


def _ranks(mask: Tensor, pattern: Pattern) -> np.ndarray:
    """The rank of each group, (groups,) int16; -1 where it has too many places."""
    group_m = pattern[1]
    nonzero = mask.contiguous().numpy().reshape(-1, group_m).view(np.uint8)
    bits: np.ndarray = nonzero[:, 0].astype(np.uint8 if group_m <= 8 else np.uint16)
    for place in range(1, group_m):
        bits |= np.left_shift(nonzero[:, place], place, dtype=bits.dtype)
    ranks: np.ndarray = _choices(pattern)[1][bits]
    return ranks


def _pack(values: np.ndarray, num_bits: int) -> np.ndarray:
    """Numbers of at most 16 bits as one stream of bits, least significant first: eight of them take num_bits bytes."""
    if num_bits <= 8:
        return pack_lanes(values.astype(np.uint8), num_bits)
    lanes = np.zeros((-(-len(values) // 8), 8), dtype=np.uint32)
    lanes.reshape(-1)[: len(values)] = values
    stream = np.zeros((len(lanes), num_bits), dtype=np.uint8)
    for lane in range(8):
        first, shift = divmod(lane * num_bits, 8)
        shifted = lanes[:, lane] << np.uint32(shift)
        for byte in range(first, (lane * num_bits + num_bits - 1) // 8 + 1):
            stream[:, byte] |= (shifted >> np.uint32(8 * (byte - first))).astype(np.uint8)
    return stream.reshape(-1)[: packed_size_bytes(len(values), num_bits)]


def _unpack(packed: np.ndarray, num_bits: int, count: int) -> tuple[np.ndarray, bool]:
    """The inverse of `_pack`: (count,) int16, and whether a bit behind the last number is set."""
    if num_bits <= 8:
        rest = count * num_bits % 8
        return unpack_lanes(packed, num_bits, count).astype(np.int16), bool(rest and packed[-1] >> rest)
    stream = np.zeros((-(-count // 8), num_bits), dtype=np.uint8)
    stream.reshape(-1)[: len(packed)] = packed
    lanes = np.zeros((len(stream), 8), dtype=np.uint32)
    for lane in range(8):
        first, shift = divmod(lane * num_bits, 8)
        for byte in range(first, (lane * num_bits + num_bits - 1) // 8 + 1):
            lanes[:, lane] |= stream[:, byte].astype(np.uint32) << np.uint32(8 * (byte - first))
        lanes[:, lane] = (lanes[:, lane] >> np.uint32(shift)) & np.uint32(2**num_bits - 1)
    flat = lanes.reshape(-1)
    return flat[:count].astype(np.int16), bool(flat[count:].any())
