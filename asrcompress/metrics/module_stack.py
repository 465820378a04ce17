"""Which modules of a model are being called at this moment; what a trace attributes operations to.

Hooks see a module that is called; `direct_calls` sees, besides, a `forward` that is called past the module's
`__call__`, as Fairseq's sequence generator does with encoder and decoder. Counts and records nothing itself.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


class ModuleStack:
    """The names of the modules whose calls are under way, innermost last."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.names = {id(module): name for name, module in self.modules.items()}
        self.open: list[str] = []

    @property
    def innermost(self) -> str:
        """The innermost module's name; "" is the model itself, or outside of it (see `open`)."""
        return self.open[-1] if self.open else ""

    def describe(self) -> str:
        """The innermost module with its class, for messages."""
        name = self.innermost
        kind = type(self.modules[name]).__name__
        return f"module '{name}' ({kind})" if name else f"the model itself ({kind})"

    @contextmanager
    def watching(self, after_script: Callable[[], None]) -> Iterator[None]:
        """Follow calls in this thread; `after_script` is called when a ScriptModule has run."""
        # Hooks on all modules rather than on this model's: a module with hooks of its own loses torch's fast paths.
        thread = threading.get_ident()

        def enter(module: nn.Module, args: Any) -> None:
            if id(module) in self.names and threading.get_ident() == thread:
                self.open.append(self.names[id(module)])

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if threading.get_ident() != thread:
                return
            try:
                if isinstance(module, torch.jit.ScriptModule) and output is not None:
                    after_script()
            finally:
                name = self.names.get(id(module))
                if name in self.open:  # whatever was left open inside, by an exception, closes with it
                    del self.open[len(self.open) - 1 - self.open[::-1].index(name) :]

        handles = [
            register_module_forward_pre_hook(enter),
            register_module_forward_hook(leave, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def direct_calls(self, on_outermost: Callable[[Any], None]) -> Iterator[None]:
        """Follow calls of `forward` itself, too; `on_outermost` sees the arguments of calls from outside the model.

        Within `watching`. ScriptModules keep their own forward. Every module is left as it was.
        """
        before: list[tuple[nn.Module, Any]] = []
        handles = []

        def called(module: nn.Module, args: Any, kwargs: Any) -> None:  # `watching` has entered it
            if len(self.open) == 1:
                on_outermost((args, kwargs))

        for name, module in self.modules.items():
            if not isinstance(module, torch.jit.ScriptModule):
                before.append((module, module.__dict__.get("forward")))
                module.__dict__["forward"] = self._followed(name, module.forward, on_outermost)
                # first of the module's hooks: the others may replace its arguments
                handles.append(module.register_forward_pre_hook(called, with_kwargs=True, prepend=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module, forward in before:
                if forward is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = forward

    def _followed(self, name: str, forward: Callable, on_outermost: Callable[[Any], None]) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            depth = len(self.open)
            if not self.open or self.open[-1] != name:  # called past __call__, whose hook would have entered it
                self.open.append(name)
                if depth == 0:
                    on_outermost((args, kwargs))
            try:
                return forward(*args, **kwargs)
            finally:
                del self.open[depth:]

        return call


@contextmanager
def nothing_hidden() -> Iterator[None]:
    """torch.compile and the TorchScript optimizer switched off: they hide operations from the dispatcher."""
    compiled = "torch._dynamo" in sys.modules  # imported by whoever compiled something
    with torch.jit.optimized_execution(False), torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        yield
