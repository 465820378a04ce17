"""Which weights are stored.

N:M patterns: of every group_m neighbours in a row, keep_n are stored, and which ones as one code per group.

A group code takes ceil(log2 C(group_m, keep_n)) bits; group_codes.py has them. Unstructured: any weights, told by a bitmask.
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
from asrcompress.packing import packed_size_bytes

Pattern = tuple[int, int]  # keep_n, group_m
Unstructured = Literal["unstructured"]
UNSTRUCTURED: Final = "unstructured"
LARGEST_GROUP = 16
SCORES_AT_ONCE = 1 << 17
FEW_PAIRS = 6  # of a group's members: what all comparisons give together is the index into a table


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


def keep_largest(score: Tensor, keep_n: int, group_m: int, *, of_magnitude: bool = False) -> Tensor:
    """Which columns to keep: the keep_n with the largest score of every group_m, of equals the first.

    By rank, not by threshold, so that every group keeps exactly keep_n.

    Args:
        score: (..., columns); no NaN.
        keep_n: how many of a group are kept.
        group_m: size of a group; columns divide by it.
        of_magnitude: it is the score's magnitude that counts.

    Returns:
        (..., columns) bool.
    """
    score = score.detach()
    if score.device.type != "cpu" or score.dtype != torch.float32:
        score = score.abs() if of_magnitude else score
        groups = score.unflatten(-1, (-1, group_m)).movedim(-1, 0).contiguous()
        return (places(groups) < keep_n).movedim(0, -1).flatten(-2)
    values = score.contiguous().numpy().reshape(-1, group_m)
    mask = np.empty(values.shape, dtype=bool)
    step = max(1, SCORES_AT_ONCE // group_m)
    members = np.empty((group_m, min(step, len(values))), dtype=np.float32)
    for begin in range(0, len(values), step):
        part = values[begin : begin + step]
        here = members[:, : len(part)]
        for member in range(group_m):
            (np.absolute if of_magnitude else np.positive)(part[:, member], out=here[member])
        _keep(here, keep_n, mask[begin : begin + len(part)])
    return torch.from_numpy(mask).reshape(score.shape)


def _keep(members: np.ndarray, keep_n: int, mask: np.ndarray) -> None:
    """`keep_largest` of a few groups: (group_m, groups) -> mask (groups, group_m)."""
    pairs = list(combinations(range(len(members)), 2))
    first = np.empty(members.shape[1], dtype=bool)
    if len(pairs) <= FEW_PAIRS:
        index = np.zeros(len(first), dtype=np.uint8)
        for one, other in pairs:
            np.greater_equal(members[one], members[other], out=first)
            index += index
            index += first.view(np.uint8)
        np.take(_kept_by_comparisons(keep_n, len(members)), index, axis=0, out=mask, mode="clip")
        return
    ahead = np.zeros(members.shape, dtype=np.uint8)
    for one, other in pairs:
        np.greater_equal(members[one], members[other], out=first)
        ahead[other] += first.view(np.uint8)
        ahead[one] += np.logical_not(first, out=first).view(np.uint8)
    for member, count in enumerate(ahead):
        np.less(count, keep_n, out=mask[:, member])


@lru_cache(maxsize=8)
def _kept_by_comparisons(keep_n: int, group_m: int) -> np.ndarray:
    """(2^pairs, group_m) bool: what is kept, by whether the first of each pair of members is as large as the other."""
    pairs = list(combinations(range(group_m), 2))
    ahead = np.zeros((2 ** len(pairs), group_m), dtype=np.uint8)
    for place, (one, other) in enumerate(reversed(pairs)):
        first = np.arange(len(ahead)) >> place & 1
        ahead[:, other] += first.astype(np.uint8)
        ahead[:, one] += (1 - first).astype(np.uint8)
    return ahead < keep_n


def places(score: Tensor) -> Tensor:
    """(members, ...) -> uint8: how many members have a larger score, or as large a one and come before."""
    ahead = torch.zeros(score.shape, dtype=torch.uint8, device=score.device)
    for one, other in combinations(range(len(score)), 2):
        first = score[one] >= score[other]
        ahead[other] += first
        ahead[one] += ~first
    return ahead
