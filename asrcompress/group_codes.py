"""N:M patterns as codes: the kept weights of each group, and which ones they are as one number.

A group code is the rank of the kept places among all choices of keep_n of group_m, in lexicographic order: for 2:4 the
places 0 and 1 have rank 0, 2 and 3 have rank 5. It takes ceil(log2 C(group_m, keep_n)) bits, which is never more than
an index per kept code. Group codes are one stream of bits as packing.py's. Which weights are kept is patterns.py's matter.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.gather import bits, put_groups, take_groups
from asrcompress.packing import pack_lanes, packed_size_bytes, unpack_lanes
from asrcompress.patterns import Pattern, group_code_bits, pattern_name

GROUPS_AT_ONCE = 1 << 16


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
    ranks = _ranks(np.not_equal(codes.numpy(), zeros.numpy()), pattern)
    kept = take_groups(codes, ranks, _choices(pattern).places)
    return kept.reshape(len(codes), -1), torch.from_numpy(_pack(ranks, group_code_bits(pattern)))


def split_values(values: Tensor, mask: Tensor, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """Values of any type as what is stored of them; `join_values` is the inverse.

    Args:
        values: (rows, columns).
        mask: (rows, columns) bool, True for exactly keep_n of every group.
        pattern: (keep_n, group_m).

    Returns:
        The kept values (rows, columns / group_m * keep_n), and the packed group codes, uint8.

    Raises:
        ValueError: a group keeps more or fewer (a bug in what made the mask, never the user's fault).
    """
    ranks = _ranks(mask.numpy(), pattern)
    if np.count_nonzero(mask.numpy()) != len(ranks) * pattern[0]:
        raise ValueError(f"a group keeps fewer than {pattern_name(pattern)} says")
    kept = take_groups(values, ranks, _choices(pattern).places)
    return kept.reshape(len(values), -1), torch.from_numpy(_pack(ranks, group_code_bits(pattern)))


def pack_groups(mask: Tensor, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """The group codes of a mask; of one with exactly keep_n of every group they say all.

    Args:
        mask: (rows, columns) bool; columns divide by group_m.
        pattern: (keep_n, group_m).

    Returns:
        The mask (rows, columns) that the codes stand for, where groups with fewer have their first others besides, and the
        packed group codes, uint8.

    Raises:
        ValueError: a group has more than keep_n (a bug in what made the mask, never the user's fault).
    """
    ranks = _ranks(mask.numpy(), pattern)
    return _mask(ranks, pattern).reshape(mask.shape), torch.from_numpy(_pack(ranks, group_code_bits(pattern)))


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
    ranks = _read_ranks(group_codes, rows, columns, pattern, name)
    codes = np.empty((rows, columns), dtype=np.int8)
    codes[:] = zeros.numpy()
    put_groups(kept, ranks, _choices(pattern).places, found := torch.from_numpy(codes))
    if not np.array_equal(_ranks(np.not_equal(codes, zeros.numpy()), pattern), ranks):
        raise AsrCompressError(f"{name}: a group keeps another zero than its first ones")
    return found


def join_values(kept: Tensor, group_codes: Tensor, pattern: Pattern, name: str = "weight") -> tuple[Tensor, Tensor]:
    """(values (rows, columns) with 0 where dropped, the mask) from what is stored of them.

    Args:
        kept: (rows, columns / group_m * keep_n), of any type.
        group_codes: uint8, as they were packed.
        pattern: (keep_n, group_m).
        name: for messages.

    Raises:
        AsrCompressError: the group codes are of another type or size, have a padding bit set or are no rank.
    """
    rows, columns = len(kept), kept.shape[1] // pattern[0] * pattern[1]
    ranks = _read_ranks(group_codes, rows, columns, pattern, name)
    values = torch.from_numpy(np.zeros((rows, columns), dtype=bits(kept[:0]).dtype)).view(kept.dtype)
    put_groups(kept, ranks, _choices(pattern).places, values)
    return values, _mask(ranks, pattern).reshape(rows, columns)


def _read_ranks(group_codes: Tensor, rows: int, columns: int, pattern: Pattern, name: str) -> np.ndarray:
    """The rank of each group, checked; raises as `join_values`."""
    groups, num_bits = rows * columns // pattern[1], group_code_bits(pattern)
    due = packed_size_bytes(groups, num_bits)
    if group_codes.dtype != torch.uint8 or group_codes.dim() != 1 or group_codes.numel() != due:
        raise AsrCompressError(
            f"{name}: group codes are {list(group_codes.shape)} of {group_codes.dtype} where {due} bytes are due"
        )
    ranks, padding = _unpack(group_codes.contiguous().numpy(), num_bits, groups)
    if padding:
        raise AsrCompressError(f"{name}: padding bits behind the last group code are not zero")
    choices = len(_choices(pattern).masks)
    if groups and int(ranks.max()) >= choices:
        raise AsrCompressError(f"{name}: the group code {int(ranks.max())} is none of the {choices} choices")
    return ranks


class _Choices(NamedTuple):
    """What may be kept of a group, by rank, and ranks by the bits of a mask.

    places: (choices, keep_n) intp. masks: (choices, group_m) bool. ranks: (2^group_m,) uint8 or uint16; the rank of a mask
    with fewer than keep_n places is that with its first zeros added; one with more has a number that is no rank. table: the
    ranks of all bytes, where masks are bytes.
    """

    places: np.ndarray
    masks: np.ndarray
    ranks: np.ndarray
    table: bytes


@lru_cache(maxsize=8)
def _choices(pattern: Pattern) -> _Choices:
    keep_n, group_m = pattern
    places = np.array(list(combinations(range(group_m), keep_n)), dtype=np.intp)
    masks = np.zeros((len(places), group_m), dtype=bool)
    np.put_along_axis(masks, places, True, axis=1)
    numbers = np.arange(2**group_m, dtype=np.int64)
    count = sum((numbers >> place) & 1 for place in range(group_m))
    for place in range(group_m):
        missing = (count < keep_n) & ((numbers >> place) & 1 == 0)
        numbers, count = numbers | missing.astype(np.int64) << place, count + missing
    dtype = np.uint8 if group_m <= 8 else np.uint16
    ranks = np.full(2**group_m, np.iinfo(dtype).max, dtype=dtype)
    ranks[(1 << places).sum(axis=1)] = np.arange(len(places), dtype=dtype)
    by_number = ranks[numbers]
    return _Choices(places, masks, by_number, np.resize(by_number, 256).tobytes() if group_m <= 8 else b"")


def _ranks(mask: np.ndarray, pattern: Pattern) -> np.ndarray:
    """The rank of each group of a mask (rows, columns), (groups,) uint8 or uint16. Raises ValueError where one has too many."""
    numbers, choices = group_numbers(mask, pattern[1]), _choices(pattern)
    if numbers.dtype == np.uint8:  # the quickest table of bytes that there is
        ranks = np.frombuffer(numbers.tobytes().translate(choices.table), dtype=np.uint8)
    else:
        ranks = choices.ranks[numbers]
    if len(ranks) and int(ranks.max()) >= len(choices.masks):
        raise ValueError(f"a group has more that is not zero than {pattern_name(pattern)} keeps")
    return ranks


def group_numbers(mask: np.ndarray, group_m: int) -> np.ndarray:
    """The groups of a mask (rows, columns) as numbers, (groups,) uint8 or uint16: member i is bit i.

    Raises:
        ValueError: the columns do not divide into groups.
    """
    if mask.shape[1] % group_m:
        raise ValueError(f"{mask.shape[1]} columns do not divide into groups of {group_m}")
    groups = np.ascontiguousarray(mask).reshape(-1, group_m).view(np.uint8)
    numbers = np.empty(len(groups), dtype=np.uint8 if group_m <= 8 else np.uint16)
    for begin in range(0, len(groups), GROUPS_AT_ONCE):
        _number(groups[begin : begin + GROUPS_AT_ONCE], numbers[begin : begin + GROUPS_AT_ONCE])
    return numbers


def _number(groups: np.ndarray, numbers: np.ndarray) -> None:
    """`group_numbers` of a few groups (groups, group_m) of bytes 0 and 1."""
    group_m = groups.shape[1]
    if group_m in (4, 8):
        # One product moves the byte of each member to its bit of the highest byte; what else it gives lies apart or overflows.
        word = np.dtype(f"u{group_m}").type
        product = groups.view(word).reshape(-1) * word(sum(1 << 8 * (group_m - 1) - 7 * k for k in range(group_m)))
        product >>= word(8 * (group_m - 1))
        np.copyto(numbers, product, casting="unsafe")
        return
    numbers[:] = groups[:, 0]
    for place in range(1, group_m):
        numbers |= np.left_shift(groups[:, place], place, dtype=numbers.dtype)


def _mask(ranks: np.ndarray, pattern: Pattern) -> Tensor:
    """What groups of these ranks keep: bool (groups, group_m)."""
    mask = np.empty((len(ranks), pattern[1]), dtype=bool)
    np.take(_choices(pattern).masks, ranks, axis=0, out=mask, mode="clip")
    return torch.from_numpy(mask)


def _pack(values: np.ndarray, num_bits: int) -> np.ndarray:
    """Numbers of at most 16 bits as one stream of bits, least significant first: eight of them take num_bits bytes."""
    if num_bits <= 8:
        return pack_lanes(values.astype(np.uint8, copy=False), num_bits)
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
    """The inverse of `_pack`: (count,) uint8 or uint16, and whether a bit behind the last number is set."""
    if num_bits <= 8:
        rest = count * num_bits % 8
        return unpack_lanes(packed, num_bits, count), bool(rest and packed[-1] >> rest)
    stream = np.zeros((-(-count // 8), num_bits), dtype=np.uint8)
    stream.reshape(-1)[: len(packed)] = packed
    lanes = np.zeros((len(stream), 8), dtype=np.uint32)
    for lane in range(8):
        first, shift = divmod(lane * num_bits, 8)
        for byte in range(first, (lane * num_bits + num_bits - 1) // 8 + 1):
            lanes[:, lane] |= stream[:, byte].astype(np.uint32) << np.uint32(8 * (byte - first))
        lanes[:, lane] = (lanes[:, lane] >> np.uint32(shift)) & np.uint32(2**num_bits - 1)
    flat = lanes.reshape(-1)
    return flat[:count].astype(np.uint16), bool(flat[count:].any())
