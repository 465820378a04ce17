"""Names of sites, the call stack behind them, and the border around the outermost call."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from asrcompress.errors import AsrCompressError
from asrcompress.integers.grid import Grid
from asrcompress.integers.lengths import LengthTensor
from asrcompress.integers.sites import Sites, is_operand
from asrcompress.integers.tensor import GridTensor, ObservedTensor, point
from tests.fixtures.static import floats, static_pair

GRID = Grid(0.25, 0, 16)


class Inner(nn.Module):
    def forward(self, x, fail=False):
        if fail:
            raise RuntimeError("inner")
        return x + x + point(x, "q")


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Inner(), Inner()

    def forward(self, x, *, direct=False, fail=False):
        y = self.a.forward(x) if direct else self.a(x)
        return self.b(y, fail=fail) + 1


def recorded(run, **options):
    seen = []
    model = Sites(record=lambda site, values: seen.append(site), **options).attach(Outer())
    return run(model), seen


NAMES = [":input", "a:add", "a:q", "a:add1", "b:add", "b:q", "b:add1", ":add"]


@pytest.mark.parametrize("direct", [False, True])
def test_sites_are_named_by_module_kind_and_ordinal_however_forward_is_called(direct):
    _, seen = recorded(lambda model: (model(torch.ones(2), direct=direct), model(torch.ones(2), direct=direct)))
    assert seen == NAMES * 2


def test_floats_come_out_when_observing_and_when_running():
    x = torch.tensor([1.0, -2.0])
    observed, _ = recorded(lambda model: model(x))
    model = Sites(grids=dict.fromkeys(NAMES, GRID)).attach(Outer())
    for found in (observed, model(x)):
        assert type(found) is torch.Tensor
        assert found.tolist() == [10.0, -17.0]


def test_a_module_called_by_itself_is_outermost_and_keeps_its_name():
    model = Sites(grids=dict.fromkeys([":input", *NAMES], GRID)).attach(Outer())
    found = model.a(torch.ones(2))
    assert isinstance(found, GridTensor)  # the search goes on with codes
    assert floats(found).tolist() == [3, 3]


def test_an_error_inside_leaves_nothing_on_the_stack():
    model = Sites(grids=dict.fromkeys(NAMES, GRID)).attach(Outer())
    with pytest.raises(RuntimeError, match="inner"):
        model(torch.ones(2), fail=True)
    assert model.sites.stack == []
    assert model(torch.ones(2), direct=True).tolist() == [10.0, 10.0]


def test_an_error_at_the_door_leaves_nothing_behind():
    sites = Sites(grids={name: GRID for name in NAMES if name != ":input"})
    model = sites.attach(Outer())
    with pytest.raises(AsrCompressError, match="^:input: has no grid"):
        model(torch.ones(2))
    assert sites.stack == []
    sites.grids[":input"] = GRID
    assert model.forward(torch.ones(2)).tolist() == [10.0, 10.0]


def test_an_island_computes_in_float_between_codes():
    types = []

    class Island(Inner):
        def forward(self, x, fail=False):
            types.append(type(x))
            return x**2

    class Holder(Outer):
        def __init__(self):
            super().__init__()
            self.a = Island()

    sites = Sites(grids=dict.fromkeys([*NAMES, "a:out"], GRID), islands=frozenset({"a"}))
    model = sites.attach(Holder())
    assert model(torch.tensor([-3.0])).tolist() == [28.0]
    assert types == [torch.Tensor]


def test_lengths_and_other_arguments_at_the_door():
    class Model(nn.Module):
        def forward(self, x, lengths, mask, tokens, extra=None):
            return (x, [type(y) for y in (x, lengths, mask, tokens)], extra)

    model = Sites(record=lambda site, values: None).attach(Model())
    x, n, mask, tokens = (
        torch.ones(2, 3),
        torch.tensor([3, 2]),
        torch.ones(2, 3, dtype=torch.bool),
        torch.ones(2, 3, dtype=torch.int64),
    )
    state = {}
    out, types, extra = model(x, n, mask, tokens, extra=state)
    assert types == [ObservedTensor, LengthTensor, torch.Tensor, torch.Tensor]
    assert extra is state
    assert type(out) is torch.Tensor


@pytest.mark.parametrize(
    ("site", "wanted"), [("m:in", True), ("m.k_proj:in2", True), ("r:in_l0", True), ("a:q", True), ("m:operand1", True), ("m:input", False),
                         (":input1", False), ("m:out", False), ("a:scores", False), ("r:gates_l0", False)],
)  # fmt: skip
def test_operands_of_products_are_known_by_name(site, wanted):
    assert is_operand(site) == wanted


def test_a_static_model_is_not_copied_and_its_constants_move_with_it():
    """A copy's hooks would run the original; constants are made anew from what was moved."""
    _, model = static_pair(nn.Linear(4, 3), lambda m: m(torch.ones(2, 4)))
    with pytest.raises(AsrCompressError, match="cannot be copied"):
        copy.deepcopy(model)
    before = model(torch.ones(2, 4))
    fixed = model.inner.fixed
    assert model.to("cpu") is model
    assert model.inner.fixed is not fixed
    assert torch.equal(model(torch.ones(2, 4)), before)
