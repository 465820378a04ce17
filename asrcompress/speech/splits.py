"""Which clips belong to the split that was asked for. Makes no splits of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from asrcompress.errors import AsrCompressError

ALL = "all"
_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
    ALL: ("all",),
}
_BY_ALIAS = {alias: name for name, aliases in _NAMES.items() for alias in aliases}


def split_name(written: str) -> str:
    """One name for each split (`validation` and `dev` are `val`); names of another kind stay as they are."""
    return _BY_ALIAS.get(written.strip().lower(), written.strip())


def select(path: Path, splits: Sequence[str], split: str | None, *, option: str = "--split") -> list[int]:
    """The indices of the clips in `split`, in order.

    Args:
        path: the set, for errors.
        splits: the split of each clip; the same for all where the set has no splits.
        split: the split asked for; None where there is nothing to choose from.
        option: what it is asked for with, for errors.

    Raises:
        AsrCompressError: a split is asked for that is not there, or none where there are several.
    """
    known = sorted(set(splits))
    if split is None:
        if len(known) > 1:
            raise AsrCompressError(f"{path}: has several splits; add {option}, one of: {', '.join([*known, ALL])}")
        return list(range(len(splits)))
    name = split_name(split)
    if name == ALL:
        return list(range(len(splits)))
    if name in known:
        return [index for index, entry in enumerate(splits) if entry == name]
    if known == [ALL]:
        raise AsrCompressError(f"{path}: has no splits; leave out {option} {split}, or give a set that has them")
    raise AsrCompressError(f"{path}: has no split {split!r}; it has: {', '.join([*known, ALL])}")
