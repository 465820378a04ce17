"""Processes that train one model together: on what device, with whom, and who holds which part.

Data parallel (each rank has the whole model, `DistributedDataParallel`) or sharded (each has a part, FSDP's `fully_shard`).
What an update does is the same for any number of ranks, up to the order in which floats are summed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


class Parallel:
    """One rank of `size`.

    Args:
        rank, size: of this process.
        device: that it computes on.
        is_sharded: whether parameters are split over the ranks.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: str = "cpu", *, is_sharded: bool = False) -> None:
        self.rank, self.size, self.device, self.is_sharded = rank, size, torch.device(device), is_sharded

    def wrap(self, learner: nn.Module, blocks: Iterable[nn.Module]) -> nn.Module:
        """`learner` with its gradients summed over the ranks, and split up where that is asked for.

        blocks: parts of it that are gathered one at a time.
        """
        if self.is_sharded:
            from torch.distributed.fsdp import fully_shard

            for block in blocks:
                fully_shard(block)
            fully_shard(learner)
            return learner
        if self.size == 1:
            return learner
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(learner, device_ids=[self.device] if self.device.type == "cuda" else None)

    @contextmanager
    def piece(self, wrapped: nn.Module, *, is_last: bool) -> Iterator[None]:
        """Around forward and backward of a piece of a batch: gradients travel with the last one."""
        if self.is_sharded:
            wrapped.set_requires_gradient_sync(is_last)  # type: ignore[operator]
            yield
        elif self.size > 1 and not is_last:
            with wrapped.no_sync():  # type: ignore[operator]
                yield
        else:
            yield

    def sum(self, values: Iterable[float]) -> list[float]:
        """Sums over the ranks, the same on all, in float64."""
        total = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        if self.size > 1:
            torch.distributed.all_reduce(total)
        return [float(value) for value in total]


@contextmanager
def process_group(store: Any, rank: int, size: int, device: str, *, timeout_s: float = 1800.0) -> Iterator[None]:
    """torch.distributed for these ranks while this is open.

    Args:
        store: of torch.distributed, that all ranks reach; None makes a group of one where `size` is 1.
        rank: of this process.
        size: how many there are.
        device: cpu or cuda.
        timeout_s: after which a silent rank is an error.
    """
    if store is None:
        store = torch.distributed.HashStore()
    torch.distributed.init_process_group(
        BACKENDS[torch.device(device).type],
        store=store,
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout_s),
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be split over ranks; every rank asks for it."""
    value: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]
    return value.detach()


@torch.no_grad()
def fill(tensor: Tensor, values: Tensor) -> None:
    """Set a tensor that may be split over ranks from all of its values."""
    if hasattr(tensor, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        values = distribute_tensor(values.to(tensor.device), tensor.device_mesh, tensor.placements)  # type: ignore[attr-defined]
    tensor.copy_(values)
