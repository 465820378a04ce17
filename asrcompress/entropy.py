"""Entropy coding of stored tensors: one zstd frame each, so that a file is still read tensor by tensor.

Lossless, and knows no weights: it takes the bytes of a tensor as they would be stored. A tensor is coded where that saves
more than saying so costs; what its bytes stood for, type and shape, is then recorded beside it. A frame says how much it
holds, which is checked against the record before anything is unpacked. Where it is in a file is artifact.py's matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import zstandard
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.tensor_file import DTYPE_OF, TYPE_OF, WIDTHS, compact_json

ZSTD = "zstd"
MAGIC = zstandard.FRAME_HEADER  # what every frame begins with, and no JSON does
# Small tensors are worth the search; 19 codes 2 MB a second and saves next to nothing on codes of many weights.
SMALL_BYTES, SMALL_LEVEL, LEVEL = 1 << 20, 19, 3
# What a frame may unpack to. Codes and floats shrink to a tenth at most; a frame that claims more is an attack on memory.
MOST_TIMES, ALWAYS_BYTES = 200, 1 << 16

# Of a coded tensor: safetensors' name of its type, and its shape.
Plain = tuple[str, list[int]]


def encode(name: str, tensor: Tensor) -> tuple[Tensor, Plain] | None:
    """A tensor as a frame, uint8 (length,), and what it was; None where storing it plain takes no more."""
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    plain: Plain = (TYPE_OF[tensor.dtype], list(tensor.shape))
    frame = encode_bytes(data, cost=len(compact_json({name: plain})) - 1)
    return None if frame is None else (torch.frombuffer(bytearray(frame), dtype=torch.uint8), plain)


def encode_bytes(data: bytes | memoryview, *, cost: int = 0) -> bytes | None:
    """One frame with these bytes; None where it would not be smaller by more than `cost` bytes."""
    level = SMALL_LEVEL if len(data) <= SMALL_BYTES else LEVEL
    frame: bytes = zstandard.ZstdCompressor(level=level).compress(data)
    return frame if len(frame) + cost < len(data) <= _most(len(frame)) else None


def decode(name: str, frame: Tensor, plain: Any) -> Tensor:
    """The tensor that was coded.

    Args:
        name: for messages.
        frame: as it is in the file.
        plain: what the file says that it was; untrusted.

    Raises:
        AsrCompressError: the record is none, or the frame is damaged, holds another number of bytes than the record needs,
            or claims to hold far more than such tensors do.
    """
    dtype, shape = _checked(name, plain)
    if frame.dtype != torch.uint8 or frame.dim() != 1:
        raise AsrCompressError(f"{name}: is coded and is {list(frame.shape)} of {frame.dtype}, no row of bytes")
    due = WIDTHS[dtype] * math.prod(shape)
    data = decode_bytes(name, frame.contiguous().numpy().data, due=due)
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return flat.view(DTYPE_OF[dtype]).reshape(shape)


def decode_bytes(name: str, frame: bytes | memoryview, *, due: int | None = None) -> bytes:
    """What a frame holds, `due` bytes where that is known.

    Raises:
        AsrCompressError: see `decode`.
    """
    try:
        size = int(zstandard.get_frame_parameters(frame).content_size)
        if size != due if due is not None else size in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR):
            raise AsrCompressError(f"{name}: its frame says that it holds {size} bytes where {due} are due")
        if size > _most(len(frame)):
            raise AsrCompressError(
                f"{name}: its frame of {len(frame)} bytes says that it holds {size}, which none does"
            )
        data: bytes = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise AsrCompressError(f"{name}: its zstd frame is damaged ({error})") from error
    if len(data) != size:
        raise AsrCompressError(f"{name}: its frame holds {len(data)} bytes where {size} are due")
    return data


def encode_text(text: str) -> Tensor:
    """A text, coded where that is smaller, as it is stored: uint8 (length,). What it is shows in its first bytes."""
    data = text.encode()
    return torch.frombuffer(bytearray(encode_bytes(data) or data), dtype=torch.uint8)


def decode_text(name: str, stored: Tensor) -> bytes:
    """The text that `encode_text` stored, or that was stored plain, in UTF-8.

    Raises:
        AsrCompressError: it begins as a frame and is none.
    """
    data = bytes(stored.numpy())
    return decode_bytes(name, data) if data[: len(MAGIC)] == MAGIC else data


def encoded(name: str, tensor: Tensor) -> tuple[Tensor, Plain | None]:
    """What is stored of a tensor, a frame where that is smaller, and then what the tensor was."""
    return encode(name, tensor) or (tensor, None)


def read_coded(coded: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that a file says are coded, decoded.

    Args:
        coded: name -> (type, shape), as the file has it; untrusted.
        tensors: of the file, as they are stored.

    Raises:
        AsrCompressError: see `decode`; or what it says is no object, or about a tensor that is not there.
    """
    if not isinstance(coded, dict):
        raise AsrCompressError("what it says of coded tensors is not an object")
    if missing := [name for name in coded if name not in tensors]:
        raise AsrCompressError(f"{missing[0]}: is said to be coded and is not in the file")
    return {name: decode(name, tensors[name], plain) for name, plain in coded.items()}


def outline_of_coded(name: str, plain: Any) -> Tensor:
    """What a coded tensor was, on device meta.

    Raises:
        AsrCompressError: what the file says that it was is no type and shape.
    """
    dtype, shape = _checked(name, plain)
    return torch.empty(shape, dtype=DTYPE_OF[dtype], device="meta")


def _checked(name: str, plain: Any) -> Plain:
    if not isinstance(plain, list | tuple) or len(plain) != 2 or not isinstance(plain[1], list | tuple):
        raise AsrCompressError(f"{name}: is coded, and what it was is not recorded as a type and a shape")
    dtype, shape = plain
    if not isinstance(dtype, str) or dtype not in DTYPE_OF:
        raise AsrCompressError(f"{name}: is coded, and there is no type '{str(dtype)[:40]}'")
    if len(shape) > 16 or not all(type(size) is int and 0 <= size < 2**48 for size in shape):
        raise AsrCompressError(f"{name}: is coded, and {str(list(shape))[:80]} is no shape")
    return dtype, list(shape)


def _most(frame_bytes: int) -> int:
    return MOST_TIMES * frame_bytes + ALWAYS_BYTES
