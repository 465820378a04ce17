"""A training on disk, to go on from: one safetensors file, written whole or not at all. Nothing is pickled.

The first rank writes and reads it, tensor by tensor, and hands out what it reads, so that the others need no shared folder and
may be more or fewer than those that saved it. Sums over all of its bytes are in it: a damaged file is never gone on from.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.files import atomic_write
from asrcompress.tensor_file import spool
from asrcompress.training.parallel import Parallel, fill, whole
from asrcompress.training.trainer import Progress, Trainer

RECORD, RECORD_SHA256 = "training.json", "sha256"
NOW, BEST, OPTIMIZER = "now/", "best/", "optimizer/"
Form = tuple[tuple[int, ...], torch.dtype]  # of a tensor


@dataclass
class TrainingState:
    """Where a training is saved.

    path: of the file. identity: what the training is of (model, data, options); a state of another one is refused.
    resume: whether to go on from what is there.
    """

    path: Path
    identity: str
    resume: bool = False

    def save(self, trainer: Trainer, parallel: Parallel) -> None:
        """Write the state; every rank calls it, the first writes.

        Raises:
            AsrCompressError: it cannot be written; the state before it is still there.
        """
        if parallel.rank:
            for _, tensor in _tensors(trainer):
                whole(tensor)
            return
        sums: dict[str, int] = {}
        with spool(self.path) as waiting:
            for name, tensor in _tensors(trainer):
                value = whole(tensor).cpu().contiguous()
                sums[name] = _sum(value)
                waiting.add(name, value)
            record = {"identity": self.identity, "progress": trainer.progress.to_json(), "crc32": sums}
            text = json.dumps(record, sort_keys=True, allow_nan=False).encode()
            waiting.add(RECORD, torch.frombuffer(bytearray(text), dtype=torch.uint8))
            with atomic_write(self.path, force=True) as handle:
                waiting.write_to(handle, {RECORD_SHA256: hashlib.sha256(text).hexdigest()})

    def load(self, trainer: Trainer) -> bool:
        """Put a saved training into `trainer`; False where there is none to go on from. Every rank calls it, the first reads.

        Raises:
            AsrCompressError: the file is damaged, or of another training.
        """
        if not self.resume:
            return False
        parallel = trainer.parallel
        found: dict[str, Any] = {}
        if parallel.rank == 0 and self.path.exists():
            try:
                found = self._check(trainer)
            except AsrCompressError as error:
                found = {"error": str(error)}
        found = parallel.tell(found)
        if "error" in found:
            raise AsrCompressError(found["error"])
        if not found:
            return False
        forms = _forms(trainer)
        with safe_open(self.path, framework="pt") if parallel.rank == 0 else nullcontext() as handle:

            def read(name: str, form: Form) -> Tensor:
                return parallel.hand_out(handle.get_tensor(name) if handle else None, *form)

            trainer.load(_Read(NOW, forms, read))
            trainer.best = dict(_Read(BEST, forms, read))
            trainer.progress = Progress.from_json(found["progress"])
            trainer.remember_masks()
            _load_moments(trainer, found["moments"], read)
        return True

    def remove(self) -> None:
        """What a finished training needs no more."""
        self.path.unlink(missing_ok=True)

    def _check(self, trainer: Trainer) -> dict[str, Any]:
        """The progress, and which moments of the optimizer are there; what else is in the file is as `trainer` needs it."""
        try:
            with safe_open(self.path, framework="pt") as handle:
                names = set(handle.keys())
                text = handle.get_tensor(RECORD).numpy().tobytes()
                if hashlib.sha256(text).hexdigest() != (handle.metadata() or {}).get(RECORD_SHA256):
                    raise ValueError(f"{RECORD} is not as it was written")
                record = json.loads(text)
                if record["identity"] != self.identity:
                    raise AsrCompressError(
                        f"{self.path}: is of a training with other data or options; remove it, or leave out --resume"
                    )
                sums = record["crc32"]
                if names != {RECORD, *sums}:
                    raise ValueError("tensors are missing")
                for name, total in sums.items():
                    if _sum(handle.get_tensor(name)) != total:
                        raise ValueError(f"{name} is not as it was written")
                moments = sorted(name for name in sums if name.startswith(OPTIMIZER))
                wanted = {f"{part}{name}": form for part in (NOW, BEST) for name, form in _forms(trainer).items()}
                wanted |= {name: _form_of_moment(trainer, name) for name in moments}
                for name in (*wanted, *sums):
                    here = handle.get_slice(name)
                    if (name not in wanted) or tuple(here.get_shape()) != wanted[name][0]:
                        raise ValueError(f"{name} is not of this model")
            Progress.from_json(record["progress"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise AsrCompressError(
                f"{self.path}: is no saved training, or damaged ({error}); remove it, or leave out --resume"
            ) from error
        return {"progress": record["progress"], "moments": moments}


class _Read(Mapping[str, Tensor]):
    """Tensors of one part of the file, read as they are asked for, which all ranks do in the same order."""

    def __init__(self, prefix: str, forms: Mapping[str, Form], read: Callable[[str, Form], Tensor]) -> None:
        self._prefix, self._forms, self._read = prefix, forms, read

    def __getitem__(self, name: str) -> Tensor:
        return self._read(self._prefix + name, self._forms[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._forms)

    def __len__(self) -> int:
        return len(self._forms)


def _tensors(trainer: Trainer) -> Iterator[tuple[str, Tensor]]:
    """All that is saved, in an order that is the same on all ranks; may be split over them."""
    for name, value in trainer.state().items():
        yield NOW + name, value
    for name, value in trainer.best.items():
        yield BEST + name, value
    for name, parameter in trainer.parameters.items():
        for kind, value in sorted(trainer.optimizer.state.get(parameter, {}).items()):
            yield f"{OPTIMIZER}{kind}/{name}", value


def _forms(trainer: Trainer) -> dict[str, Form]:
    return {name: (tuple(value.shape), value.dtype) for name, value in trainer.state().items()}


def _form_of_moment(trainer: Trainer, name: str) -> Form:
    _, kind, owner = name.split("/", 2)
    parameter = trainer.parameters[owner]
    return ((), torch.float32) if kind == "step" else (tuple(parameter.shape), parameter.dtype)


def _load_moments(trainer: Trainer, names: list[str], read: Callable[[str, Form], Tensor]) -> None:
    fused = any(group.get("fused") for group in trainer.optimizer.param_groups)
    for parameter in trainer.parameters.values():
        trainer.optimizer.state[parameter] = {}
    for name in names:
        _, kind, owner = name.split("/", 2)
        parameter, value = trainer.parameters[owner], read(name, _form_of_moment(trainer, name))
        if kind == "step":
            moment = value.to(parameter.device) if fused else value.clone()
        else:
            moment = torch.zeros_like(parameter, requires_grad=False)
            fill(moment, value)
        trainer.optimizer.state[parameter][kind] = moment


def _sum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
