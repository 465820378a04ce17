"""What a module keeps in the kernels' order: made when it first runs, and anew when what it was made of is another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

T = TypeVar("T")


class LaidOut(nn.Module):
    """A module that keeps weights as kernels/ reads them, beside those of its state. Copies and saved ones leave that behind.

    generation: goes up when the module is filled or moved.
    """

    generation = 0

    def laid_out(self, name: object, make: Callable[[], T], *sources: LaidOut | Tensor | None) -> T:
        """What `make` gives; made once, and again when one of `sources` was filled, moved or changed in place since."""
        marks = (self.generation, *map(_mark, sources))
        kept: dict[object, tuple[Any, Any]] = self.__dict__.setdefault("_laid_out", {})
        if name not in kept or kept[name][0] != marks:
            kept[name] = marks, make()
        found: T = kept[name][1]
        return found

    def __getstate__(self) -> dict[str, Any]:
        """What is copied or saved: addresses in memory are not."""
        return {name: value for name, value in self.__dict__.items() if name != "_laid_out"}

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.__dict__["generation"] = self.generation + 1
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__["generation"] = self.generation + 1
        super()._load_from_state_dict(*args, **kwargs)


def _mark(source: LaidOut | Tensor | None) -> Any:
    """What is another after a change."""
    if isinstance(source, LaidOut):
        return id(source), source.generation
    if source is None:
        return None
    return source.data_ptr(), None if source.is_inference() else source._version
