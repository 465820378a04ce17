"""Sites: the places in a model where a grid is needed, by name, the same when observing and when running.

A site is `<module>:<kind><ordinal>`: the innermost module whose call is under way, what happens there,
and the how manieth of its kind it is within that call. `input:<n>` are the model's own inputs.
Attaching puts hooks on the model's modules that keep track of the call stack and, around the outermost call,
turn features into activations and logits into floats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.integers.grid import Grid

OPERAND_KINDS = ("in", "q", "k", "v", "p", "operand")  # what products multiply: 8 bits unless told otherwise
WITHOUT_GRID = ("softmax",)  # attention's weights: their largest is always the largest code
SHOWN_ALONE = ("gates", "cell")  # of a loop over time, all steps at once: what is done to them does not go on


class Sites:
    """The call stack of a model, and its grids (running) or a recorder of values (observing).

    Args:
        grids: site -> grid, to run on integers; or None.
        record: called with (site, values) for every site with a grid that is passed, to observe; or None.
        alter: while observing, called with (site, values) for every site, after `record`: what it gives goes on instead.
        islands: modules that compute in float: codes become floats at their door and codes again behind it.
    """

    def __init__(
        self,
        *,
        grids: dict[str, Grid] | None = None,
        record: Callable[[str, Tensor], None] | None = None,
        alter: Callable[[str, Tensor], Tensor] | None = None,
        islands: frozenset[str] = frozenset(),
    ) -> None:
        self.grids, self.record, self.alter, self.islands = grids, record, alter, islands
        self.operand_bits: Callable[[str], int] = lambda site: 8  # of operands that need no grid: softmax's weights
        self.stack: list[tuple[str, dict[str, int]]] = []
        self.outside: dict[str, int] = {}

    @property
    def observing(self) -> bool:
        """Whether values are recorded; otherwise the model runs on integers."""
        return self.record is not None

    @property
    def module_name(self) -> str:
        """The innermost module under way; "" for the model itself or outside of it."""
        return self.stack[-1][0] if self.stack else ""

    def next_site(self, kind: str) -> str:
        """The name of the site that is passed now."""
        name, counts = self.stack[-1] if self.stack else ("", self.outside)
        ordinal = counts.get(kind, 0)
        counts[kind] = ordinal + 1
        return f"{name}:{kind}{ordinal or ''}"

    def observe(self, site: str, values: Tensor) -> Tensor:
        """Values that pass a site while observing, with their gradients: shown to the recorder; gives what goes on from there."""
        if self.record is not None and kind_of(site) not in WITHOUT_GRID:
            self.record(site, values)
        return values if self.alter is None else self.alter(site, values)

    def knows(self, site: str) -> bool:
        """Whether a site is the model's to pass. Outside of its modules search and scores begin: what no grid is for is floats there."""
        return bool(self.stack) or site in (self.grids or {})

    def grid(self, site: str) -> Grid:
        """The grid of a site.

        Raises:
            AsrCompressError: calibration never came by here.
        """
        found = (self.grids or {}).get(site)
        if found is None:
            raise AsrCompressError(
                f"{site}: has no grid, since calibration never ran it; calibrate with data that use all of the model"
            )
        return found

    def attach(self, model: nn.Module) -> nn.Module:
        """Put the hooks on every module of `model`, and let its twins make their constants, anew when it moves to another device.

        The hooks belong to these very modules: the model cannot be copied.
        """
        for name, module in model.named_modules():
            self._attach(name, module, model)
        plain_apply = model._apply

        def apply(function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
            plain_apply(function, recurse)
            self._fix(model)
            return model

        model._apply, model.__deepcopy__ = apply, _refuse_copy  # type: ignore[assignment]
        self._fix(model)
        return model

    def _fix(self, model: nn.Module) -> None:
        grids = self.grids
        if grids is None:
            return
        for name, module in model.named_modules():
            if hasattr(module, "fix"):
                module.fix(lambda kind, name=name: grids.get(f"{name}:{kind}"))  # type: ignore[operator]

    def _attach(self, name: str, module: nn.Module, root: nn.Module) -> None:
        from asrcompress.integers import tensor

        plain_forward, called = module.forward, False

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal called
            if not called:  # Fairseq's search calls forward itself; so the hooks run all the same
                return module(*args, **kwargs)
            called = False
            return plain_forward(*args, **kwargs)

        def before(_: nn.Module, args: Any, kwargs: Any) -> Any:
            nonlocal called
            called = True
            outermost = not self.stack
            self.stack.append((name, {}))
            if outermost:
                self.outside.clear()
                return tensor.enter(self, args, kwargs)
            if name in self.islands:
                return tensor.as_floats(args), tensor.as_floats(kwargs)
            return None

        def after(child: nn.Module, args: Any, output: Any) -> Any:
            nonlocal called
            called = False  # also where forward was never reached
            if name in self.islands and output is not None:
                output = tensor.from_floats(self, output)
            self.stack.pop()
            if child is root and not self.stack and output is not None:
                return tensor.leave_output(output)
            return output

        module.sites, module.forward = self, forward  # type: ignore[assignment]
        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_hook(after, always_call=True)


def _refuse_copy(memo: Any) -> None:
    raise AsrCompressError("a model of level integer-only cannot be copied; load its artifact again, or swap again")


def kind_of(site: str) -> str:
    """The kind of a site, without its number or layer: `in` of `gru:in_l0`."""
    return site.rpartition(":")[2].rstrip("0123456789").partition("_")[0]


def is_operand(site: str) -> bool:
    """Whether a site's codes are multiplied by others."""
    return kind_of(site) in OPERAND_KINDS
