"""A training on disk, to go on from: one safetensors file, written whole or not at all. Nothing is pickled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.files import atomic_write
from asrcompress.training.parallel import Parallel, fill, whole
from asrcompress.training.trainer import Progress, Trainer

RECORD = "training.json"


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
        """Write the state; every rank calls it, the first writes."""
        tensors = {f"now/{name}": value for name, value in trainer.snapshot().items()}
        tensors |= {f"best/{name}": value for name, value in trainer.best.items()}
        names = {id(parameter): name for name, parameter in trainer.parameters.items()}
        for parameter, moments in trainer.optimizer.state.items():
            for kind, value in moments.items():
                tensors[f"optimizer/{kind}/{names[id(parameter)]}"] = whole(value).cpu().clone()
        if parallel.rank:
            return
        record = {"identity": self.identity, "progress": trainer.progress.to_json()}
        text = json.dumps(record, sort_keys=True, allow_nan=False).encode()
        tensors[RECORD] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        with atomic_write(self.path, force=True) as handle:
            handle.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}))

    def load(self, trainer: Trainer) -> bool:
        """Put a saved training into `trainer`; False where there is none to go on from.

        Raises:
            AsrCompressError: the file is damaged, or of another training.
        """
        if not self.resume or not self.path.exists():
            return False
        record, tensors = self._read()
        if record.get("identity") != self.identity:
            raise AsrCompressError(
                f"{self.path}: is of a training with other data or options; remove it, or leave out --resume"
            )
        trainer.load(_below("now/", tensors))
        trainer.best = _below("best/", tensors)
        trainer.progress = Progress.from_json(record["progress"])
        trainer.remember_masks()
        for parameter in trainer.parameters.values():
            trainer.optimizer.state[parameter] = {}
        kinds = sorted({name.split("/")[1] for name in tensors if name.startswith("optimizer/")})
        for name, parameter in trainer.parameters.items():
            for kind in kinds:
                value = tensors.get(f"optimizer/{kind}/{name}")
                if value is None:
                    continue
                if kind == "step":
                    is_fused = trainer.optimizer.param_groups[0]["fused"]  # then it is counted where the parameter is
                    trainer.optimizer.state[parameter][kind] = value.to(parameter.device) if is_fused else value
                    continue
                moments = torch.zeros_like(parameter, requires_grad=False)
                fill(moments, value)
                trainer.optimizer.state[parameter][kind] = moments
        return True

    def remove(self) -> None:
        """What a finished training needs no more."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        try:
            with safe_open(self.path, framework="pt") as handle:
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (no dict)
            return json.loads(bytes(tensors.pop(RECORD).numpy())), tensors
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            raise AsrCompressError(
                f"{self.path}: is no saved training, or damaged ({error}); remove it, or leave out --resume"
            ) from error


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value.clone() for name, value in tensors.items() if name.startswith(prefix)}
