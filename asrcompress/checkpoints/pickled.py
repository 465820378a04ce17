"""Files of torch.save, zip or legacy: Fairseq checkpoints and state dicts, read by a restricted unpickler.

Names the file would import are listed first; torch's own weights-only unpickler then builds tensors,
containers and our inert stand-ins, and nothing else. Zip files are mapped, so an optimizer's state is
not read into memory. What the sections of the file are is layout.py's matter.
"""

from __future__ import annotations

import pickle
import types
import warnings
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch._weights_only_unpickler import _get_allowed_globals  # what torch itself takes for safe; a test watches it

from asrcompress.checkpoints.pickle_scan import modern_name, scan_pickle
from asrcompress.checkpoints.stand_ins import LOOK_UP, StandIn, is_allowed, member, stand_ins
from asrcompress.checkpoints.torch_zip import TorchZip
from asrcompress.errors import AsrCompressError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_NUM_PICKLES = 5  # magic number, protocol, system, the object, storage keys; raw storages follow


def scan_names(path: Path, archive: TorchZip | None) -> frozenset[str]:
    """All names that the pickles of a torch.save file import; nothing is imported or run.

    Raises:
        AsrCompressError: a legacy file that torch did not write.
        ValueError: a damaged pickle (any other exception means the same).
    """
    if archive is not None:
        return scan_pickle(BytesIO(archive.read("data.pkl"))).global_names
    names: frozenset[str] = frozenset()
    with open(path, "rb") as handle:
        for position in range(LEGACY_NUM_PICKLES):
            scan = scan_pickle(handle)
            names |= scan.global_names
            if position == 0 and scan.result != LEGACY_MAGIC:
                if unsafe_names(names):
                    break  # the more useful thing to say
                raise AsrCompressError(f"{path}: is a pickle that torch.save did not write; save it with torch.save")
    return names


def unsafe_names(names: Iterable[str]) -> list[str]:
    """Those names that neither torch nor our stand-ins make harmless, sorted."""
    return sorted(name for name in names if name not in _get_allowed_globals() and not is_allowed(name))


def printable(names: list[str], limit: int = 3) -> str:
    """Names from a file, made safe to print on one line."""
    shown = ["".join(c if c.isprintable() else "?" for c in name)[:80] for name in names[:limit]]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(shown) + more


def load_pickled(path: Path, archive: TorchZip | None, *, trust: bool) -> Any:
    """Load a torch.save file: tensors on CPU, allowed classes as stand-ins.

    Args:
        path: the file.
        archive: its index, or None for the legacy format.
        trust: import and run what else the file names.

    Raises:
        AsrCompressError: it names what could run code, and `trust` is off. Nothing was loaded.
        Exception: of any type: the file is damaged (or, under `trust`, its code failed).
    """
    names = scan_names(path, archive)
    unsafe = unsafe_names(names)
    if unsafe and not trust:
        raise AsrCompressError(
            f"{path}: holds objects of class {printable(unsafe)} that could run code; get a clean file "
            "(torch.save the state_dict alone), or add --trust-checkpoint to run it"
        )
    replacements = stand_ins(name for name in names if name not in _get_allowed_globals())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if unsafe or (trust and LOOK_UP in names):
            return _load_trusting(path, archive, replacements | {LOOK_UP: _look_up})
        with torch.serialization.safe_globals([(item, name) for name, item in replacements.items()]):
            return torch.load(path, map_location="cpu", mmap=archive is not None, weights_only=True)


def _load_trusting(path: Path, archive: TorchZip | None, replacements: dict[str, Any]) -> Any:
    module = _trusting_pickle(replacements)
    try:
        return torch.load(path, map_location="cpu", mmap=archive is not None, weights_only=False, pickle_module=module)
    except (ImportError, AttributeError) as error:
        raise AsrCompressError(
            f"{path}: a class it holds cannot be imported ({printable([str(error)])}); install the package that has it"
        ) from error


def _look_up(owner: Any, name: str) -> Any:
    """What getattr gives in a file that is trusted."""
    is_stand_in = isinstance(owner, type) and issubclass(owner, StandIn)
    return member(owner, name) if is_stand_in else getattr(owner, name)


def _trusting_pickle(replacements: dict[str, Any]) -> Any:
    """A module like `pickle` that uses the stand-ins where there are any and imports everything else."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            full_name = modern_name(module, name)
            return replacements[full_name] if full_name in replacements else super().find_class(module, name)

    module = types.ModuleType("trusting_pickle")
    module.Unpickler = Unpickler  # type: ignore[attr-defined]
    module.load = lambda handle, **options: Unpickler(handle, **options).load()  # type: ignore[attr-defined]
    return module
