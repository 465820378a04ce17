"""Fixed-point rescaling against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.integers.grid import Grid
from asrcompress.integers.rescale import MAX_SHIFT, fixed_point, fixed_points, regrid, rescale, shift_right

WIDE = Grid(1.0, 0, 16)
scales, int8 = st.floats(1e-3, 1e3), st.integers(-128, 127)
factors = st.floats(2.0**-70, 2.0**40) | st.floats(2.0**-70, 2.0**40).map(lambda x: -x)


@settings(max_examples=200, deadline=None)
@given(factors, st.sampled_from([31, 30, 24, 8]))
def test_a_multiplier_fits_and_is_as_near_as_its_bits_allow(factor, num_bits):
    multiplier, shift = fixed_point(factor, num_bits)
    assert abs(multiplier) < 2**num_bits
    assert 0 <= shift <= MAX_SHIFT
    if abs(factor) < 2**num_bits - 1:
        error = abs(Fraction(multiplier, 2**shift) - Fraction(factor))
        assert error <= max(
            Fraction(abs(factor)) / 2**num_bits, Fraction(1, 2 ** (MAX_SHIFT + 1)), Fraction(1, 2) * (shift == 0)
        )


@settings(max_examples=200, deadline=None)
@given(factors, st.integers(-(2**31) + 1, 2**31 - 1), st.sampled_from([0, -3, 100]))
def test_rescaling_is_within_half_a_code_and_the_multipliers_error(factor, x, zero_point):
    grid = Grid(1.0, zero_point, 16)
    exact = Fraction(x) * Fraction(factor)
    wanted = min(max(exact + zero_point, grid.code_min), grid.code_max)
    found = int(rescale(torch.tensor([x]), factor, grid))
    assert abs(found - wanted) <= Fraction(1, 2) + abs(wanted) / 2**30 + Fraction(abs(x), 2**62)


@pytest.mark.parametrize("num_bits", [31, 38, 45, 54])
def test_wide_integers_get_narrower_multipliers_instead_of_an_overflow(num_bits):
    x = torch.tensor([2**num_bits - 1, 1 - 2**num_bits])
    found = rescale(x, 0.7 * 2**15 / 2**num_bits, WIDE, num_bits=num_bits)
    assert found.tolist() == pytest.approx([0.7 * 2**15, -0.7 * 2**15], rel=2**-7)


@pytest.mark.parametrize("factor", [2.0**31, 2.0**60, 1e300, float("inf"), -(2.0**40)])
def test_a_factor_beyond_all_bits_saturates_as_the_product_does(factor):
    sign = 1 if factor > 0 else -1
    assert rescale(torch.tensor([1, 0, -1, 7]), factor, WIDE).tolist() == [sign * 32767, 0, -sign * 32767, sign * 32767]


def test_no_number_is_no_factor():
    with pytest.raises(ValueError, match="no number"):
        fixed_point(float("nan"))


@pytest.mark.parametrize(("x", "wanted"), [(3, 2), (-3, -1), (2, 1), (-2, -1), (1, 1), (-1, 0), (0, 0)])
def test_halves_are_rounded_up(x, wanted):
    assert int(shift_right(torch.tensor(x), 1)) == wanted


def test_the_largest_factor_decides_the_shift_and_small_ones_stay_in_proportion():
    multipliers, shift, _ = fixed_points(torch.tensor([1.0, 2.0**-20, 0.0, 2.0**-40], dtype=torch.float64))
    assert multipliers.tolist() == [2**30, 2**10, 0, 0]
    assert shift == 30


def test_an_offset_far_above_the_factors_takes_bits_from_the_shift():
    tiny = torch.tensor([1e-12, 3e-13], dtype=torch.float64)
    multipliers, shift, offsets = fixed_points(tiny, offsets=torch.tensor([20000.0, -1.5], dtype=torch.float64))
    assert [offset / 2**shift for offset in offsets.tolist()] == pytest.approx([20000.0, -1.5], abs=1e-9)
    assert multipliers[0] / 2**shift == pytest.approx(1e-12, rel=0.05)


def test_no_factors_and_only_zeros():
    assert fixed_points(torch.zeros(0, 1, dtype=torch.float64))[0].shape == (0, 1)
    multipliers, shift, offsets = fixed_points(torch.zeros(2, dtype=torch.float64), offsets=torch.tensor([3.0, 0.0]))
    assert multipliers.tolist() == [0, 0]
    assert [offset / 2**shift for offset in offsets.tolist()] == [3.0, 0.0]


@settings(max_examples=50, deadline=None)
@given(scales, scales, int8, int8, st.lists(int8, max_size=20))
def test_regridding_is_the_nearest_code_of_the_same_number(old_scale, new_scale, old_zero, new_zero, codes):
    old, new = Grid(old_scale, old_zero, 8), Grid(new_scale, new_zero, 8)
    codes = [min(max(code, old.code_min), old.code_max) for code in codes]
    found = regrid(torch.tensor(codes, dtype=torch.int8), old, new)
    assert found.dtype == torch.int8
    for code, new_code in zip(codes, found.tolist(), strict=True):
        wanted = (code - old_zero) * Fraction(old_scale) / Fraction(new_scale) + new_zero
        assert abs(new_code - min(max(wanted, new.code_min), new.code_max)) <= Fraction(1, 2) + Fraction(1, 2**15)
