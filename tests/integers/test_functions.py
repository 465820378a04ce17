"""Torch's functions on codes against the same functions on the numbers: sums, products, fills, what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.integers.arithmetic import weighted_sum
from asrcompress.integers.grid import Grid
from tests.fixtures.static import activation, floats, inside

OUT = Grid(2**-9, 0, 16)
A, B = Grid(2**-7, 0, 16), Grid(2**-3, -20, 8)


def pair(**options):
    torch.manual_seed(0)
    sites = inside(**{f"{kind}{n or ''}": OUT for kind in ("add", "sub", "mul", "cat", "rsub") for n in range(3)})
    return activation(torch.randint(-2000, 2000, (4, 6)), A, sites), activation(
        torch.randint(-60, 60, (4, 6)), B, sites
    )


BINARY = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "alpha": lambda a, b: torch.add(a, b, alpha=-0.5),
    "sub alpha": lambda a, b: torch.sub(a, b, alpha=2), "rsub": lambda a, b: torch.rsub(a, b), "broadcast": lambda a, b: a + b[:, :1],
    "product, broadcast": lambda a, b: a[0] * b, "transposed": lambda a, b: a.t() + b.t(), "cat": lambda a, b: torch.cat([a, b], 1),
    "stack": lambda a, b: torch.stack((a, b), dim=-1), "itself": lambda a, b: a + a, "cat, zeros": lambda a,
    b: torch.cat([a, a.new_zeros(1, 6)]),
}  # fmt: skip


@pytest.mark.parametrize("function", BINARY.values(), ids=list(BINARY))
def test_two_activations_give_the_nearest_code(function):
    a, b = pair()
    wanted = function(floats(a), floats(b)).clamp(-32767 * OUT.scale, 32767 * OUT.scale)
    assert (floats(function(a, b)) - wanted).abs().max() <= 0.501 * OUT.scale


MASKS = {
    "int64": torch.tensor([0, 1, 2, -1, 1, 0]), "bool": torch.tensor([True, False, True, True, False, True]),
    "int32": torch.arange(6, dtype=torch.int32)[None],
}  # fmt: skip


@pytest.mark.parametrize("mask", MASKS.values(), ids=list(MASKS))
def test_plain_integers_are_numbers(mask):
    a, _ = pair()
    for function in (
        lambda x: x * mask,
        lambda x: mask * x,
        lambda x: x + mask,
        lambda x: mask + x,
        lambda x: x * mask.type_as(x),
    ):
        assert (floats(function(a)) - function(floats(a)).clamp(-64, 64)).abs().max() <= 0.501 * OUT.scale


NUMBERS = {
    "1 - x": lambda x: 1 - x, "2 * x": lambda x: 2 * x, "x / 2": lambda x: x / 2, "-x": lambda x: -x, "x - 0.3": lambda x: x - 0.3,
    "x + 1": lambda x: x + 1,
    "0.5 + x": lambda x: 0.5 + x, "x * -3": lambda x: x * -3, "x * 0": lambda x: x * 0, "x / -4": lambda x: x / -4,
    "div": lambda x: torch.div(x, 8),
    "true": lambda x: x * True,
}  # fmt: skip


@pytest.mark.parametrize("function", NUMBERS.values(), ids=list(NUMBERS))
def test_pythons_numbers_on_either_side(function):
    a, _ = pair()
    assert (floats(function(a)) - function(floats(a))).abs().max() <= 0.501 * OUT.scale


def test_a_number_far_above_the_codes_does_not_overflow():
    small, out = Grid(1e-9, 0, 16), Grid(0.06, 0, 16)
    x = activation([-32767, 0, 32767], small, inside(add=out, sub=out))
    assert floats(x + 1000).tolist() == pytest.approx([1000] * 3, abs=0.03)
    assert floats(x - 1e12).tolist() == pytest.approx([-32767 * 0.06] * 3)


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-12, 1e12), st.floats(1e-12, 1e12), st.integers(-32767, 32767), st.integers(-32767, 32767))
def test_sums_on_any_two_grids(first, second, a, b):
    grid = Grid((first + second) * 1.01, 0, 16)
    found = weighted_sum(grid, (activation([a], Grid(first, 0, 16)), 1.0), (activation([b], Grid(second, 0, 16)), -1.0))
    assert abs(int(found) - (a * first - b * second) / grid.scale) <= 0.5001


def test_negation_is_exact_at_the_ends():
    x = activation([-127, 127, 0], Grid(1.0, 0, 8), inside())
    assert (-x).payload.tolist() == [127, -127, 0]
    with pytest.raises(AsrCompressError, match="module 'm': a grid with a zero point"):
        -activation([1], Grid(1.0, 2, 8), inside())


@pytest.mark.parametrize("zero_point", [0, -100])
def test_fills_pads_and_assignments_are_codes_of_the_number(zero_point):
    x = activation(torch.arange(12).reshape(3, 4), Grid(0.5, zero_point, 8), inside())
    mask = torch.tensor([[True], [False], [True]])
    for value in (0, 7.5, -12):
        assert torch.equal(floats(x.masked_fill(mask, value)), floats(x).masked_fill(mask, value))
        assert torch.equal(floats(F.pad(x, (1, 2), value=value)), F.pad(floats(x), (1, 2), value=value))
    for options in ({"pad": (1, 2)}, {"pad": (2, 1), "mode": "reflect"}, {"pad": (1, 1), "mode": "replicate"}):
        assert torch.equal(floats(F.pad(x, **options)), F.pad(floats(x), **options))
    x[1:, :2] = 3
    x[0] = activation([2, 4, 6, 8], Grid(0.25, 0, 16))
    x[0, 0] = torch.tensor(True)
    assert floats(x)[:2].tolist() == [[1, 1, 1.5, 2], [3, 3, floats(x)[1, 2], floats(x)[1, 3]]]


@pytest.mark.parametrize("value", [float("-inf"), float("inf"), -1e4, 200.0])
def test_a_fill_that_no_code_stands_for_is_refused(value):
    x = activation([[1, 2]], Grid(0.5, 0, 8), inside())
    for function in (
        lambda: x.masked_fill(torch.tensor([True, False]), value),
        lambda: F.pad(x, (1, 1), value=value),
        lambda: x.__setitem__(0, value),
    ):
        with pytest.raises(AsrCompressError, match="module 'm': .* is filled in"):
            function()


def test_clamping_beyond_the_grid_changes_nothing():
    x = activation([-127, 3, 127], Grid(0.5, 0, 8), inside())
    for function in (
        lambda y: y.clamp(-1e9, 1e9),
        lambda y: y.clamp(min=-1, max=20.0),
        lambda y: torch.clamp_min(y, 1),
        F.relu6,
        lambda y: y.clamp(max=float("inf")),
    ):
        assert torch.equal(floats(function(x)), function(floats(x)))


FLOATS = [
    lambda x: x + torch.ones(2), lambda x: x * torch.tensor(0.5), lambda x: torch.cat([x, torch.ones(1, 2)]),
    lambda x: torch.ones(1, 2) + x,
    lambda x: torch.ones(1, 2).type_as(x), lambda x: torch.ones(2).to(x), lambda x: x.__setitem__(0, torch.ones(2)),
]  # fmt: skip


@pytest.mark.parametrize("function", FLOATS)
def test_plain_floats_meet_no_integers(function):
    grid = Grid(0.5, 0, 16)
    with pytest.raises(AsrCompressError, match="module 'm': a float tensor of shape .* meets integers"):
        function(activation([[1, 2]], grid, inside(add=grid, mul=grid, cat=grid)))


REFUSED = {
    "division by a tensor": lambda x: x / x, "by zero": lambda x: x / 0, "rounding": lambda x: torch.div(x, 2, rounding_mode="floor"),
    "fractions": lambda x: x.new_full((2,), 0.5), "like fractions": lambda x: torch.full_like(x, 0.5),
    "infinite": lambda x: x * float("inf"),
    "fill by a tensor": lambda x: x.masked_fill(torch.tensor([[True, False]]), torch.tensor(0)),
    "write into plain": lambda x: torch.zeros(1, 2).__setitem__(0, x),
}  # fmt: skip


@pytest.mark.parametrize("function", REFUSED.values(), ids=list(REFUSED))
def test_what_would_be_another_number_is_refused(function):
    with pytest.raises(AsrCompressError, match="module 'm': "):
        function(activation([[1, 2]], Grid(0.5, 0, 16), inside()))


def test_casts_and_dropout_are_nothing():
    x = activation([[1, 2]], Grid(0.5, 0, 16), inside())
    for function in (
        lambda y: y.float(),
        lambda y: y.half(),
        lambda y: y.to(torch.float32),
        lambda y: y.type(torch.float32),
        lambda y: F.dropout(y, 0.1, False),
    ):
        assert function(x) is x
    assert isinstance(x.type(), str)
    assert x.new_zeros(2, dtype=torch.bool).tolist() == [False, False]
    assert torch.zeros_like(x).tolist() == [[0, 0]]
