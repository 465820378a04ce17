"""Functions by table against their values in float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from asrcompress.integers import lookup
from asrcompress.integers.grid import Grid
from tests.fixtures.static import activation, floats, inside

UNARY = {
    "sigmoid": (torch.sigmoid, {}), "tanh": (torch.tanh, {}), "gelu": (F.gelu, {}), "gelu tanh": (F.gelu, {"approximate": "tanh"}),
    "silu": (F.silu, {}), "elu": (F.elu, {"alpha": 0.7}), "leaky_relu": (F.leaky_relu, {"negative_slope": 0.2}),
    "softplus": (F.softplus, {"beta": 2.0}), "hardswish": (F.hardswish, {}), "hardsigmoid": (F.hardsigmoid, {}),
}  # fmt: skip
every_function = pytest.mark.parametrize(("function", "options"), UNARY.values(), ids=list(UNARY))


@every_function
@pytest.mark.parametrize("zero_point", [0, -100, 90])
def test_eight_bits_are_the_value_rounded_once(function, options, zero_point):
    old, new = Grid(6 / 128, zero_point, 8), Grid(12 / 127, 0, 8)
    x = activation(torch.arange(old.code_min, old.code_max + 1), old, inside(table=new))
    found = function(x, **options)
    wanted = function(floats(x), **options)
    assert (floats(found) - wanted).abs().max() <= (0.5 + 2**-8) * new.scale


@every_function
@pytest.mark.parametrize("num_bits", [9, 10, 12, 13, 16])
@pytest.mark.parametrize("reach", [8, 128])
def test_wide_codes_are_interpolated_between_4097_knots(function, options, num_bits, reach):
    old, new = Grid(2 * reach / 2**num_bits, 0, num_bits), Grid(1.01 * reach / 32767, 0, 16)
    x = activation(torch.arange(old.code_min, old.code_max + 1), old, inside(table=new))
    step = 2 * reach / 4096 if num_bits > 12 else 0  # between knots; second derivatives are below 2
    kink = step / 8 if function in (F.leaky_relu, F.elu, F.hardswish, F.hardsigmoid) else 0
    bound = (0.5 + 2**-7) * new.scale + 2 * step**2 / 8 + kink
    assert (floats(function(x, **options)) - function(floats(x), **options)).abs().max() <= bound
    assert bound < 0.02 * reach  # or nothing was said


@pytest.mark.parametrize("num_bits", [8, 16])
def test_what_leaves_the_grid_saturates(num_bits):
    old, new = Grid(100 / 2**num_bits, 0, num_bits), Grid(0.01, 0, 8)
    x = activation([old.code_min, old.code_max], old, inside(table=new))
    assert F.silu(x).payload.tolist() == [0, 127]


def test_huge_inputs_overflow_nothing():
    old = Grid(1e30, 0, 16)
    for function in (torch.sigmoid, torch.tanh, F.gelu, F.silu, F.elu, F.softplus):
        x = activation([old.code_min, 0, old.code_max], old, inside(table=Grid(0.01, 0, 8)))
        assert function(x).payload.tolist()[2] in (100, 127)


MODULES = [
    torch.nn.ReLU6(), torch.nn.Hardtanh(-0.5, 0.75), torch.nn.ReLU(), torch.nn.SiLU(), torch.nn.ELU(), torch.nn.LeakyReLU(),
    torch.nn.Hardswish(), torch.nn.Hardsigmoid(), torch.nn.GELU(), torch.nn.Softplus(), torch.nn.Tanh(), torch.nn.Sigmoid(),
]  # fmt: skip


CASES = [(module, False) for module in MODULES] + [(module, True) for module in MODULES if "inplace" in vars(module)]


@pytest.mark.parametrize(("module", "in_place"), CASES, ids=str)
def test_torchs_modules_find_them_in_place_or_not(module, in_place):
    wanted = module(floats(activation(torch.arange(-1000, 1000, 7), Grid(2**-8, 0, 16))))
    x = activation(torch.arange(-1000, 1000, 7), Grid(2**-8, 0, 16), inside(table=Grid(2**-12, 0, 16)))
    if in_place:
        module = copy.copy(module)
        module.inplace = True
    found = module(x)
    assert (floats(found) - wanted).abs().max() <= 2**-9
    assert torch.equal(floats(x), floats(found)) == in_place


def test_glu_is_value_times_gate():
    old, new = Grid(2**-11, 0, 16), Grid(2**-11, 0, 16)
    torch.manual_seed(0)
    x = activation(torch.randint(-32767, 32768, (4, 6, 10)), old, inside(glu=new))
    for dim in (-1, 1):
        x.sites.stack[-1][1].clear()
        step = 32 / 4096
        bound = new.scale * 0.5 + 16 * (step**2 / 8 * 0.1 + 2**-15)
        assert (floats(F.glu(x, dim)) - F.glu(floats(x), dim)).abs().max() <= bound


def test_scalars_are_torchs_functions():
    for name, (function, options) in UNARY.items():
        scalar = lookup.POINTWISE[function]
        for value in (-30.0, -3.0, -0.1, 0.0, 0.2, 2.9, 3.1, 25.0, 900.0):
            wanted = float(function(torch.tensor(value, dtype=torch.float64), **options))
            assert math.isclose(scalar(value, **options), wanted, rel_tol=1e-9, abs_tol=1e-12), name
