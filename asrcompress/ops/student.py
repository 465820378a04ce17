"""Teacher and options -> a student: a float model of the same family, smaller, with what fits copied from the teacher.

The student has the teacher's vocabulary and front-end. Layers are paired evenly, the first with the first: for half as many
layers every other one. What has the teacher's shape is copied, a module at a time with all of its tensors; the rest is drawn
as the family does where training starts, from the seed alone. Training it is distill.py's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.mapped import outlines
from asrcompress.models import ModelSpec
from asrcompress.ops.load import MISFIT, Source, build_float, count_params
from asrcompress.ops.student_layers import Stacks, counterpart, layer_record, paired_stacks, unit
from asrcompress.ops.student_options import check_shrink, parse_student

# A student of more times the teacher's parameters is a slip of the pen, and could be more than memory holds.
LARGEST_RATIO = 10


@dataclass(frozen=True)
class Student:
    """A student that has not been trained.

    source: its spec and float32 tensors; path, sha256 and size_bytes are those of the teacher's file.
    record: plain JSON: family, all sizes, shrink, seed; the teacher's layer for each layer of each stack; names of the
        tensors that were copied; parameters of the student, of what was copied, and of the teacher.
    """

    source: Source
    record: dict[str, Any]


def make_student(teacher: Source, text: str | None = None, shrink: float | None = None, seed: int = 1) -> Student:
    """A student of this teacher.

    Args:
        teacher: a checkpoint or an artifact of any family; packed weights are copied as the numbers they stand for.
        text: `family:size=number,...` or a TOML file (student_options.py); sizes left out are the teacher's.
        shrink: factor on the teacher's layers and widths, for sizes that `text` leaves out.
        seed: of what is not copied. The caller's random state is left as it was.

    Raises:
        AsrCompressError: neither text nor shrink is given, or they ask for what the family cannot be, or for more than ten
            times the teacher's parameters.
    """
    if text is None and shrink is None:
        raise AsrCompressError("the student has no size; give --student (such as kws_crnn:channels=2) or --shrink 0.5")
    factor = None if shrink is None else check_shrink(shrink)
    given = {} if text is None else _sizes_for(teacher, text)
    where = f"--shrink {shrink:g}" if text is None else f"--student {text}"
    try:
        spec, sizes = teacher.family.student(teacher.spec, given, factor)
    except AsrCompressError as error:
        raise AsrCompressError(f"{where}: {error}") from error
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        _check_size(teacher, spec, where)
        torch.manual_seed(seed)
        module = _draw(teacher, spec, where)
        stacks, copied = _copy(teacher, module)
    tensors = {
        name: tensor.detach() for name, tensor in module.state_dict().items() if not teacher.family.is_computed(name)
    }
    source = replace(teacher, spec=spec, tensors=tensors, checkpoint=None, content=None)
    record = {
        "family": spec.family,
        "sizes": sizes,
        "shrink": shrink,
        "seed": seed,
        "layers": layer_record(stacks),
        "copied": copied,
        "num_params": count_params(source),
        "num_copied_params": count_params(replace(source, tensors={name: tensors[name] for name in copied})),
        "num_teacher_params": count_params(teacher),
    }
    return Student(source, record)


def _sizes_for(teacher: Source, text: str) -> dict[str, Any]:
    family, given = parse_student(text)
    if family != teacher.spec.family:
        raise AsrCompressError(
            f"--student {text}: the teacher {teacher.path} is a {teacher.spec.family}, and so is its student; "
            f"write {teacher.spec.family}:..."
        )
    return given


def _draw(teacher: Source, spec: ModelSpec, where: str) -> nn.Module:
    """The student's module before anything is copied."""
    module = _build(teacher, spec, where)
    if hasattr(teacher.family, "initialise"):
        teacher.family.initialise(module)
    return module


def _check_size(teacher: Source, spec: ModelSpec, where: str) -> None:
    """Raise where the student has many more parameters than its teacher; counted without the memory for them."""
    with torch.device("meta"):
        count, most = (
            sum(parameter.numel() for parameter in module.parameters())
            for module in (_build(teacher, spec, where), build_float(teacher))
        )
    if count > LARGEST_RATIO * most:
        raise AsrCompressError(
            f"{where}: would have {count:,} parameters, {count / most:,.0f} times the teacher's; choose smaller sizes"
        )


def _build(teacher: Source, spec: ModelSpec, where: str) -> nn.Module:
    try:
        module: nn.Module = teacher.family.build(spec)
    except AsrCompressError as error:
        raise AsrCompressError(f"{where}: {error}") from error
    except MISFIT as error:
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise AsrCompressError(
            f"{where}: a {spec.family} of these sizes cannot be built ({cause}); choose others"
        ) from error
    return module


def _copy(teacher: Source, module: nn.Module) -> tuple[Stacks, list[str]]:
    """Copy what fits into the student's module; the pairs of layers, and the names of what was copied.

    Attention with another number of heads does not fit, whatever its shapes.
    """
    packed = teacher.content.quantized if teacher.content else {}
    shapes = {name: tensor.shape for name, tensor in outlines(teacher.tensors).items()}
    shapes |= {name: torch.Size(weight.shape) for name, weight in outlines(packed).items()}
    state = {name: tensor for name, tensor in module.state_dict().items() if not teacher.family.is_computed(name)}
    stacks = paired_stacks(state, shapes)
    names = {name: counterpart(name, stacks) for name in state}
    differ = {unit(name) for name, other in names.items() if other is None or shapes.get(other) != state[name].shape}
    with torch.device("meta"):
        heads = dict(_heads(build_float(teacher)))
    differ |= {name for name, count in _heads(module) if count != heads.get(counterpart(name, stacks) or "")}
    copied = [name for name in state if unit(name) not in differ]
    for name in copied:
        other = names[name] or name
        value: Tensor = packed[other].dequantize() if other in packed else teacher.tensors[other]
        state[name].copy_(value)
    places = {state[name].data_ptr() for name in copied}  # of a tied weight, a teacher may store one name alone
    return stacks, [name for name, tensor in state.items() if tensor.data_ptr() in places]


def _heads(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Attentions by name, with their numbers of heads: Fairseq's own and ESPnet's."""
    for name, found in module.named_modules():
        count = getattr(found, "num_heads", getattr(found, "h", None))
        if count is not None:
            yield name, count
