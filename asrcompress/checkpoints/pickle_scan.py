"""What a pickle would import, found by reading its opcodes; nothing is built and nothing runs.

Also measures how deeply tuples nest: hashing a deep enough tuple overruns the C stack and kills
the process, which no exception handler sees. Does not judge the names; stand_ins.py does.
"""

from __future__ import annotations

import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # Python 2 names, as pickle itself maps them
from dataclasses import dataclass
from typing import Any, BinaryIO

MAX_TUPLE_DEPTH = 500  # real files stay below 20
UNREADABLE = "<a computed name>"
_NESTING = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"}
_STORE = {"PUT", "BINPUT", "LONG_BINPUT"}
_FETCH = {"GET", "BINGET", "LONG_BINGET"}


@dataclass(frozen=True)
class PickleScan:
    """`global_names`: qualified names the pickle imports. `result`: what it gives, if a bare number or text."""

    global_names: frozenset[str]
    result: Any


def modern_name(module: str, name: str) -> str:
    """The qualified name that Python 3 uses for what a pickle calls `module` and `name`."""
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[(module, name)]
    else:
        module = IMPORT_MAPPING.get(module, module)
    return f"{module}.{name}"


@dataclass(frozen=True)
class _Value:
    depth: int = 0
    content: Any = None


_MARK = _Value()


def scan_pickle(handle: BinaryIO) -> PickleScan:
    """Read one pickle and leave `handle` after it.

    Raises:
        ValueError: it is no pickle, is cut short, or nests tuples too deeply (others of
            `pickletools.genops` may escape too: treat any exception as a damaged file).
    """
    names: set[str] = set()
    stack: list[_Value] = []
    memo: dict[int, _Value] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(handle):
        if opcode.name in _STORE or opcode.name == "MEMOIZE":
            memo[len(memo) if opcode.name == "MEMOIZE" else argument] = stack[-1]
            continue
        popped = _pop(stack, opcode)
        if opcode.name in ("GLOBAL", "INST"):
            names.add(modern_name(*argument.split(" ", 1)))
        elif opcode.name == "STACK_GLOBAL":
            texts = [value.content for value in popped]
            names.add(modern_name(*texts) if all(isinstance(text, str) for text in texts) else UNREADABLE)
        elif opcode.name.startswith("EXT"):
            names.add(UNREADABLE)
        if opcode.name == "STOP":
            return PickleScan(frozenset(names), popped[0].content)
        if opcode.name == "MARK":
            stack.append(_MARK)
        elif opcode.name in _FETCH:
            stack.append(memo[argument])
        else:
            depth = max((value.depth for value in popped), default=0) + (opcode.name in _NESTING)
            if depth > MAX_TUPLE_DEPTH:
                raise ValueError(f"its tuples nest more than {MAX_TUPLE_DEPTH} deep")
            stack.extend(_Value(depth, argument) for _ in opcode.stack_after)
    raise ValueError("its pickle has no end")


def _pop(stack: list[_Value], opcode: pickletools.OpcodeInfo) -> list[_Value]:
    """Take off the stack what `opcode` consumes, down to the last mark where it asks for one."""
    before = opcode.stack_before
    count = len(before)
    if pickletools.markobject in before:
        above_mark = 0
        while stack[-1 - above_mark] is not _MARK:  # IndexError without one
            above_mark += 1
        count = above_mark + 1 + before.index(pickletools.markobject)
    if count > len(stack):
        raise ValueError("its pickle is damaged")
    popped = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return popped
