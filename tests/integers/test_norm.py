"""Square roots, normalisation and affine steps against exact and float64 arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.integers.grid import Grid
from asrcompress.integers.norm import OUTPUT_BITS, integer_sqrt, normalise


def test_the_square_root_is_exact_for_small_numbers():
    x = torch.arange(100_001)
    assert integer_sqrt(x).tolist() == [math.isqrt(value) for value in range(100_001)]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2**31 - 1), st.integers(-2, 2))
def test_the_square_root_is_exact_around_squares(root, offset):
    x = min(max(root * root + offset, 0), 2**62 - 1)
    assert int(integer_sqrt(torch.tensor([x]))) == math.isqrt(x)


def test_the_square_root_is_exact_around_powers_of_two():
    values = [value for bits in range(62) for value in (2**bits - 1, 2**bits, 2**bits + 1)]
    assert integer_sqrt(torch.tensor(values)).tolist() == [math.isqrt(value) for value in values]


def reference(codes, grid, eps):
    x = (codes.double() - grid.zero_point) * grid.scale
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + eps).sqrt()


@pytest.mark.parametrize("width", [1, 2, 512, 4096, 200_000])
@pytest.mark.parametrize("spread", [20, 3000, 32767])
def test_normalised_numbers_of_16_bit_codes(width, spread):
    torch.manual_seed(0)
    grid = Grid(1e-3, 0, 16)
    codes = (torch.randn(3, width) * spread / 3 + 100).round().clamp(-32767, 32767).to(torch.int16)
    found = normalise(codes, grid, 1e-5, (-1,)).double() / 2**OUTPUT_BITS
    wanted = reference(codes, grid, 1e-5)
    unit = 2.0 ** -(8 if width <= 4096 else 6)  # of a code: what mean and deviation are rounded to
    deviation = ((codes.double().var(-1, unbiased=False) + 1e-5 / grid.scale**2).sqrt())[:, None]
    assert ((found - wanted).abs() <= (wanted.abs() + 1) * unit / deviation + 2**-15).all()


@pytest.mark.parametrize("num_bits", [8, 16])
@pytest.mark.parametrize("width", [4096, 200_000])
def test_extreme_codes_do_not_overflow(width, num_bits):
    top = 2 ** (num_bits - 1) - 1
    codes = torch.full((1, width), top)
    codes[:, ::2] = -top - 1
    found = normalise(codes.to(torch.int16), Grid(1.0, 0, num_bits), 1e-5, (-1,)).double() / 2**OUTPUT_BITS
    assert (found.abs() - 1).abs().max() < 1e-3


def test_one_outlier_among_many():
    codes = torch.zeros(1, 4096, dtype=torch.int16)
    codes[0, 7] = 32767
    found = normalise(codes, Grid(1e-3, 0, 16), 1e-5, (-1,)).double() / 2**OUTPUT_BITS
    assert (found - reference(codes, Grid(1e-3, 0, 16), 1e-5)).abs().max() < 1e-2


@pytest.mark.parametrize("scale", [2.0**-60, 1e-6, 1.0, 1e20])
@pytest.mark.parametrize("value", [0, 5, -32767])
def test_constants_have_no_deviation(value, scale):
    codes = torch.full((2, 64), value, dtype=torch.int16)
    assert normalise(codes, Grid(scale, 0, 16), 1e-5, (-1,)).abs().max() == 0


def test_epsilon_counts_where_the_variance_is_small():
    grid = Grid(1e-3, 0, 16)
    codes = torch.tensor([[1, -1, 1, -1]], dtype=torch.int16)
    found = normalise(codes, grid, 1e-5, (-1,)).double() / 2**OUTPUT_BITS
    assert (found - reference(codes, grid, 1e-5)).abs().max() < 5e-3


def test_a_zero_point_changes_nothing_and_neither_do_empty_batches():
    codes = torch.randint(-100, 100, (3, 50), dtype=torch.int8, generator=torch.Generator().manual_seed(0))
    a, b = (normalise(codes, Grid(0.01, zero, 8), 1e-5, (-1,)) for zero in (0, -77))
    assert torch.equal(a, b)
    assert normalise(codes[:0], Grid(0.01, 0, 8), 1e-5, (-1,)).shape == (0, 50)
    assert normalise(codes[:, :0], Grid(0.01, 0, 8), 1e-5, (-1,)).shape == (3, 0)
