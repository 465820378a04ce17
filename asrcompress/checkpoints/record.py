"""What reading a checkpoint gives: the model's tensors, its configuration, and where the bytes went.

Equal-valued copies are not tied here: only what shares storage in the file is. models/ decides the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from asrcompress.file_hash import FileHash


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint as read.

    Attributes:
        path: the file.
        format: "fairseq", "state_dict", "torchscript" or "safetensors".
        tensors: the model's tensors by state-dict name, on CPU, as stored, in the file's order.
            Tied entries share storage. They may be mapped from the file: keep it while they are used.
        config: for Fairseq {"model": {...}, "task": {...}} in plain Python (an `args` Namespace appears as
            both; tuples become lists), else None.
        arch: for Fairseq the architecture's name, else None.
        symbols: symbols, without the four special ones, of the dictionary in the task's state; None without one.
        size_bytes: the file's size.
        hashed: the file's sha256, which may still be on its way; `sha256` waits for it.
        ledger: bytes of the file by what they hold: "model", "optimizer", "other" (tensors of
            neither) and "container" (names, headers, padding). They sum to `size_bytes`.
    """

    path: Path
    format: str
    tensors: dict[str, Tensor]
    config: dict[str, Any] | None
    arch: str | None
    symbols: list[str] | None
    size_bytes: int
    hashed: FileHash
    ledger: dict[str, int]

    @property
    def sha256(self) -> str:
        """Of the file, hex."""
        return self.hashed.sha256

    @property
    def model_size_bytes(self) -> int:
        """Bytes of the model's tensors alone, tied ones once."""
        return self.ledger["model"]


@dataclass(frozen=True, eq=False)
class Contents:
    """What a format's own reader finds; reader.py adds what is true of any file."""

    format: str
    tensors: dict[str, Tensor]
    ledger: dict[str, int]
    config: dict[str, Any] | None = None
    arch: str | None = None
    symbols: list[str] | None = None


def tied_names(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Names of tensors that are views of the same numbers, each with the first name for them.

    Args:
        tensors: by name; two are tied when storage, offset, shape, strides and dtype agree.

    Returns:
        {later name: first name}; empty when nothing is tied. Tensors without elements are never tied.
    """
    first: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        if not tensor.numel():
            continue
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
    return aliases
