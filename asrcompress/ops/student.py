"""Teacher and options -> a student: a float model of the same family, smaller, with what fits copied from the teacher.

The student has the teacher's vocabulary and front-end. Layers are paired evenly, the last with the last: for half as many
layers every other one. What has the teacher's shape is copied, one module at a time with all of its tensors; the rest is
initialised as the family does when training starts, from the seed alone. Training it is distill.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.ops.load import Source, build_float, count_params
from asrcompress.ops.student_layers import paired_names, unit
from asrcompress.ops.student_options import check_shrink, parse_student


@dataclass(frozen=True)
class Student:
    """A student that has not been trained.

    source: its spec and float32 tensors; path, sha256 and size_bytes are those of the teacher's file.
    record: family, sizes, shrink, seed, what was copied and numbers of parameters, as plain JSON.
    """

    source: Source
    record: dict[str, Any]


def make_student(teacher: Source, text: str | None = None, shrink: float | None = None, seed: int = 1) -> Student:
    """A student of this teacher.

    Args:
        teacher: a checkpoint or an artifact of any family; packed weights are copied as the numbers they stand for.
        text: `family:name=size,...` or a TOML file (student_options.py); sizes left out are the teacher's.
        shrink: factor on the teacher's layers and widths, for sizes that `text` leaves out.
        seed: of what is not copied. The caller's random state is left as it was.

    Raises:
        AsrCompressError: neither text nor shrink is given, or they ask for what the family cannot be.
    """
    if text is None and shrink is None:
        raise AsrCompressError("a student has no size; give --student (such as kws_crnn:channels=2) or --shrink 0.5")
    factor = None if shrink is None else check_shrink(shrink)
    given = {} if text is None else _sizes_for(teacher, text)
    where = f"--shrink {shrink:g}" if text is None else f"--student {text}"
    try:
        spec, sizes = teacher.family.student(teacher.spec, given, factor)
    except AsrCompressError as error:
        raise AsrCompressError(f"{where}: {error}") from error
    source = replace(teacher, spec=spec, tensors={}, checkpoint=None, content=None)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = build_float(source)
        initialise = getattr(teacher.family, "initialise", None)
        if initialise:
            initialise(module)
        copied = _copy(_float_tensors(teacher), module, teacher)
    tensors = {
        name: tensor.detach() for name, tensor in module.state_dict().items() if not teacher.family.is_computed(name)
    }
    source = replace(source, tensors=tensors)
    return Student(source, _record(source, teacher, sizes, shrink, seed, copied))


def _sizes_for(teacher: Source, text: str) -> dict[str, Any]:
    family, given = parse_student(text)
    if family != teacher.spec.family:
        raise AsrCompressError(
            f"--student {text}: the teacher {teacher.path} is a {teacher.spec.family}, and a student is of its teacher's family"
        )
    return given


def _float_tensors(teacher: Source) -> dict[str, Tensor]:
    """All tensors of the teacher; packed ones as the numbers that they stand for."""
    packed = teacher.content.quantized if teacher.content else {}
    return dict(teacher.tensors) | {name: weight.dequantize() for name, weight in packed.items()}


def _copy(tensors: Mapping[str, Tensor], module: nn.Module, teacher: Source) -> list[str]:
    """Copy what fits into the student's module, and name it: units with all of their tensors, or none of them."""
    state = {name: tensor for name, tensor in module.state_dict().items() if not teacher.family.is_computed(name)}
    names = paired_names(state, tensors)
    fits = {name: name in names and tensors[names[name]].shape == tensor.shape for name, tensor in state.items()}
    broken = {unit(name) for name, fit in fits.items() if not fit}
    copied = [name for name in state if unit(name) not in broken]
    for name in copied:
        state[name].copy_(tensors[names[name]])
    return copied


def _record(
    source: Source, teacher: Source, sizes: dict[str, Any], shrink: float | None, seed: int, copied: Iterable[str]
) -> dict[str, Any]:
    of_copied = replace(source, tensors={name: source.tensors[name] for name in copied})
    return {
        "family": source.spec.family,
        "sizes": sizes,
        "shrink": shrink,
        "seed": seed,
        "copied": list(copied),
        "num_copied_params": count_params(of_copied),
        "num_params": count_params(source),
        "num_teacher_params": count_params(teacher),
    }
