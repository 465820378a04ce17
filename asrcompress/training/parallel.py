"""Processes that train one model together: on what device, with whom, and who holds which part.

Data parallel (each rank has the whole model, `DistributedDataParallel`) or sharded (each has a part, FSDP's `fully_shard`).
What an update does is the same for any number of ranks, up to the order in which floats are summed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
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
        """`learner` on the device, with its gradients summed over the ranks, and split up where that is asked for.

        blocks: parts of it that are gathered one at a time, none within another; see `find_shards`.
        """
        if self.is_sharded:
            return self._shard(learner, blocks)
        learner.to(self.device)
        if self.size == 1:
            return learner
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(
            learner,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            broadcast_buffers=False,  # masks are chosen from the same weights on every rank
            gradient_as_bucket_view=True,
        )

    def _shard(self, learner: nn.Module, blocks: Iterable[nn.Module]) -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard

        mesh = init_device_mesh(self.device.type, (self.size,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(learner, mesh=mesh)
        if self.device.type == "cpu":
            for module in learner.modules():
                if isinstance(module, FSDPModule):
                    module.set_force_sum_reduction_for_comms(True)  # gloo has no mean
        return learner

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

    def tell(self, value: Any) -> Any:
        """The first rank's value, on every rank; plain JSON."""
        if self.size == 1:
            return value
        text = json.dumps(value, allow_nan=False).encode() if self.rank == 0 else b""
        count = torch.tensor([len(text)], device=self.device)
        torch.distributed.broadcast(count, 0)
        letters = torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
        return json.loads(bytes(self.hand_out(letters, (int(count),), torch.uint8).numpy()))

    def hand_out(self, tensor: Tensor | None, shape: Iterable[int], dtype: torch.dtype) -> Tensor:
        """The first rank's tensor, on every rank, in its CPU memory; only the first needs to have it.

        shape, dtype: of it, which every rank knows.
        """
        if self.size == 1:
            assert tensor is not None  # noqa: S101 (the first rank has it)
            return tensor
        here = tensor if self.rank == 0 and tensor is not None else torch.empty(tuple(shape), dtype=dtype)
        there = here.to(self.device).contiguous()
        torch.distributed.broadcast(there.view(torch.uint8) if dtype == torch.bool else there, 0)
        return there.cpu()


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
    except BaseException:
        # Nobody waits for what this rank will no longer send; NCCL's own farewell would wait for the others.
        torch.distributed.distributed_c10d._abort_process_group()
        raise
    torch.distributed.destroy_process_group()


@contextmanager
def watch_calls(model: nn.Module) -> Iterator[set[nn.Module]]:
    """The modules whose `forward` is called as a module's while this is open; not those whose weights alone are read."""
    called: set[nn.Module] = set()
    handles = [
        module.register_forward_pre_hook(lambda module, args: called.add(module), prepend=True)  # type: ignore[func-returns-value]
        for module in model.modules()
    ]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


def find_shards(model: nn.Module, called: Collection[nn.Module]) -> list[nn.Module]:
    """Parts of a model that can be gathered one at a time: members of its outermost ModuleLists.

    A part is gathered when it is called, so it must be (`called`: see `watch_calls`), and must have its parameters for itself.
    """
    places = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    found: list[nn.Module] = []
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or (inside and name.startswith(inside)):
            continue
        inside = (*inside, f"{name}.")
        for member in module:
            own = Counter(id(parameter) for _, parameter in member.named_parameters(remove_duplicate=False))
            if member in called and own and all(places[key] == count for key, count in own.items()):
                found.append(member)
    return found


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be split over ranks; every rank asks for it."""
    value: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]
    return value.detach()


@torch.no_grad()
def fill(tensor: Tensor, values: Tensor) -> None:
    """Set a tensor that may be split over ranks from all of its values, which every rank has."""
    tensor.copy_(split(values, tensor))


def split(values: Tensor, like: Tensor) -> Tensor:
    """Values that every rank has, split over the ranks as `like` is."""
    values = values.to(like.device)
    if not hasattr(like, "full_tensor"):
        return values
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(values, like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]
