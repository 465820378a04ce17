"""Running a model again with a few modules changed, without computing what comes before the first of them.

A reference run is recorded: when each module starts and ends, and what blocks give back. In a run with changes every
block that had ended before the first changed module started gives its kept output, bit for bit what it would compute.
Blocks are members of ModuleLists, modules with twins outside of those, and the modules around either, such as an encoder.
A block that is called several times, or is handed what it could write to (a decoder's incremental state), is not kept.
Two passes over one batch, a loss and a search, share what the model and its children compute from the same arguments.
Knows no family: only the order of calls counts.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.integers.lengths import LengthTensor, lengths
from asrcompress.integers.tensor import Activation
from asrcompress.modules.swap import swappable_modules

LIMIT_BYTES = 2**30
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)  # are never called


@dataclass
class _Call:
    """Calls of one module in a recorded pass: when the first started and ended, how many there were, and what it gave."""

    start: int
    end: int | None = None
    count: int = 1
    output: Any = None
    size_bytes: int = 0
    is_kept: bool = False


@dataclass
class _Pass:
    """A recorded pass over a batch."""

    calls: dict[nn.Module, _Call] = field(default_factory=dict)
    clock: int = 0

    def tick(self) -> int:
        self.clock += 1
        return self.clock


class PrefixCache:
    """Wraps `forward` of a model's modules until `close`.

    Args:
        model: in eval mode; from run to run of a batch nothing but its weights differs. Gradients are not taken.
        limit_bytes: of kept outputs. What comes when it is reached runs in full.
        blocks: whose outputs are kept, by name; `find_blocks` of a float model. For its twins, which are no longer found.
    """

    def __init__(
        self, model: nn.Module, *, limit_bytes: int = LIMIT_BYTES, blocks: Collection[str] | None = None
    ) -> None:
        self.model, self.limit_bytes, self.size_bytes = model, limit_bytes, 0
        self._blocks = {model.get_submodule(name) for name in (find_blocks(model) if blocks is None else blocks)}
        self._shared = {model, *model.children()}
        self._passes: dict[tuple[Hashable, Hashable], _Pass] = {}
        self._number: Hashable = None  # of the batch under way
        self._changed: Collection[str] | None = None
        self._memo: list[tuple[nn.Module, Any, Any]] = []  # its calls of shared modules: arguments, output
        self._is_running = False
        self._recording: _Pass | None = None
        self._replaying: _Pass | None = None
        self._first = 0  # the start of the first changed module, in the pass that is replayed
        self._called: set[nn.Module] = set()
        self._own_forward: dict[nn.Module, Any] = {}
        for module in model.modules():
            if not isinstance(module, CONTAINERS):
                self._wrap(module)

    def close(self) -> None:
        """Take the wrappers off and forget what was kept."""
        for module, own in self._own_forward.items():
            if own is None:
                del module.forward
            else:
                module.forward = own
        self._own_forward.clear()
        self._passes.clear()
        self.size_bytes = 0

    @contextmanager
    def batch(self, number: Hashable, changed: Collection[str] | None = None) -> Iterator[None]:
        """One batch: recorded where `changed` is None, else run with these modules changed, by name."""
        self._number, self._changed, self._memo = number, changed, []
        try:
            yield
        finally:
            self._number, self._changed, self._memo = None, None, []

    @contextmanager
    def run(self, name: Hashable) -> Iterator[None]:
        """One pass over the batch under way, such as a loss. Where it was not recorded it runs in full."""
        key, recorded = (self._number, name), False
        if self._changed is None:
            self._forget(key)
            self._recording = _Pass()
        elif key in self._passes:
            self._replaying = self._passes[key]
            self._first = min((self._start(name) for name in self._changed), default=self._replaying.clock + 1)
        self._called, self._is_running = set(), True
        try:
            yield
            recorded = self._recording is not None
        finally:
            if self._recording is not None:
                self._passes[key] = self._recording
                if not recorded:  # it broke off
                    self._forget(key)
            self._recording, self._replaying, self._is_running = None, None, False

    def num_calls(self, number: Hashable, name: Hashable) -> int:
        """How often the model itself was called in a recorded pass over a batch."""
        call = self._passes[number, name].calls.get(self.model)
        return 0 if call is None else call.count

    def _start(self, name: str) -> int:
        """When a module is first called in the pass that is replayed; where it never is, the innermost around it that is."""
        assert self._replaying is not None  # noqa: S101 (for the type checker)
        while name:
            call = self._replaying.calls.get(self.model.get_submodule(name))
            if call is not None:
                return call.start
            name = name.rpartition(".")[0]
        return 0

    def _forget(self, key: tuple[Hashable, Hashable]) -> None:
        old = self._passes.pop(key, _Pass())
        self.size_bytes -= sum(call.size_bytes for call in old.calls.values())

    def _wrap(self, module: nn.Module) -> None:
        plain, inside = module.forward, False

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside or not self._is_running:  # inside: hooks of integers/sites.py call a module from its own forward
                return plain(*args, **kwargs)
            found, output = self._find(module, (args, kwargs))
            if found:
                return output
            given = self._before(module, (args, kwargs))
            inside = True
            try:
                output = plain(*args, **kwargs)
            finally:
                inside = False
            self._after(module, (args, kwargs), given, output)
            return output

        self._own_forward[module] = vars(module).get("forward")
        module.forward = forward  # type: ignore[method-assign]

    def _find(self, module: nn.Module, arguments: Any) -> tuple[bool, Any]:
        """Whether the output of a call is known, and a copy of it."""
        if self._replaying is not None and module not in self._called:
            self._called.add(module)
            call = self._replaying.calls.get(module)
            if call is not None and call.is_kept and (call.end or 0) < self._first:
                return True, copied(call.output)
        for other, given, output in self._memo if module in self._shared else ():
            if other is module and _same(given, arguments):
                if self._recording is not None:
                    self._end(self._begin(module), output)
                return True, copied(output)
        return False, None

    def _before(self, module: nn.Module, arguments: Any) -> Any:
        """What `_after` needs: the call in the record, the arguments' versions, and a copy of them where the call may be shared."""
        call = self._begin(module) if self._recording is not None else None
        versions = copy = None
        if module in self._shared or (call is not None and module in self._blocks):
            versions = _versions(arguments)
        if module in self._shared and versions is not None:
            copy = copied(arguments)
        return call, versions, copy

    def _after(self, module: nn.Module, arguments: Any, given: Any, output: Any) -> None:
        call, versions, copy = given
        untouched = versions is not None and versions == _versions(arguments) and is_plain(output)
        if call is not None:
            self._end(call, output if untouched and module in self._blocks else None)
        if copy is not None and untouched:
            self._memo.append((module, copy, copied(output)))

    def _begin(self, module: nn.Module) -> _Call:
        assert self._recording is not None  # noqa: S101 (for the type checker)
        start = self._recording.tick()
        call = self._recording.calls.get(module)
        if call is None:
            call = self._recording.calls[module] = _Call(start)
            return call
        self.size_bytes -= call.size_bytes
        call.count, call.output, call.size_bytes, call.is_kept = call.count + 1, None, 0, False
        return call

    def _end(self, call: _Call, output: Any) -> None:
        """Note the end of a first call, and keep its output where there is one and it fits."""
        assert self._recording is not None  # noqa: S101 (for the type checker)
        if call.count > 1:
            return
        call.end = self._recording.tick()
        size = 0 if output is None else size_bytes(output)
        if output is not None and self.size_bytes + size <= self.limit_bytes:
            call.output, call.size_bytes, call.is_kept = copied(output), size, True
            self.size_bytes += size


