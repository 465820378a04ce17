"""What is done with a model depends on whether it fits in memory: here is the one threshold, and the check that needs none.

A model that needs more than MEMORY_BUDGET_BYTES to be built and run is not built by commands that only write a file: it is
checked by names and shapes, its weights are packed one at a time, and its file is audited weight by weight and not run.
docs/honesty.md says so to users; `analyze` builds and runs a model of any size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.mapped import outlines
from asrcompress.ops.load import Source, build_float

MEMORY_BUDGET_BYTES = 1 << 30
# Building and running: the float model and a second one for reference, and integer codes beside the packed ones.
RUN_BYTES_PER_PARAM = 8


def run_size_bytes(source: Source) -> int:
    """About what it takes to build the source's model and run it for a second of audio."""
    return RUN_BYTES_PER_PARAM * sum(torch.Size(shape).numel() for shape in shapes(source).values())


def fits_in_memory(source: Source, memory_budget_bytes: int) -> bool:
    """Whether the model may be built."""
    return run_size_bytes(source) <= memory_budget_bytes


def shapes(source: Source) -> dict[str, tuple[int, ...]]:
    """Shapes of all stored tensors of the model, packed ones included, tied ones under each name; reads no value."""
    found = {name: tuple(tensor.shape) for name, tensor in outlines(source.tensors).items()}
    if source.content:
        found |= {name: weight.shape for name, weight in outlines(source.content.quantized).items()}
    return found


def check_model(source: Source, names: Iterable[str], tied: Mapping[str, str]) -> None:
    """Raise where tensors of `source` would not fill its model, by names and shapes alone; `build_model` also fills it.

    Args:
        source: the file.
        names: of the tensors that are kept, packed or not.
        tied: other names of them.
    """
    with torch.device("meta"):
        module = build_float(source)
    state = module.state_dict()
    found, kept = shapes(source), set(names)
    for name in kept & state.keys():
        if found[name] != tuple(state[name].shape):
            raise AsrCompressError(
                f"{source.path}: its tensors do not fit its own configuration: {name} has shape {list(found[name])}, the model has "
                f"{list(state[name].shape)}"
            )
    same = _same_parameter(module)
    filled = kept | {alias for alias, name in tied.items() if name in kept}
    filled |= {name for name, others in same.items() if others & filled}
    lost = sorted(name for name in state.keys() - filled if not source.family.is_computed(name))
    for word, unfitting in (("is missing", lost), ("fits no module", sorted(kept - state.keys()))):
        if unfitting:
            raise AsrCompressError(
                f"{source.path}: {unfitting[0]} {word} ({len(unfitting)} such tensors); the file is not a whole {source.spec.family}"
            )


def _same_parameter(module: nn.Module) -> dict[str, set[str]]:
    """Every name of a parameter that has several -> all of them."""
    names: dict[int, set[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {name: group for group in names.values() if len(group) > 1 for name in group}


def as_float(tensor: Tensor) -> Tensor:
    """Floats of any width as float32; anything else as it is."""
    return tensor.float() if tensor.is_floating_point() else tensor
