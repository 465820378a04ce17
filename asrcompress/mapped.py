"""Tensors that are mapped from a file: letting go of their pages, and dictionaries whose values are made when asked for.

A mapped tensor costs memory only once it is read, and keeps it until it is let go. `release` lets go, on Linux; elsewhere
it does nothing, and the system takes the pages back when it needs them. Knows no format.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TypeVar

from torch import Tensor

Value = TypeVar("Value")
MAPS = "/proc/self/maps"
MAP_FILES = "/proc/self/map_files"  # has each mapping of a file under its addresses
_last_found: list[tuple[int, int] | None] = [None]
DONTNEED = 4  # MADV_DONTNEED of linux/mman.h


def release(tensor: Tensor) -> None:
    """Take a mapped tensor's pages out of the resident set; its values are read from the file again when it is used.

    Does nothing to a tensor that no file lies behind. The tensor must not have been written to: the writes would be lost.
    """
    storage = tensor.untyped_storage()
    if tensor.device.type != "cpu" or not storage.nbytes() or not sys.platform.startswith("linux"):
        return
    begin, size = storage.data_ptr(), storage.nbytes()
    found = _known_mapping(begin) or _file_mapping(begin)
    if found is None or begin + size > found[1]:
        return
    first = begin - begin % mmap.PAGESIZE
    last = min(-(-(begin + size) // mmap.PAGESIZE) * mmap.PAGESIZE, found[1])
    _madvise()(ctypes.c_void_p(first), ctypes.c_size_t(last - first), ctypes.c_int(DONTNEED))


def _known_mapping(address: int) -> tuple[int, int] | None:
    """As `_file_mapping`, where it is the one that was found last and is still there: the list of all is long."""
    found = _last_found[0]
    if found is None or not found[0] <= address < found[1]:
        return None
    return found if os.path.lexists(f"{MAP_FILES}/{found[0]:x}-{found[1]:x}") else None


def _file_mapping(address: int) -> tuple[int, int] | None:
    """(begin, end) of the mapping of a file around an address; None where memory has no file behind it."""
    try:
        with open(MAPS, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                span, _, _, _, inode, *_ = line.split(maxsplit=5)
                begin, end = (int(edge, 16) for edge in span.split("-"))
                if begin <= address < end:
                    found = (begin, end) if inode != "0" else None
                    _last_found[0] = found
                    return found
    except (OSError, ValueError):
        return None
    return None


@lru_cache(maxsize=1)
def _madvise() -> Callable[..., int]:
    function: Callable[..., int] = ctypes.CDLL(None).madvise
    return function


class Made(Mapping[str, Value]):
    """A mapping whose values are made each time that one is asked for, and not kept.

    num_elements: how many each has, where that is known beforehand.
    """

    def __init__(
        self, names: Iterable[str], make: Callable[[str], Value], num_elements: Callable[[str], int] | None = None
    ) -> None:
        self._names = dict.fromkeys(names)
        self._make = make
        self.num_elements = num_elements

    def __getitem__(self, name: str) -> Value:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Outlined(Made[Value]):
    """Values made when asked for, with what can be said of them beforehand: the same on device meta, without numbers."""

    def __init__(self, outlines: Mapping[str, Value], make: Callable[[str], Value]) -> None:
        super().__init__(outlines, make)
        self.outlines = outlines


def outlines(values: Mapping[str, Value]) -> Mapping[str, Value]:
    """The same names with shapes, types and options; numbers only where they are in memory anyway."""
    return values.outlines if isinstance(values, Outlined) else values