def find_blocks(model: nn.Module) -> list[str]:
    """Names of the modules whose outputs are worth keeping; never the model itself."""
    names: list[str] = []
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not (inside and name.startswith(inside)):
            members = [f"{name}.{child}" if name else child for child, _ in module.named_children()]
            names, inside = names + members, (*inside, *(f"{member}." for member in members))
    names += [
        name for name, _, _ in swappable_modules(model) if name and not (inside and f"{name}.".startswith(inside))
    ]
    around = {name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)}
    return sorted({*names, *around})


def is_plain(value: Any) -> bool:
    """Whether a call's arguments or result are tensors without gradients, numbers, text, None and containers of them."""
    if isinstance(value, Tensor):
        known = type(value) is Tensor or isinstance(value, Activation | LengthTensor)
        return known and not value.requires_grad
    if isinstance(value, dict):
        return type(value) is dict and all(is_plain(item) for item in value.values())
    if isinstance(value, tuple | list):
        return type(value) in (tuple, list) and all(is_plain(item) for item in value)
    return value is None or isinstance(value, int | float | str)


def copied(value: Any) -> Any:
    """Plain values with every tensor as a copy of the same layout: kernels that look at strides give the same digits."""
    if isinstance(value, Activation):
        return value.like(_copy(value.payload))
    if isinstance(value, LengthTensor):
        return lengths(_copy(value.as_subclass(Tensor)), value.denominator)
    if isinstance(value, Tensor):
        return _copy(value)
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(copied(item) for item in value)
    return value


def size_bytes(value: Any) -> int:
    """Bytes of the tensors in plain values."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(size_bytes(item) for item in value.values())
    return sum(size_bytes(item) for item in value) if isinstance(value, tuple | list) else 0


def _copy(x: Tensor) -> Tensor:
    if 0 in x.stride() or x.numel() == 0:  # expanded: several elements in one place
        return x.clone()
    return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device=x.device).copy_(x)


def _versions(arguments: tuple[Any, dict[str, Any]]) -> list[int] | None:
    """How often each tensor was written to; None where a call could write to something else, or takes gradients."""
    args, kwargs = arguments
    found: list[int] = []
    for value in (*args, *kwargs.values()):
        values = value if type(value) is tuple else (value,)
        if not is_plain(values) or any(isinstance(item, dict | list | tuple) for item in values):
            return None
        with torch._C.DisableTorchFunctionSubclass():
            found += [item._version for item in values if isinstance(item, Tensor) and not item.is_inference()]
    return found


def _same(one: Any, other: Any) -> bool:
    """Whether plain arguments are equal, bit for bit."""
    if isinstance(one, Tensor):
        if not isinstance(other, Tensor) or type(one) is not type(other) or one.dtype != other.dtype:
            return False
        with torch._C.DisableTorchFunctionSubclass():
            return one.stride() == other.stride() and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict) and one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
        )
    if isinstance(one, tuple):
        return isinstance(other, tuple) and len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)
