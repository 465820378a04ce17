"""Sizes of a student: how a factor shrinks a teacher's, and which may go together.

A family's `student(spec, given, shrink)` starts from its own teacher's sizes and uses these.
"""

from __future__ import annotations

from asrcompress.errors import AsrCompressError


def shrink_layers(layers: int, factor: float | None) -> int:
    """A number of layers times `factor`, to the nearest (a half goes up), at least one."""
    return layers if factor is None else max(1, int(layers * factor + 0.5))


def shrink_width(width: int, factor: float | None, multiple: int = 1) -> int:
    """A width times `factor`, to the nearest multiple (a half goes up), at least one of it. Without a factor: as it is."""
    return width if factor is None else multiple * max(1, int(width * factor / multiple + 0.5))


def require_multiple(name: str, width: int, of: str, multiple: int) -> None:
    """Raise when `width` does not divide into `multiple` parts; the error names the nearest widths that do."""
    if width % multiple:
        below, above = width // multiple * multiple, (width // multiple + 1) * multiple
        nearest = f"{below} or {above}" if below else str(above)
        raise AsrCompressError(f"{name}={width}: is no multiple of {multiple}, {of}; use {nearest}")
