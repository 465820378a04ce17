"""Which tensor of a teacher goes where in a student with fewer layers, from their names alone.

A stack is the layers under one name, such as `encoder.transformer_layers.0` to `.5`: those that have an attention of
their own, and the layers of a GRU. What else has a number in its name keeps it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

GRU = re.compile(r"(?P<stack>.*\.)?(?P<kind>(?:weight|bias)_(?:ih|hh)_l)(?P<number>\d+)")
LAYER = re.compile(r"(?P<stack>.+)\.(?P<number>\d+)\.self_attn\..+")
ATTENTION = re.compile(r"(.+\.(?:self_attn|encoder_attn))\..+")


def paired_layers(num_student: int, num_teacher: int) -> list[int]:
    """For each layer of the student the teacher's, spread evenly, the last with the last: 3 of 6 take 1, 3 and 5.

    Layer i of S takes layer (i + 1) * T / S - 1 of T, to the nearest (a half goes up), and never one before the first.
    """
    return [max(0, (2 * (i + 1) * num_teacher + num_student) // (2 * num_student) - 1) for i in range(num_student)]


def unit(name: str) -> str:
    """The module whose tensors are copied together: the one that holds the tensor, a whole attention, one layer of a GRU."""
    gru, attention = GRU.fullmatch(name), ATTENTION.fullmatch(name)
    if gru:
        return f"{gru['stack'] or ''}l{gru['number']}"
    return attention[1] if attention else name.rpartition(".")[0]


def paired_names(student: Iterable[str], teacher: Iterable[str]) -> dict[str, str]:
    """The student's tensors, each with the name of its counterpart in the teacher; those that have none are left out."""
    student, known = list(student), set(teacher)
    of_student, of_teacher = _stacks(student), _stacks(known)
    pairs = {
        (stack, number): of_teacher[stack][place]
        for stack, numbers in of_student.items()
        if stack in of_teacher
        for number, place in zip(numbers, paired_layers(len(numbers), len(of_teacher[stack])), strict=True)
    }
    found = {name: _renamed(name, pairs) for name in student}
    return {name: other for name, other in found.items() if other in known}


def _stacks(names: Iterable[str]) -> dict[str, list[int]]:
    """Numbers of the layers of each stack, ascending."""
    numbers: dict[str, set[int]] = {}
    for name in names:
        match = GRU.fullmatch(name) or LAYER.fullmatch(name)
        if match:
            numbers.setdefault(match["stack"] or "", set()).add(int(match["number"]))
    return {stack: sorted(found) for stack, found in numbers.items()}


def _renamed(name: str, pairs: dict[tuple[str, int], int]) -> str:
    """The name with the number of its layer replaced by that of the layer it is paired with."""
    gru = GRU.fullmatch(name)
    if gru:
        stack = gru["stack"] or ""
        return f"{stack}{gru['kind']}{pairs.get((stack, int(gru['number'])), gru['number'])}"
    for match in re.finditer(r"\.(\d+)\.", name):
        stack, number = name[: match.start()], int(match[1])
        if (stack, number) in pairs:
            return f"{stack}.{pairs[stack, number]}.{name[match.end() :]}"
    return name
