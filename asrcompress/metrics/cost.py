"""Count the multiply-accumulates (MACs) that a run of a model does, by module and by operation.

Counts what torch dispatches, so fused kernels, functional calls, tied weights and integer matrices are seen; what
each operation costs is in mac_rules.py. An operation without a rule is an error, never zero. Leaves out what thop
would say (thop_convention.py), bytes, and code that never reaches torch's dispatcher (numpy, C++ called directly).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.mac_rules import RULES
from asrcompress.metrics.module_stack import ModuleStack, nothing_hidden
from asrcompress.metrics.no_macs import does_no_macs


@dataclass(frozen=True)
class MacRecord:
    """MACs of one kind of operation on operands of one kind, in one module.

    module: name in the model, "" for the model itself or outside of it. op: such as "aten.addmm".
    operand_dtypes: of the operands that are multiplied, in order, such as ("int8", "int8"); biases are not operands.
    """

    module: str
    op: str
    operand_dtypes: tuple[str, ...]
    macs: int


@dataclass(frozen=True)
class MacCount:
    """The MACs of one run. `records` holds every (module, op, operand dtypes) once, in order of first use."""

    records: tuple[MacRecord, ...]

    @property
    def total(self) -> int:
        """All MACs of the run."""
        return sum(record.macs for record in self.records)

    @property
    def by_module(self) -> dict[str, int]:
        """Innermost module -> MACs; modules that did none are absent. The values sum to `total`."""
        return self._sums("module")

    @property
    def by_op(self) -> dict[str, int]:
        """Operation -> MACs. The values sum to `total`."""
        return self._sums("op")

    @property
    def operand_dtypes(self) -> dict[str, list[str]]:
        """Innermost module -> the dtypes its MACs multiply, sorted, such as {"fc": ["int8"]}."""
        found: dict[str, set[str]] = {}
        for record in self.records:
            found.setdefault(record.module, set()).update(record.operand_dtypes)
        return {module: sorted(dtypes) for module, dtypes in found.items()}

    def _sums(self, field: str) -> dict[str, int]:
        sums: dict[str, int] = {}
        for record in self.records:
            key = getattr(record, field)
            sums[key] = sums.get(key, 0) + record.macs
        return sums


def count_macs(model: nn.Module, run: Callable[[], Any]) -> MacCount:
    """Call `run` once and count the MACs of everything it computes with torch.

    Operations are attributed to the innermost module of `model` whose call encloses them; what a method other than
    `forward` computes goes to the module around it. The inside of a ScriptModule goes to the ScriptModule. A fused
    kernel (nn.TransformerEncoderLayer in eval without gradients) goes to the module that calls it, with the same total.
    The model, its mode and the kernels chosen stay as they are; torch.compile and the TorchScript optimizer are
    switched off while counting, since they hide operations.

    Args:
        model: gives the module names.
        run: runs the model, in whatever mode is to be counted (train or eval, gradients or none).

    Raises:
        AsrCompressError: an operation has no rule, or a TorchScript graph computes out of sight; it is named.
    """
    stack = ModuleStack(model)
    counter = Counter(stack)
    with stack.watching(counter.check_script):
        counter.count(run)
    return counter.mac_count()


class Counter(TorchDispatchMode):
    """Counts while it is entered; a subclass sees every operation in `seen`."""

    def __init__(self, stack: ModuleStack) -> None:
        super().__init__()
        self.stack = stack
        self.macs: dict[tuple[str, str, tuple[str, ...]], int] = {}
        self.error: AsrCompressError | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch imports its compiler, a second of work, to keep it out of a mode; there is none while counting, see `nothing_hidden`."""
        return False

    def count(self, run: Callable[[], Any]) -> None:
        """Call `run` once under this counter, within `stack.watching`."""
        try:
            with nothing_hidden(), self:
                run()
        except Exception:
            if self.error is None:
                raise
        if self.error is not None:  # also when the model caught it and went on
            raise self.error from None

    def mac_count(self) -> MacCount:
        """What was counted so far."""
        return MacCount(tuple(MacRecord(*key, macs) for key, macs in self.macs.items()))

    def seen(self, func: Any, arguments: tuple[Any, Any], out: Any, macs: int, operand_dtypes: tuple[str, ...]) -> None:
        """Called with every operation after it has run; `arguments` are (args, kwargs)."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(func.overloadpacket)
        rule = RULES.get(name)
        if rule is not None:
            out = func(*args, **kwargs)
            try:
                macs, operand_dtypes = rule(bind(func, args, kwargs), out)
            except Exception as error:  # noqa: BLE001 - whatever a rule trips over, the user hears which operation
                self._fail(f"the MACs of {name} cannot be counted ({error})")
            key = (self.stack.innermost, name, operand_dtypes)
            self.macs[key] = self.macs.get(key, 0) + int(macs)
            self.seen(func, (args, kwargs), out, int(macs), operand_dtypes)
            return out
        if does_no_macs(func, name):
            out = func(*args, **kwargs)
            self.seen(func, (args, kwargs), out, 0, ())
            return out
        with self:  # inference mode hands over composite operations whole
            out = func.decompose(*args, **kwargs)
        if out is NotImplemented:
            self._fail(f"no rule says how many MACs {name} does")
        return out

    def check_script(self) -> None:
        """Refuse a TorchScript graph that has just run nodes which bypass the dispatcher."""
        hidden = sorted(set(_hidden_nodes(torch.jit.last_executed_optimized_graph())))
        if hidden:
            self._fail(f"the TorchScript node {hidden[0]} computes out of sight")

    def _fail(self, cause: str) -> None:
        error = AsrCompressError(
            f"{cause}; it ran in {self.stack.describe()}. Use a plain torch operation there "
            "(for TorchScript: the archive before optimize_for_inference), or add a rule to metrics/mac_rules.py"
        )
        self.error = self.error or error
        raise error


def bind(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments by their names in the schema, defaults filled in."""
    bound = {}
    for position, argument in enumerate(func._schema.arguments):
        if position < len(args):
            bound[argument.name] = args[position]
        else:
            bound[argument.name] = kwargs.get(argument.name, argument.default_value)
    return bound


def _hidden_nodes(graph: Any) -> Iterator[str]:
    for node in graph.nodes():
        kind = node.kind()
        if kind.startswith("prim::") and any(word in kind.lower() for word in ("mkldnn", "fusiongroup", "tensorexpr")):
            yield kind
        for block in node.blocks():
            yield from _hidden_nodes(block)
