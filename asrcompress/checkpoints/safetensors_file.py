"""Safetensors files of others. Our own artifacts, which are safetensors too, belong to artifact.py."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from asrcompress.checkpoints.ledger import count_bytes
from asrcompress.checkpoints.record import Contents
from asrcompress.errors import AsrCompressError

ARTIFACT_FORMATS = ("asrcompress.v1", "asrcompress.c1")


def looks_like_safetensors(head: bytes, size_bytes: int) -> bool:
    """Whether a file that begins with `head` (9 bytes or more) has safetensors' header."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size_bytes - 8


def read_safetensors(path: Path, size_bytes: int) -> Contents:
    """Read all tensors. Names that `safetensors.torch.save_model` left out as tied come back, tied.

    Raises:
        AsrCompressError: the file is an artifact of ours, or holds no tensors.
        Exception: of any type: the file is damaged.
    """
    with safe_open(path, framework="pt") as handle:
        metadata = handle.metadata() or {}
        if metadata.get("format") in ARTIFACT_FORMATS:
            raise AsrCompressError(
                f"{path}: is a compressed artifact, not a checkpoint; give it where an artifact is asked for"
            )
        tensors = {name: handle.get_tensor(name) for name in handle.offset_keys()}
    if not tensors:
        raise AsrCompressError(f"{path}: no model tensors found; save the model's state_dict() in it")
    ledger = count_bytes(size_bytes, tensors.values())
    for alias, name in metadata.items():
        if name in tensors and alias not in tensors:
            tensors[alias] = tensors[name]
    return Contents("safetensors", tensors, ledger)
