"""Where a file's bytes go: model, optimizer, other tensors, container.

Every storage is counted once, whole: a saved view writes its whole storage. Does not open files.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

Interval = tuple[int, int]


def _intervals(tensors: Iterable[Tensor]) -> list[Interval]:
    storages = (tensor.untyped_storage() for tensor in tensors)
    return [(s.data_ptr(), s.data_ptr() + s.nbytes()) for s in storages if s.nbytes()]


def _union_size(intervals: list[Interval]) -> int:
    size, covered_to = 0, 0
    for start, end in sorted(intervals):
        size += max(0, end - max(start, covered_to))
        covered_to = max(covered_to, end)
    return size


def count_bytes(
    size_bytes: int, model: Iterable[Tensor], optimizer: Iterable[Tensor] = (), other: Iterable[Tensor] = ()
) -> dict[str, int]:
    """Divide a file's bytes.

    Storages are taken as address ranges, so that tied tensors and views into one storage count
    once. What two of them share goes to the first of model, optimizer, other.

    Args:
        size_bytes: of the file.
        model: tensors of the model, of any shape, all alive on CPU.
        optimizer: tensors of the optimizer's state.
        other: all other tensors in the file; may repeat the above.

    Returns:
        {"model", "optimizer", "other", "container"}, summing to `size_bytes`.

    Raises:
        ValueError: the tensors hold more bytes than the file, so it is damaged.
    """
    ranges = _intervals(model)
    model_size = _union_size(ranges)
    ranges += _intervals(optimizer)
    with_optimizer = _union_size(ranges)
    ranges += _intervals(other)
    total = _union_size(ranges)
    if total > size_bytes:
        raise ValueError(f"its tensors claim {total} bytes, the file has {size_bytes}")
    return {
        "model": model_size,
        "optimizer": with_optimizer - model_size,
        "other": total - with_optimizer,
        "container": size_bytes - total,
    }
