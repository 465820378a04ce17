"""Which part of a loaded torch.save file is the model, which the optimizer, which the configuration.

Knows Fairseq's layout and the usual ones of plain PyTorch training scripts. Opens no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.checkpoints.fairseq_config import read_config, read_symbols
from asrcompress.checkpoints.ledger import count_bytes
from asrcompress.checkpoints.record import Contents
from asrcompress.errors import AsrCompressError

WRAPPERS = ("model", "state_dict", "model_state_dict")


def read_layout(path: Path, loaded: Any, size_bytes: int) -> Contents:
    """Sort out what a torch.save file holds.

    Args:
        path: for messages.
        loaded: the object as loaded, allowed classes as stand-ins.
        size_bytes: of the file.

    Raises:
        AsrCompressError: no model in it, or one this tool cannot take.
        ValueError: its configuration or its storages are damaged.
    """
    if isinstance(loaded, nn.Module):  # only a trusted file can hold one
        loaded = loaded.state_dict()
    if not isinstance(loaded, dict):
        raise AsrCompressError(
            f"{path}: holds a {type(loaded).__name__}, not a state dict; save the model with "
            "torch.save(model.state_dict(), ...)"
        )
    wrapper = next((name for name in WRAPPERS if isinstance(loaded.get(name), (dict, nn.Module))), None)
    cfg, args = loaded.get("cfg"), loaded.get("args")
    model = loaded if wrapper is None else loaded[wrapper]
    tensors = check_tensors(path, model.state_dict() if isinstance(model, nn.Module) else model)
    optimizer = [] if wrapper is None else [item for key, item in loaded.items() if "optim" in str(key)]
    ledger = count_bytes(size_bytes, tensors.values(), walk_tensors(optimizer), walk_tensors(loaded))
    if wrapper != "model" or (cfg is None and args is None):
        return Contents("state_dict", tensors, ledger)
    config, arch = read_config(cfg, args)
    return Contents("fairseq", tensors, ledger, config, arch, read_symbols(loaded.get("task_state")))


def check_tensors(path: Path, state_dict: dict[Any, Any]) -> dict[str, Tensor]:
    """The entries of a state dict as plain dense CPU tensors that still share the file's storage.

    Raises:
        AsrCompressError: an entry is no tensor, or is of a kind that has no plain numbers; or there are none.
    """
    if not any(isinstance(value, Tensor) for value in state_dict.values()):
        keys = ", ".join(repr(key)[:40] for key in list(state_dict)[:5]) or "nothing"
        raise AsrCompressError(
            f"{path}: no model tensors found (it holds {keys}); save the model with torch.save(model.state_dict(), ...)"
        )
    tensors = {}
    for name, value in state_dict.items():
        problem = _problem(name, value)
        if problem:
            raise AsrCompressError(f"{path}: entry {repr(name)[:80]} {problem}")
        tensors[name] = value.detach()
    return tensors


def _problem(name: Any, value: Any) -> str | None:
    """Why an entry cannot be taken, and the way out; None when it can."""
    if not isinstance(name, str):
        return "has a name that is not text; save model.state_dict() itself"
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}, not a tensor; save model.state_dict() under a key of its own"
    if value.is_quantized:
        return "is quantized already; give the float checkpoint it was made from"
    if value.layout is not torch.strided or value.is_nested:
        return "is a sparse or nested tensor; call .to_dense() on it and save again"
    if value.device.type != "cpu":
        return f"holds no data (device {value.device.type}); save the model after its weights are loaded"
    if type(value) not in (Tensor, nn.Parameter):
        return f"is a {type(value).__name__}; save plain tensors"
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return "repeats its elements (an expanded view); call .contiguous() on it and save again"
    return None


def walk_tensors(value: Any) -> Iterator[Tensor]:
    """Every plain tensor reachable through containers and objects' attributes, each object visited once."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, (str, bytes, int, float, type)):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            if type(item) in (Tensor, nn.Parameter) and item.layout is torch.strided and item.device.type == "cpu":
                yield item
        elif isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting.extend(item)
        elif hasattr(item, "__dict__"):
            waiting.extend(vars(item).values())
