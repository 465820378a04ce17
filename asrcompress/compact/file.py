"""The compact file: a safetensors file with one tensor, `compact`, that layout.py's stream is. Format `asrcompress.c1`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from asrcompress.compact.layout import Unpacked, pack, unpack
from asrcompress.errors import AsrCompressError
from asrcompress.tensor_file import header

FORMAT = "asrcompress.c1"
NAME = "compact"
MOST_BYTES = 1 << 24  # of a file: what MOST_ELEMENTS take as float64, and a record


def file_bytes(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """The whole file. Raises AsrCompressError as `pack`."""
    data = pack(record, tensors)
    return header({NAME: ("U8", (len(data),))}, {"format": FORMAT}) + data


def read_file(data: bytes) -> Unpacked:
    """What a whole file holds.

    Raises:
        AsrCompressError, LookupError, TypeError, ValueError, RecursionError: it is damaged, or holds more than that.
    """
    found = _read_file(data)
    return Unpacked(
        json.loads(json.dumps(found.record)),
        {key: tensor.clone() for key, tensor in found.tensors.items()},
        found.sizes,
    )


@lru_cache(maxsize=1)
def _read_file(data: bytes) -> Unpacked:
    """The last file is asked for again and again: by who runs it, and by who counts its bytes."""
    if len(data) > MOST_BYTES:
        raise AsrCompressError(f"its {len(data):,} bytes are more than a compact file has")
    begin = 8 + int.from_bytes(data[:8], "little")
    if data[:begin] != header({NAME: ("U8", (len(data) - begin,))}, {"format": FORMAT}):
        raise AsrCompressError(f"its header says more, or less, than that all of it is one tensor '{NAME}'")
    return unpack(data[begin:])


def ledger(data: bytes) -> list[tuple[str, int]]:
    """(name, bytes) of all that is in a file, in order: "header", "" for the record, then tensors; they sum to its size.

    A tensor of its own would not take more than its numbers do. Where coding makes it longer, that, and the bits that end the
    stream, stand under "coding".
    """
    found = _read_file(data)
    sizes = dict(found.sizes)
    rows = [("header", len(data) - sum(sizes.values())), ("", sizes.pop(""))]
    rows += [(name, min(size, _size_bytes(found.tensors[name]))) for name, size in sizes.items()]
    coding = len(data) - sum(size for _, size in rows)
    return rows + ([("coding", coding)] if coding else [])


def _size_bytes(tensor: Tensor) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64)) * tensor.element_size()
