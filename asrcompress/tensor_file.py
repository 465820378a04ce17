"""Writing a safetensors file from tensors that come one at a time, byte for byte what `safetensors.torch.save` gives.

The header comes first in the file and is known last, so tensors wait in a spool beside it: a file without a name, of which
nothing is left whatever happens. No more than one tensor is in memory. Reading is the readers' matter.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError

# A tensor of the file: safetensors' name of its type, and its shape.
Outline = tuple[str, tuple[int, ...]]
# In the order in which safetensors lays tensors out: the widest first, so that each is aligned; then by name.
WIDTHS = {
    "U64": 8, "I64": 8, "F64": 8, "C64": 8, "F32": 4, "U32": 4, "I32": 4, "BF16": 2, "F16": 2, "U16": 2, "I16": 2,
    "F8_E8M0": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
TYPES = tuple(WIDTHS)
TYPE_OF = {
    torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.complex64: "C64", torch.float32: "F32",
    torch.uint32: "U32", torch.int32: "I32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint16: "U16",
    torch.int16: "I16", torch.float8_e8m0fnu: "F8_E8M0", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
DTYPE_OF = {name: dtype for dtype, name in TYPE_OF.items()}
CHUNK_BYTES = 1 << 23


class TensorSpool:
    """Tensors on their way into a file. Made by `spool`."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle, self._size = handle, 0
        self._begins: dict[str, int] = {}
        self.outlines: dict[str, Outline] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        """Take in a tensor, of any device and layout in memory.

        Raises:
            AsrCompressError: the file format has no such type.
            OSError: as the disk has it.
            ValueError: the name is there already (a bug).
        """
        if tensor.dtype not in TYPE_OF:
            raise AsrCompressError(f"{name}: a safetensors file holds no {tensor.dtype}; save it as another type")
        if name in self.outlines:
            raise ValueError(f"{name} is spooled twice")
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        self._handle.write(flat.numpy().data)
        self.outlines[name] = TYPE_OF[tensor.dtype], tuple(tensor.shape)
        self._begins[name], self._size = self._size, self._size + flat.numel()

    def file_size_bytes(self, metadata: Mapping[str, str]) -> int:
        """Of the file that `write_to` writes."""
        return len(header(self.outlines, metadata)) + self._size

    def write_to(self, handle: BinaryIO, metadata: Mapping[str, str]) -> None:
        """Write the file. With more than one entry of metadata their order is that of `metadata`.

        Raises:
            OSError: as the disk has it.
        """
        handle.write(header(self.outlines, metadata))
        self._handle.flush()
        for name in in_order(self.outlines):
            _copy(self._handle, self._begins[name], data_size_bytes(self.outlines[name]), handle, name)


def _copy(spool: IO[bytes], begin: int, size: int, handle: BinaryIO, name: str) -> None:
    """Append bytes of the spool to the file: inside the system where it can, which is several times as fast."""
    done = _copy_inside(spool, begin, size, handle) if size >= CHUNK_BYTES else 0
    spool.seek(begin + done)
    while done < size:
        chunk = spool.read(min(size - done, CHUNK_BYTES))
        if not chunk:
            raise OSError(f"the spool of {name} is cut short")
        handle.write(chunk)
        done += len(chunk)


def _copy_inside(spool: IO[bytes], begin: int, size: int, handle: BinaryIO) -> int:
    """`_copy` as far as the system does it by itself: how many bytes that were."""
    if not hasattr(os, "copy_file_range"):
        return 0
    handle.flush()
    end, done = handle.tell(), 0
    try:
        while done < size:
            count = os.copy_file_range(spool.fileno(), handle.fileno(), size - done, begin + done, end + done)
            if not count:
                break
            done += count
    except OSError:  # not between these files; whatever else it is will be said when it is tried again
        pass
    handle.seek(end + done)
    return done


@contextmanager
def spool(path: Path) -> Iterator[TensorSpool]:
    """A spool in the folder of `path`, gone at the end.

    Raises:
        AsrCompressError: nothing can be created there, or the disk is full.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent, prefix=".", suffix=".spool") as handle:
            yield TensorSpool(handle)
    except OSError as error:
        raise AsrCompressError(f"{path}: could not be written: {error.strerror or error}") from error


def in_order(outlines: Mapping[str, Outline]) -> list[str]:
    """Names in the order in which their data lies in the file."""
    return sorted(outlines, key=lambda name: (TYPES.index(outlines[name][0]), name.encode()))


def header(outlines: Mapping[str, Outline], metadata: Mapping[str, str]) -> bytes:
    """All before the data: the length, the JSON header, and spaces up to a multiple of 8."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    begin = 0
    for name in in_order(outlines):
        end = begin + data_size_bytes(outlines[name])
        entries[name] = header_entry(outlines[name], begin, end)
        begin = end
    text = compact_json(entries)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def header_entry(outline: Outline, begin: int, end: int) -> dict[str, object]:
    """What the header says about a tensor."""
    return {"dtype": outline[0], "shape": outline[1], "data_offsets": [begin, end]}


def compact_json(value: object) -> bytes:
    """JSON as safetensors writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def data_size_bytes(outline: Outline) -> int:
    """Bytes of a tensor's elements."""
    kind, shape = outline
    return WIDTHS[kind] * torch.Size(shape).numel()
