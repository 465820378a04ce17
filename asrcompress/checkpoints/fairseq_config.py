"""The configuration and the dictionary inside a Fairseq checkpoint, as plain Python.

Takes the stand-ins that pickled.py read: Namespaces, OmegaConf containers and nodes, enums.
Interpolations between configuration values are resolved; values of unknown classes become "<name>".
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from asrcompress.checkpoints.stand_ins import StandIn

MAX_VALUES = 200_000  # a real configuration has under 2 000; shared or cyclic references could unfold without end
MAX_DEPTH = 40
MAX_HOPS = 10
NUM_SPECIAL_SYMBOLS = 4  # <s>, <pad>, </s>, <unk>: every Fairseq dictionary starts with them
_INTERPOLATION = re.compile(r"\$\{(\.*)([\w.]+)\}")


class _Converter:
    def __init__(self) -> None:
        self.num_values = 0

    def convert(self, value: Any, depth: int = 0) -> Any:
        self.num_values += 1
        if self.num_values > MAX_VALUES or depth > MAX_DEPTH:
            raise ValueError("its configuration is nested without end")
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, dict):
            return {self._key(key): self.convert(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple, set)):
            return [self.convert(item, depth + 1) for item in value]
        if isinstance(value, StandIn):
            return self._convert_stand_in(value, depth)
        return f"<{type(value).__module__}.{type(value).__qualname__}>"

    def _key(self, key: Any) -> str | int:
        return key if isinstance(key, (str, int)) else str(self.convert(key, MAX_DEPTH))

    def _convert_stand_in(self, value: StandIn, depth: int) -> Any:
        name, state, args = value.qualified_name, value.state, value.args
        if name.startswith("omegaconf.") and isinstance(state, dict):
            content = state["_content"] if "_content" in state else state.get("_val")
            return self.convert(content, depth + 1)
        if isinstance(state, dict):  # a Namespace, a dataclass
            return self.convert(state, depth + 1)
        if name.startswith("pathlib."):
            return str(PurePosixPath(*(str(part) for part in args)))
        if name.endswith(".multiarray.scalar"):
            return _numpy_scalar(*args)
        if len(args) == 1 and state is None:  # an enum's member holds its value
            return self.convert(args[0], depth + 1)
        return f"<{name}>"


def _numpy_scalar(dtype: StandIn, data: bytes) -> bool | int | float:
    code = dtype.args[0]
    if not isinstance(code, str) or not re.fullmatch(r"[fiub][1248]", code):
        raise ValueError("its configuration holds a NumPy value that is no number")
    number: bool | int | float = np.frombuffer(data, dtype=code, count=1)[0].item()
    return number


def plain(value: Any) -> Any:
    """Turn stand-ins into dicts, lists, strings, numbers and None; tuples and sets become lists.

    Raises:
        ValueError: the value contains itself, or unfolds beyond any real configuration.
    """
    return _Converter().convert(value)


class _Resolver:
    """Replaces OmegaConf's `${a.b}` and relative `${.a}`; what cannot be looked up stays as written
    (environment variables, custom resolvers, missing keys)."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.root, self.num_values = root, 0

    def resolve(self, value: Any, path: tuple[str, ...], hops: int = 0) -> Any:
        """Resolve plain `value`, which lies at `path` under the root."""
        self.num_values += 1
        if self.num_values > MAX_VALUES:
            raise ValueError("its configuration refers to itself without end")
        if isinstance(value, dict):
            return {key: self.resolve(item, (*path, str(key)), hops) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item, (*path, str(index)), hops) for index, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value or hops >= MAX_HOPS:
            return value
        whole = _INTERPOLATION.fullmatch(value)
        if whole:
            return self._find(whole, path, hops)
        return _INTERPOLATION.sub(lambda match: str(self._find(match, path, hops)), value)

    def _find(self, match: re.Match[str], path: tuple[str, ...], hops: int) -> Any:
        dots, target = match.groups()
        base = path[: max(0, len(path) - len(dots))] if dots else ()
        found = (*base, *target.split("."))
        node: Any = self.root
        for part in found:
            if isinstance(node, dict) and part in node:
                node = node[part]
            elif isinstance(node, list) and part.isdecimal() and int(part) < len(node):
                node = node[int(part)]
            else:
                return match.group()
        return self.resolve(node, found, hops + 1)


def read_config(cfg: Any, args: Any) -> tuple[dict[str, Any], str | None]:
    """The model's and the task's settings, and the architecture's name.

    Args:
        cfg: the checkpoint's "cfg" entry (a dict or a stand-in), or None.
        args: its older "args" entry (a Namespace), used when `cfg` is None.

    Returns:
        ({"model": {...}, "task": {...}}, arch or None).

    Raises:
        ValueError: neither is a configuration.
    """
    root = plain(args if cfg is None else cfg)
    if not isinstance(root, dict):
        raise ValueError("its configuration is not a set of named values")
    if cfg is None:
        config = {"model": root, "task": dict(root)}
    else:
        resolver = _Resolver(root)
        config = {part: resolver.resolve(root.get(part), (part,)) for part in ("model", "task")}
        config = {part: node if isinstance(node, dict) else {} for part, node in config.items()}
    model = config["model"]
    names = (model.get("_name"), model.get("arch")) if cfg is not None else (model.get("arch"),)
    return config, next((name for name in names if isinstance(name, str)), None)


def read_symbols(task_state: Any) -> list[str] | None:
    """The symbols of the (target) dictionary in a task's state, without the four special ones; None without one.

    Raises:
        ValueError: the dictionary's symbols are not text.
    """
    found: list[tuple[bool, Any]] = []
    _find_dictionaries(task_state, False, found, 0)
    if not found:
        return None
    symbols = next((symbols for is_target, symbols in found if is_target), found[0][1])
    if not all(isinstance(symbol, str) for symbol in symbols):
        raise ValueError("its dictionary holds symbols that are not text")
    return list(symbols[NUM_SPECIAL_SYMBOLS:])


def _find_dictionaries(value: Any, is_target: bool, found: list[tuple[bool, Any]], depth: int) -> None:
    if isinstance(value, StandIn):
        if isinstance(value.state, dict) and isinstance(value.state.get("symbols"), list):
            found.append((is_target, value.state["symbols"]))
        return
    if depth > 3 or not isinstance(value, (dict, list, tuple)):
        return
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in entries:
        named = isinstance(key, str) and ("target" in key or "tgt" in key)
        _find_dictionaries(item, is_target or named, found, depth + 1)
