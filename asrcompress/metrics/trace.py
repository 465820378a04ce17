"""One run of a model, operation by operation: which modules it ran in, on what dtypes, and with how many MACs.

What torch dispatches is recorded, so neither a functional call past a module nor a float between two integers is
missed. Says, too, where the run crosses between floats and integers. Does not judge (honesty.py does), and cannot see
what never reaches torch's dispatcher: numpy, and Python numbers once they were read out of a tensor. The read-outs
themselves (`.item()`, `if tensor:`) are listed as `aten._local_scalar_dense`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from asrcompress.metrics.cost import Counter, MacCount, bind
from asrcompress.metrics.module_stack import ModuleStack

ENTER, LEAVE = "asrcompress.enter_integers", "asrcompress.leave_integers"
# The arguments that a MAC operation multiplies, by their names in its schema; the first set that is there.
OPERANDS = (
    ("mat1", "mat2"), ("batch1", "batch2"), ("mat", "vec"), ("vec1", "vec2"), ("input", "weight"), ("self", "weight"),
    ("self", "mat2"), ("self", "vec"), ("self", "tensor"), ("self", "other"), ("query", "key"),
)  # fmt: skip


@dataclass
class OpRecord:
    """Every call of one operation on tensors of the same dtypes in the same module.

    module: innermost module under way, "" for the model itself; kind: its class. inside: whether any module of the
    model was under way at all. input_dtypes, output_dtypes: of all tensors, in order. operand_dtypes: of what is
    multiplied, () where nothing is. parameter: whether one of these is a parameter of the model, or a view of one.
    operand_bits: bits that the largest integer operand needs in two's complement,
    None unless integers are multiplied. sum_bits: bits that the sums of these products may need, by the largest
    magnitudes seen. floats: why this is a float operation, "" where it is none. shape: of the first call's result.
    """

    module: str
    kind: str
    op: str
    inside: bool
    input_dtypes: tuple[str, ...]
    output_dtypes: tuple[str, ...]
    operand_dtypes: tuple[str, ...]
    floats: str
    parameter: bool
    shape: tuple[int, ...]
    calls: int = 0
    macs: int = 0
    operand_bits: int | None = None
    sum_bits: int | None = None


@dataclass(frozen=True)
class Crossing:
    """One place where a run enters integers or leaves them. fault: "" where it is at the border of the model."""

    module: str
    op: str
    shape: tuple[int, ...]
    num_bits: int | None
    fault: str


@dataclass(frozen=True)
class Trace:
    """What one run did.

    lookups: storage of a module's `codes` -> modules under way when rows were looked up there.
    parameters: names of the parameters that any operation took in.
    """

    ops: tuple[OpRecord, ...]
    crossings: tuple[Crossing, ...]
    lookups: dict[int, frozenset[str]]
    parameters: frozenset[str]
    macs: MacCount

    @property
    def float_ops(self) -> list[OpRecord]:
        """The float operations inside of the model, crossings at its border aside."""
        return [record for record in self.ops if record.floats and record.inside]


def trace_run(model: nn.Module, run: Callable[[], Any]) -> Trace:
    """Call `run` once and record every operation it dispatches.

    Operations outside of all of the model's modules (a search over its outputs) are recorded with `inside` False.
    The float tensors handed to the first outermost call that is given any are the run's inputs: only they may enter.

    Raises:
        AsrCompressError: an operation whose MACs no rule knows, as in cost.count_macs.
    """
    stack = ModuleStack(model)
    tracer = _Tracer(stack)
    with stack.watching(tracer.check_script), stack.direct_calls(tracer.outermost):
        tracer.count(run)
    lookups = {pointer: frozenset(names) for pointer, names in tracer.lookups.items()}
    parameters = frozenset(
        name for name, parameter in model.named_parameters(remove_duplicate=False) if _pointer(parameter) in tracer.used
    )
    ops, crossings = tuple(tracer.ops.values()), tuple(tracer.crossings.values())
    return Trace(ops, crossings, lookups, parameters, tracer.mac_count())


class _Tracer(Counter):
    def __init__(self, stack: ModuleStack) -> None:
        super().__init__(stack)
        self.ops: dict[tuple[Any, ...], OpRecord] = {}
        self.crossings: dict[tuple[Any, ...], Crossing] = {}
        self.inputs: list[Tensor] = []  # held, so that no other tensor gets their storage
        self.left: list[Tensor] = []
        self.parameters = {
            _pointer(parameter) for module in stack.modules.values() for parameter in module._parameters.values()
            if parameter is not None
        } - {0}  # fmt: skip
        self.used: set[int] = set()
        self.lookups: dict[int, set[str]] = {
            pointer: set() for module in stack.modules.values() if (pointer := codes_pointer(module))
        }

    def outermost(self, arguments: Any) -> None:
        """Remember the float tensors that the model is given from outside."""
        if not self.inputs:
            with torch._C.DisableTorchFunctionSubclass():
                self.inputs = [tensor for tensor in _tensors(arguments) if is_float(tensor.dtype)]

    def seen(self, func: Any, arguments: tuple[Any, Any], out: Any, macs: int, operand_dtypes: tuple[str, ...]) -> None:
        """Record one operation that has run."""
        with torch._C.DisableTorchFunctionSubclass():  # a subclass must not answer for its tensor
            self._record(func, arguments, out, macs, operand_dtypes)

    def _record(
        self, func: Any, arguments: tuple[Any, Any], out: Any, macs: int, operand_dtypes: tuple[str, ...]
    ) -> None:
        name, stack = str(func.overloadpacket), self.stack
        inputs, outputs = list(_tensors(arguments)), list(_tensors(out))
        pointers = {_pointer(tensor) for tensor in inputs}
        for pointer in pointers & self.lookups.keys():
            if name in LOOKUPS:
                self.lookups[pointer].update(stack.open)
        if name in (ENTER, LEAVE):
            self._cross(name, bind(func, *arguments), inputs[0], outputs[0])
        floats = "" if name in (ENTER, LEAVE) else _why_float(func, arguments, inputs, outputs)
        if pointers & {_pointer(tensor) for tensor in self.left}:
            self._used_again(name)
        self.used |= pointers & self.parameters
        owned = bool(macs) and not pointers.isdisjoint(self.parameters)
        key = (
            stack.innermost,
            name,
            bool(stack.open),
            _dtypes(inputs),
            _dtypes(outputs),
            operand_dtypes,
            floats,
            owned,
        )
        if key not in self.ops:
            shape = tuple(outputs[0].shape) if outputs else ()
            kind = type(stack.modules[stack.innermost]).__name__
            self.ops[key] = OpRecord(stack.innermost, kind, name, *key[2:], shape)
        record = self.ops[key]
        record.calls += 1
        record.macs += macs
        if macs and not floats:
            bits, sum_bits = _operand_bits(bind(func, *arguments), macs, outputs[0].numel())
            record.operand_bits = max(bits, record.operand_bits or 0)
            record.sum_bits = max(sum_bits, record.sum_bits or 0)

    def _cross(self, name: str, arguments: dict[str, Any], before: Tensor, after: Tensor) -> None:
        fault = ""
        if name == LEAVE:
            self.left.append(after)
        elif _pointer(before) in {_pointer(tensor) for tensor in self.left}:
            fault = "enters again what left the integers before"
        elif _pointer(before) not in {_pointer(tensor) for tensor in self.inputs}:
            fault = "its float input is none of the model's own inputs"
        self._add_crossing(name, tuple(before.shape), arguments.get("num_bits"), fault)

    def _used_again(self, op: str) -> None:
        if self.stack.open:
            shape = tuple(self.left[-1].shape)
            self._add_crossing(LEAVE, shape, None, f"the floats that left are used again, by {op}")

    def _add_crossing(self, name: str, shape: tuple[int, ...], num_bits: int | None, fault: str) -> None:
        module = self.stack.innermost
        self.crossings.setdefault((module, name, num_bits, fault), Crossing(module, name, shape, num_bits, fault))


LOOKUPS = frozenset({"aten.index", "aten.embedding", "aten.index_select", "aten.gather", "aten.take"})


def is_float(dtype: torch.dtype) -> bool:
    """Floating-point, complex, or torch's own quantized dtypes, whose kernels rescale by floats."""
    return dtype.is_floating_point or dtype.is_complex or str(dtype).removeprefix("torch.").startswith(("q", "uq"))


