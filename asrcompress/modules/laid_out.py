"""What a module keeps in the kernels' order: made when it first runs, left behind when the module is copied, moved or filled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

T = TypeVar("T")


class LaidOut(nn.Module):
    """A module that keeps weights as kernels/ reads them, beside those of its state."""

    def laid_out(self, key: object, make: Callable[[], T]) -> T:
        """What `make` gives, made once for this key."""
        kept: dict[object, Any] = self.__dict__.setdefault("_laid_out", {})
        if key not in kept:
            kept[key] = make()
        found: T = kept[key]
        return found

    def __getstate__(self) -> dict[str, Any]:
        """What is copied or saved: addresses in memory are not."""
        return {name: value for name, value in self.__dict__.items() if name != "_laid_out"}

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.__dict__.pop("_laid_out", None)
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.__dict__.pop("_laid_out", None)
        super()._load_from_state_dict(*args, **kwargs)
