"""Values at kept places, taken out and put back: by the rank of each group's choice, or by a mask. Arrays of any type.

Goes by numbers of places, never value by value: where what is kept is as good as random, a processor guesses wrong at every
second one. Works on so many at once that the numbers stay near it. What is kept is decided in sparsifiers/, how it is stored
in group_codes.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

PLACES_AT_ONCE = 1 << 16
WORDS = (4, 8)  # groups of so many bytes are worked on as one number each
NUMBERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # integers of so many bytes


def take_groups(values: Tensor, ranks: np.ndarray, places: np.ndarray) -> Tensor:
    """The kept values of each group.

    Args:
        values: any shape, groups of group_m neighbours.
        ranks: (groups,) unsigned, which choice each group has made.
        places: (choices, keep_n), the places in a group that each choice keeps, in order.

    Returns:
        (groups, keep_n), of the type of values.
    """
    flat = bits(values).reshape(-1)
    kept = np.empty((len(ranks), places.shape[1]), dtype=flat.dtype)
    group_m = len(flat) // max(len(ranks), 1)
    if flat.itemsize == 1 and group_m in WORDS:
        _take_bytes(flat.view(f"u{group_m}"), ranks, places, kept.view(np.uint8))
        return torch.from_numpy(kept)
    for here, numbers in _numbers(ranks, places, group_m):
        part = flat[here.start * group_m : here.stop * group_m]
        np.take(part, numbers, out=kept[here], mode="clip")  # the numbers are in range; other modes make a copy
    return torch.from_numpy(kept).view(values.dtype)


def put_groups(kept: Tensor, ranks: np.ndarray, places: np.ndarray, values: Tensor) -> None:
    """The inverse of `take_groups`: write the kept values to their places in `values`, which is contiguous."""
    flat, some = bits(values).reshape(-1), bits(kept).reshape(len(ranks), -1)
    group_m = len(flat) // max(len(ranks), 1)
    if flat.itemsize == 1 and group_m in WORDS:
        _put_bytes(some.view(np.uint8), ranks, places, flat.view(f"u{group_m}"))
        return
    for here, numbers in _numbers(ranks, places, group_m):
        flat[here.start * group_m : here.stop * group_m][numbers] = some[here]


def _take_bytes(words: np.ndarray, ranks: np.ndarray, places: np.ndarray, kept: np.ndarray) -> None:
    """`take_groups` of bytes, a word for each group: each kept byte is shifted down to the lowest place."""
    for here, shifts, shifted in _shifts(words, ranks, places):
        for place, shift in enumerate(shifts):
            np.right_shift(words[here], shift, out=shifted)
            np.copyto(kept[here, place], shifted, casting="unsafe")


def _put_bytes(kept: np.ndarray, ranks: np.ndarray, places: np.ndarray, words: np.ndarray) -> None:
    """The inverse of `_take_bytes`."""
    lowest = words.dtype.type(0xFF)
    for here, shifts, shifted in _shifts(words, ranks, places):
        part = words[here]
        for place, shift in enumerate(shifts):
            np.left_shift(lowest, shift, out=shifted)
            np.invert(shifted, out=shifted)
            np.bitwise_and(part, shifted, out=part)
            np.copyto(shifted, kept[here, place])
            np.left_shift(shifted, shift, out=shifted)
            np.bitwise_or(part, shifted, out=part)


def _shifts(
    words: np.ndarray, ranks: np.ndarray, places: np.ndarray
) -> Iterator[tuple[slice, Iterator[np.ndarray], np.ndarray]]:
    """Words at a time: which, the bits below each kept byte of theirs, one byte after the other, and room for as many words."""
    tables = (8 * places.T).astype(words.dtype)
    shift, shifted = np.empty((2, min(PLACES_AT_ONCE, len(ranks))), dtype=words.dtype)

    def of(part: np.ndarray) -> Iterator[np.ndarray]:
        for table in tables:
            yield np.take(table, part, out=shift[: len(part)], mode="clip")

    for begin in range(0, len(ranks), PLACES_AT_ONCE):
        here = slice(begin, min(begin + PLACES_AT_ONCE, len(ranks)))
        yield here, of(ranks[here]), shifted[: here.stop - begin]


def take_masked(values: Tensor, mask: Tensor) -> Tensor:
    """The values where a mask of the same shape is True, in order: (kept,)."""
    flat, chosen = bits(values).reshape(-1), mask.contiguous().numpy().reshape(-1)
    kept = np.empty(np.count_nonzero(chosen), dtype=flat.dtype)
    done = 0
    for begin in range(0, len(flat), PLACES_AT_ONCE):
        numbers = np.flatnonzero(chosen[begin : begin + PLACES_AT_ONCE])
        part = flat[begin : begin + PLACES_AT_ONCE]
        np.take(part, numbers, out=kept[done : done + len(numbers)], mode="clip")
        done += len(numbers)
    return torch.from_numpy(kept).view(values.dtype) if done else values.new_empty(0)


def put_masked(kept: Tensor, mask: Tensor, values: Tensor) -> None:
    """The inverse of `take_masked`: write the kept values to where the mask is True in `values`, which is contiguous."""
    flat, some, chosen = bits(values).reshape(-1), bits(kept).reshape(-1), mask.contiguous().numpy().reshape(-1)
    done = 0
    for begin in range(0, len(flat), PLACES_AT_ONCE):
        numbers = np.flatnonzero(chosen[begin : begin + PLACES_AT_ONCE])
        flat[begin : begin + PLACES_AT_ONCE][numbers] = some[done : done + len(numbers)]
        done += len(numbers)


def zero_where_dropped(values: Tensor, mask: Tensor) -> Tensor:
    """Floats of 2 or 4 bytes with 0 where the mask is False; what is kept keeps its bits."""
    if values.device.type != "cpu":
        return torch.where(mask, values, 0.0)
    array = bits(values)
    found = np.empty(values.shape, dtype=array.dtype)
    np.multiply(array, mask.numpy(), out=found)
    return torch.from_numpy(found).view(values.dtype)


def bits(values: Tensor) -> np.ndarray:
    """The values' bits as integers: NumPy has no bfloat16. A view where they are contiguous."""
    array: np.ndarray = values.contiguous().view(NUMBERS[values.element_size()]).numpy()
    return array


def _numbers(ranks: np.ndarray, places: np.ndarray, group_m: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Groups at a time: which, and the numbers of their kept values among theirs (groups, keep_n); to be used at once."""
    step = max(1, PLACES_AT_ONCE // places.shape[1])
    first = np.arange(0, min(step, len(ranks)) * group_m, group_m)[:, None]
    numbers = np.empty((len(first), places.shape[1]), dtype=np.intp)
    for begin in range(0, len(ranks), step):
        here = slice(begin, min(begin + step, len(ranks)))
        part = numbers[: here.stop - begin]
        np.take(places, ranks[here], axis=0, out=part, mode="clip")
        part += first[: len(part)]
        yield here, part