def codes_pointer(module: nn.Module) -> int:
    """The storage of a packed weight's codes; 0 where a module is none: one has `codes`, and `num_bits` that it claims."""
    codes = module._buffers.get("codes")
    return _pointer(codes) if codes is not None and hasattr(module, "num_bits") else 0


def _why_float(func: Any, arguments: tuple[Any, Any], inputs: list[Tensor], outputs: list[Tensor]) -> str:
    if any(is_float(tensor.dtype) for tensor in inputs):
        return "float input"
    if any(is_float(tensor.dtype) for tensor in outputs):
        return "float output"
    if torch.Tag.pointwise in func.tags and any(isinstance(leaf, float) for leaf in tree_leaves(arguments)):
        return "float number"
    return ""


def _operand_bits(arguments: dict[str, Any], macs: int, num_outputs: int) -> tuple[int, int]:
    """Bits of two's complement that the operands, and any sum of their products, need."""
    names = next(names for names in OPERANDS if all(isinstance(arguments.get(name), Tensor) for name in names))
    bits, largest = 1, [1, 1]
    for position, name in enumerate(names):
        operand = arguments[name]
        if operand.numel():
            low, high = (int(value) for value in torch.aminmax(operand))
            bits = max(bits, 1 + (~low if low < 0 else 0).bit_length(), 1 + max(high, 0).bit_length())
            largest[position] = max(abs(low), abs(high), 1)
    per_output = -(-macs // max(num_outputs, 1))
    return bits, 1 + (largest[0] * largest[1] * per_output).bit_length()


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _dtypes(tensors: list[Tensor]) -> tuple[str, ...]:
    return tuple(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)


def _pointer(tensor: Tensor) -> int:
    """Identifies a tensor's storage while it lives; 0 where it has none (empty, nested, opaque)."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0
