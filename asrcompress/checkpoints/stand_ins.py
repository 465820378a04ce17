"""Inert stand-ins for the classes that Fairseq pickles into its checkpoints.

A checkpoint names classes; pickle would import them and build their objects. Here every allowed name
becomes a fresh class of ours that only keeps what it was given, so that neither Fairseq nor
OmegaConf is imported and nothing of theirs runs. A name that is not allowed is left to the caller.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

# Anything under these prefixes is data: configuration dataclasses, enums, containers, meters, dictionaries.
ALLOWED_PREFIXES = ("fairseq.", "fairseq_cli.", "examples.", "omegaconf.", "typing.")
ALLOWED_NAMES = frozenset(
    {"argparse.Namespace", "_operator.getitem", "operator.getitem"}
    | {f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath")}
    | {f"builtins.{name}" for name in ("bool", "bytes", "dict", "float", "int", "list", "object", "str", "tuple")}
    | {f"numpy{core}.multiarray.{name}" for core in (".core", "._core") for name in ("scalar", "_reconstruct")}
    | {"numpy.dtype", "numpy.ndarray"}
)


LOOK_UP = "builtins.getattr"


class StandIn:
    """An object of some class, as data: the arguments it was made from and the state it was given."""

    qualified_name = "?"

    def __new__(cls, *args: Any) -> StandIn:
        """Keep what it would have been made from; make nothing."""
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    args: tuple[Any, ...]
    state: Any

    def __init__(self, *args: Any) -> None:
        """Pickle may or may not call this; `__new__` has done the work."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


def stand_in_class(qualified_name: str) -> type[StandIn]:
    """A fresh inert class that remembers which class it stands for."""
    return type("StandIn", (StandIn,), {"qualified_name": qualified_name, "__module__": __name__})


def _empty_dict(*_: Any) -> dict[Any, Any]:
    return {}


def member(owner: Any, name: Any) -> StandIn:
    """A member of an enumeration, which Python 3.11.0 to 3.11.3 pickles as getattr(class, name): the class made from the name.

    Raises:
        TypeError: the owner is no stand-in; nothing else is looked up.
    """
    if not (isinstance(owner, type) and issubclass(owner, StandIn) and isinstance(name, str)):
        raise TypeError("it looks up an attribute of something that is no class of data")
    return owner(name)


def is_allowed(qualified_name: str) -> bool:
    """Whether a name may be replaced by a stand-in (torch's own names are torch's to allow)."""
    return qualified_name in ("collections.defaultdict", LOOK_UP) or (
        qualified_name in ALLOWED_NAMES or qualified_name.startswith(ALLOWED_PREFIXES)
    )


def stand_ins(names: Iterable[str]) -> dict[str, Callable[..., Any]]:
    """A stand-in for each allowed name among `names`.

    Dict subclasses are filled item by item while unpickling, so they become plain dicts.
    """
    replacements: dict[str, Callable[..., Any]] = {}
    for name in filter(is_allowed, names):
        if name == "collections.defaultdict":
            replacements[name] = _empty_dict
        elif name == LOOK_UP:
            replacements[name] = member
        elif name == "fairseq.logging.meters.MetersDict":
            replacements[name] = OrderedDict
        else:
            replacements[name] = stand_in_class(name)
    return replacements
