"""Folding BatchNorm: exact where the data flow allows it, and not done where it does not."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from asrcompress.modules.fold import find_folds, fold, plain_weights

X = torch.randn(3, 4, 11, 9, generator=torch.Generator().manual_seed(1))


def warm(model: nn.Module, x: torch.Tensor = X) -> nn.Module:
    """A model whose BatchNorms have statistics and weights of their own, in eval mode."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias)
    model.train()
    for _ in range(3):
        model(x * torch.rand(1) * 3 + 1)
    return model.eval()


def folded(model: nn.Module, x: torch.Tensor = X) -> tuple[nn.Module, list[str]]:
    """(a folded copy, the names of the BatchNorms that are gone)."""
    names = {module: name for name, module in model.named_modules()}
    pairs = find_folds(model, lambda m: m(x))
    gone = [names[norm] for _, norm in pairs]
    other = copy.deepcopy(model)
    return fold(other, find_folds(other, lambda m: m(x))), sorted(gone)


def conv(**options: object) -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1, **options)  # type: ignore[arg-type]


class Net(nn.Module):
    """Modules with names that say nothing, and a forward of choice."""

    def __init__(self, flow, **parts: nn.Module) -> None:
        super().__init__()
        self.flow = flow
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.flow(self, x)


FOLDABLE = {
    "plain": nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU()),
    "without bias, grouped and dilated": nn.Sequential(conv(bias=False, groups=2, dilation=2), nn.BatchNorm2d(4)),
    "without weight and bias": nn.Sequential(conv(), nn.BatchNorm2d(4, affine=False)),
    "apart in name, last in the model": Net(lambda m, x: m.a(m.z(x)), a=nn.BatchNorm2d(4), z=conv()),
    "the same pair twice": Net(lambda m, x: m.b(m.a(m.b(m.a(x)).relu())), a=conv(), b=nn.BatchNorm2d(4)),
    "one dimension": nn.Sequential(nn.Flatten(2), nn.Conv1d(4, 6, 5, stride=2), nn.BatchNorm1d(6)),
    "linear": nn.Sequential(nn.Flatten(1), nn.Linear(396, 5), nn.BatchNorm1d(5)),
    "in place after": nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
}


@pytest.mark.parametrize("model", FOLDABLE.values(), ids=FOLDABLE.keys())
def test_a_folded_model_is_the_float_model(model: nn.Module) -> None:
    warm(model)
    before = model(X)
    other, gone = folded(model)
    assert len(gone) == 1 and not any("BatchNorm" in type(module).__name__ for module in other.modules())
    assert (other(X) - before).abs().max() < 2e-5 * before.abs().max()
    assert torch.equal(model(X), before)  # which is left as it is


def _residual(m, x):
    y = m.a(x)
    return m.b(y) + y


def _in_place(m, x):
    y = m.a(x)
    F.relu_(y)
    return m.b(y)


def _view_first(m, x):
    y = m.a(x)
    z = y.flatten(2).mean()
    return m.b(y) * z


def _returned(m, x):
    y = m.a(x)
    return m.b(y), {"features": [y]}


def _two_sources(m, x):
    return m.b(m.a(x)) + m.b(m.c(x))


def _second_norm(m, x):
    y = m.a(x)
    return m.b(y) + m.c(y)


def _changed_before(m, x):
    return m.b(m.a(x) * 2)


def _also_multiplied(m, x):
    y = m.a(x)
    return m.b(y) + m.c(y)


def norm() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(4)


def tied(m, x):
    return m.c(m.b(m.a(x)))


def _tied_weights() -> nn.Module:
    model = Net(tied, a=conv(), b=norm(), c=conv())
    model.c.weight = model.a.weight
    return model


NOT_FOLDABLE = {
    "its input is added, too": Net(_residual, a=conv(), b=norm()),
    "changed in place before": Net(_in_place, a=conv(), b=norm()),
    "a view is used": Net(_view_first, a=conv(), b=norm()),
    "handed out": Net(_returned, a=conv(), b=norm()),
    "two products, one norm": Net(_two_sources, a=conv(), b=norm(), c=conv()),
    "one product, two norms": Net(_second_norm, a=conv(), b=norm(), c=norm()),
    "not what the product gave": Net(_changed_before, a=conv(), b=norm()),
    "another product takes it, too": Net(_also_multiplied, a=conv(), b=norm(), c=conv()),
    "norm first": Net(lambda m, x: m.a(m.b(x)), a=conv(), b=norm()),
    "a product between": Net(lambda m, x: m.b(m.c(m.a(x)).relu()), a=conv(), b=norm(), c=conv()),
    "weights tied to another module's": _tied_weights(),
    "over time, not features": Net(lambda m, x: m.b(m.a(x.flatten(2))), a=nn.Linear(99, 4), b=nn.BatchNorm1d(4)),
    "statistics of the batch": Net(lambda m, x: m.b(m.a(x)), a=conv(), b=nn.BatchNorm2d(4, track_running_stats=False)),
}


@pytest.mark.parametrize("model", NOT_FOLDABLE.values(), ids=NOT_FOLDABLE.keys())
def test_what_cannot_be_folded_stays(model: nn.Module) -> None:
    warm(model)
    _, gone = folded(model)
    assert gone == []


def test_a_pair_among_others_is_found_by_what_flows() -> None:
    model = warm(Net(lambda m, x: m.d(m.b(m.a(x)) + m.c(x)) + m.c(x), a=conv(), b=norm(), c=conv(), d=norm()))
    before = model(X)
    other, gone = folded(model)
    assert gone == ["b"] and isinstance(other.d, nn.BatchNorm2d) and isinstance(other.b, nn.Identity)
    torch.testing.assert_close(other(X), before, rtol=1e-4, atol=1e-4)


def test_all_names_of_a_norm_are_replaced_and_no_hook_is_left() -> None:
    part = norm()
    model = warm(Net(lambda m, x: m.b(m.a(x)), a=conv(), b=part, also=part))
    other, _ = folded(model)
    assert isinstance(other.b, nn.Identity) and isinstance(other.also, nn.Identity)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in [*model.modules(), *other.modules()])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_norms_of_weights_become_plain_weights() -> None:
    model = nn.Sequential(
        nn.utils.weight_norm(conv()),
        parametrizations.weight_norm(conv(), dim=2),
        parametrizations.spectral_norm(conv()),
    ).eval()
    before = model(X)
    assert {name for name, _ in plain_weights(model).named_parameters()} == {
        f"{index}.{kind}" for index in range(3) for kind in ("weight", "bias")
    }
    torch.testing.assert_close(model(X), before)
