"""Which tensor of a teacher goes where in a student with another number of layers, from their names alone.

A stack is the layers under one name: those with an attention of their own, such as `encoder.transformer_layers.0` to `.5`,
and the layers of a GRU. Any other number in a name stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from asrcompress.models.sizes import paired_layers

GRU = re.compile(r"(?P<stack>(?:.+\.)?(?:weight|bias)_(?:ih|hh)_l)(?P<number>\d+)")
LAYER = re.compile(r"(?P<stack>.+\.)(?P<number>\d+)\.self_attn\..+")
GRU_TAIL = re.compile(r"(?:weight|bias)_(?:ih|hh)_l$")
NUMBER = re.compile(r"(?<=[._l])\d+(?=\.|$)")
ATTENTION = re.compile(r"(.+\.(?:self_attn|encoder_attn))\..+")


@dataclass(frozen=True)
class Stack:
    """layers: number of each layer of the student -> of the teacher's that it starts as. shift: of what follows the last."""

    layers: dict[int, int]
    shift: int


Stacks = dict[str, Stack]


def unit(name: str) -> str:
    """The module whose tensors are copied together: the one that holds the tensor, a whole attention, one layer of a GRU."""
    attention, gru = ATTENTION.fullmatch(name), GRU.fullmatch(name)
    if gru:
        return f"{name.rpartition('.')[0]}.l{gru['number']}"
    return attention[1] if attention else name.rpartition(".")[0]


def paired_stacks(student: Iterable[str], teacher: Iterable[str]) -> Stacks:
    """By the name that stands before the number: the layers of the student and the teacher's."""
    of_student, of_teacher = _numbers(student), _numbers(teacher)
    found = {}
    for stack in of_student.keys() & of_teacher.keys():
        ours, theirs = of_student[stack], of_teacher[stack]
        pairs = {
            number: theirs[place] for number, place in zip(ours, paired_layers(len(ours), len(theirs)), strict=True)
        }
        found[stack] = Stack(pairs, theirs[-1] - ours[-1])
    return {stack: found[stack] for stack in sorted(found)}


def counterpart(name: str, stacks: Stacks) -> str | None:
    """The teacher's name for a tensor of the student; None where there is none for certain.

    What follows a stack under the same name, such as the output's projection of a VGG transformer, is counted from its end;
    what lies between its layers has no counterpart.
    """
    for found in NUMBER.finditer(name):
        stack, number = name[: found.start()], int(found[0])
        if stack not in stacks:
            continue
        layers = stacks[stack].layers
        if number in layers:
            other = layers[number]
        elif number > max(layers):
            other = number + stacks[stack].shift
        elif number < min(layers):
            other = number
        else:
            return None
        return f"{stack}{other}{name[found.end() :]}"
    return name


def layer_record(stacks: Stacks) -> dict[str, list[int]]:
    """By the name of each stack: for each layer of the student the teacher's. A GRU is one stack."""
    return {GRU_TAIL.sub("", stack).rstrip("."): list(found.layers.values()) for stack, found in stacks.items()}


def _numbers(names: Iterable[str]) -> dict[str, list[int]]:
    """Numbers of the layers of each stack, ascending."""
    numbers: dict[str, set[int]] = {}
    for name in names:
        match = GRU.fullmatch(name) or LAYER.fullmatch(name)
        if match:
            numbers.setdefault(match["stack"], set()).add(int(match["number"]))
    return {stack: sorted(found) for stack, found in numbers.items()}
