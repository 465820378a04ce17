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
    """For each layer of the student the teacher's that it starts as, spread evenly, the first with the first: 3 of 6 are 0, 2, 4.

    Layer i of S stands for the layers of T from i * T // S to before the next one's, and is the first of them: a layer reads
    what came before it, so the front-end has to find the layer that was trained on it (docs/distillation.md has figures).
    """
    return [i * num_teacher // num_student for i in range(num_student)]


def one_or_all(values: Sequence[int]) -> Any:
    """The one value that all have, else all of them."""
    return values[0] if len(set(values)) == 1 else list(values)
