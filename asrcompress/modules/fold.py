"""Folding BatchNorm into the product before it: after training it is one factor and one offset a channel.

Which BatchNorm belongs to which convolution is read from a run, not from names: a pair is folded where everything
that the convolution gives goes to this BatchNorm, as it is, and nothing else touches it (what torch dispatches is watched,
so neither a view nor an in-place operation is missed). What is left has its own integer twin, in norm.py.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from asrcompress.modules.norm import batch_norm_affine
from asrcompress.modules.twins import BATCH_NORMS, forward_class

PRODUCTS = ("torch.nn.modules.linear.Linear", "torch.nn.modules.conv.Conv1d", "torch.nn.modules.conv.Conv2d")


@dataclass
class _Use:
    """What became of a product's results: the BatchNorms that took them, and whether something else did."""

    norms: set[nn.Module] = field(default_factory=set)
    elsewhere: bool = False


def find_folds(model: nn.Module, run: Callable[[nn.Module], Any]) -> list[tuple[nn.Module, nn.Module]]:
    """(product, BatchNorm) pairs that one run of `model`, in eval mode, shows to be foldable; changes nothing.

    run: runs the model as often as it likes, on inputs that use all of it.
    """
    watch = _Watch(model)
    with ExitStack() as hooks:
        watch.attach(model, hooks)
        hooks.enter_context(watch)
        run(model)
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    pairs = []
    for product, use in watch.uses.items():
        parameters = [parameter for parameter in product._parameters.values() if parameter is not None]
        if use.elsewhere or len(use.norms) != 1 or any(owners[id(parameter)] > 1 for parameter in parameters):
            continue
        (norm,) = use.norms
        if watch.sources[norm] == {product}:
            pairs.append((product, norm))
    return pairs


def fold(model: nn.Module, pairs: list[tuple[nn.Module, nn.Module]]) -> nn.Module:
    """Put each BatchNorm's statistics, weight and bias into the product before it, in place; an Identity stays."""
    gone = {norm for _, norm in pairs}
    for product, norm in pairs:
        _fold(product, norm)
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in gone:
            model.set_submodule(name, nn.Identity())
    return model


def plain_weights(model: nn.Module) -> nn.Module:
    """Make every weight that is computed anew at each call (weight norm, spectral norm, parametrizations) a plain one, in place."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            kind = type(module)  # which a deep copy shares with the module it was copied from, and torch takes apart
            own = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
            module.__class__ = type(kind.__name__, kind.__bases__, own)
            for name, originals in list(module.parametrizations.items()):  # type: ignore[operator, union-attr]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
                if any(True for _ in originals.parameters(recurse=False)) and name not in module._parameters:
                    value = getattr(module, name).detach()  # frozen, or gradients are off: torch leaves no parameter
                    delattr(module, name)
                    module.register_parameter(name, nn.Parameter(value, requires_grad=False))
        hooks: list[Any] = list(module._forward_pre_hooks.values())
        for hook in hooks:
            remove = {"WeightNorm": remove_weight_norm, "SpectralNorm": remove_spectral_norm}.get(type(hook).__name__)
            if remove is not None:
                remove(module, hook.name)
    return model


def _fold(product: Any, norm: Any) -> None:
    factor, offset = batch_norm_affine(norm)
    weight = product.weight.detach()
    if product.bias is not None:
        offset = offset + product.bias.detach().double() * factor
    scaled = weight.double() * factor.reshape(-1, *[1] * (weight.dim() - 1))
    product.weight = nn.Parameter(scaled.to(weight.dtype), requires_grad=False)
    product.bias = nn.Parameter(offset.to(weight.dtype), requires_grad=False)


class _Watch(TorchDispatchMode):
    """Follows the results of products by their storage, until the outermost call returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.uses: dict[nn.Module, _Use] = {}
        self.sources: dict[nn.Module, set[nn.Module | None]] = {}
        self.results: dict[int, tuple[nn.Module, Tensor]] = {}  # storage -> product, and its result, kept alive
        self.inside: list[nn.Module] = []  # products and BatchNorms under way
        self.depth = 0

    def attach(self, model: nn.Module, hooks: ExitStack) -> None:
        for module in model.modules():
            hooks.callback(module.register_forward_pre_hook(self._before, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(self._after, always_call=True).remove)

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.depth += 1
        kind = forward_class(module)
        if kind in BATCH_NORMS and not module.training:
            self.sources.setdefault(module, set()).add(self._take(module, args, kwargs))
            self.inside.append(module)
        elif kind in PRODUCTS:
            self.inside.append(module)

    def _take(self, norm: nn.Module, args: Any, kwargs: Any) -> nn.Module | None:
        """The product whose result a BatchNorm is given; a view of it is a use elsewhere (see __torch_dispatch__)."""
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        product, result = self.results.get(_storage(inputs[0]), (None, None)) if len(inputs) == 1 else (None, None)
        if product is None or result is None or getattr(norm, "running_var", None) is None:
            return None
        if forward_class(product) == PRODUCTS[0] and result.dim() != 2:
            return None  # it normalises over time, not over features
        self.uses[product].norms.add(norm)
        return product

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.inside and self.inside[-1] is module:
            self.inside.pop()
        self.depth -= 1
        if forward_class(module) in PRODUCTS and isinstance(output, Tensor):
            use = self.uses.setdefault(module, _Use())
            use.elsewhere |= _storage(output) in self.results  # never twice, unless a hook handed on another's
            self.results[_storage(output)] = (module, output)
        if self.depth == 0:
            self._touch(output)  # what the model gives back is used outside of it
            self.results.clear()

    def _touch(self, value: Any) -> None:
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor) and (storage := _storage(leaf)) in self.results:
                self.uses[self.results[storage][0]].elsewhere = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        norm = self.inside[-1] if self.inside else None
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and (storage := _storage(leaf)) in self.results:
                product = self.results[storage][0]
                if norm is None or norm not in self.uses[product].norms:
                    self.uses[product].elsewhere = True
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0
