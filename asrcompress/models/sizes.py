"""Sizes of a student: how a factor shrinks its teacher's, which go together, and which layers of the two are paired.

A family's own `student(spec, given, shrink)` says what these are applied to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asrcompress.errors import AsrCompressError


def shrink_layers(layers: int, factor: float | None) -> int:
    """A number of layers times `factor`, to the nearest (a half goes up), at least one."""
    return layers if factor is None else max(1, int(layers * factor + 0.5))


def shrink_width(width: int, factor: float | None, multiple: int = 1) -> int:
    """A width times `factor`, to the nearest multiple (a half goes up), at least one of it. Without a factor: as it is."""
    return width if factor is None else multiple * max(1, int(width * factor / multiple + 0.5))


def require_multiple(name: str, width: int, multiple: int, of: str) -> None:
    """Raise when `width` is no multiple of `multiple`, which `of` explains; the error names the nearest that are."""
    if width % multiple:
        below, above = width // multiple * multiple, (width // multiple + 1) * multiple
        raise AsrCompressError(
            f"{name}={width}: is no multiple of {multiple}, {of}; use {f'{below} or {above}' if below else above}"
        )


def paired_layers(num_student: int, num_teacher: int) -> list[int]:
    """For each layer of the student its layer of the teacher, spread evenly, the last with the last: 3 of 6 are 1, 3 and 5.

    Layer i of S goes with layer (i + 1) * T / S - 1 of T, to the nearest (a half goes up), and never one before the first.
    """
    return [max(0, (2 * (i + 1) * num_teacher + num_student) // (2 * num_student) - 1) for i in range(num_student)]


def one_or_all(values: Sequence[int]) -> Any:
    """The one value that all have, else all of them."""
    return values[0] if len(set(values)) == 1 else list(values)
