"""Grids: what a code stands for, and which grids there are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.integers.crossing import enter_integers, leave_integers
from asrcompress.integers.grid import SMALLEST_SCALE, Grid

numbers = st.floats(-1e6, 1e6)


@settings(max_examples=50, deadline=None)
@given(numbers, numbers, st.integers(2, 16), st.booleans())
def test_a_grid_covers_its_range_and_zero(low, high, num_bits, symmetric):
    low, high = min(low, high), max(low, high)
    grid = Grid.of_range(low, high, num_bits, symmetric=symmetric)
    smallest, largest = ((code - grid.zero_point) * grid.scale for code in (grid.code_min, grid.code_max))
    half = 0.5001 * grid.scale
    assert smallest - half <= min(low, 0)
    assert largest + half >= max(high, 0)
    assert grid.code_min <= grid.zero_point <= grid.code_max
    assert Grid.from_json(grid.to_json()) == grid


@pytest.mark.parametrize("zero_point", [0, -128, 5, 127])
@pytest.mark.parametrize("num_bits", [2, 8, 9, 16])
def test_entering_rounds_to_the_nearest_code_and_saturates_at_the_grids_ends(num_bits, zero_point):
    top = 2 ** (num_bits - 1)
    grid = Grid(0.25, min(max(zero_point, -top), top - 1), num_bits)
    x = torch.tensor([-1e30, -float("inf"), -0.3, 0.0, 0.26, 1e30, float("inf")])
    codes = enter_integers(x, grid.scale, grid.zero_point, num_bits)
    assert codes.dtype == grid.dtype
    assert codes[0] == codes[1] == grid.code_min  # -codes exists: on a symmetric grid the lowest is left out
    assert codes[-1] == codes[-2] == grid.code_max
    assert codes[3] == grid.zero_point
    assert torch.equal(leave_integers(codes, grid.scale, grid.zero_point)[3:4], torch.zeros(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_features_of_any_float_type_enter(dtype):
    x = torch.linspace(-1, 1, 65).to(dtype).unflatten(0, (5, 13)).t()
    codes = enter_integers(x, 1 / 64, 0, 8)
    assert (codes.double() / 64 - x.double()).abs().max() <= 0.5 / 64


def test_a_site_that_saw_only_zeros_has_the_smallest_scale():
    assert Grid.of_range(0, 0, 8) == Grid(SMALLEST_SCALE, 0, 8)


@pytest.mark.parametrize(
    "value",
    [None, [], [1.0, 0], [0, 0, 8], [-1.0, 0, 8], [float("nan"), 0, 8], [float("inf"), 0, 8], [1.0, 128, 8], [1.0, 0.0, 8], [1.0, 0, 17],
     [1.0, 0, 1], ["1", 0, 8], [True, 0, 8], [1.0, True, 8]],
)  # fmt: skip
def test_what_is_not_a_grid_is_named(value):
    with pytest.raises(AsrCompressError, match="is not a grid"):
        Grid.from_json(value)
