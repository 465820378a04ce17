"""From values to grids: what each method covers, and what breaks calibration."""

from __future__ import annotations

import pytest
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.integers.observers import METHODS, NUM_BINS, Observer


def observer(*parts):
    found = Observer()
    for part in parts:
        found.add(part)
    return found


def squared_error(grid, values):
    codes = (values / grid.scale).round().add(grid.zero_point).clamp(grid.code_min, grid.code_max)
    return float(((codes - grid.zero_point) * grid.scale - values).square().sum())


@pytest.mark.parametrize("symmetric", [True, False])
def test_minmax_covers_all_that_was_seen_and_no_more(symmetric):
    torch.manual_seed(0)
    x = torch.randn(1000) + 2
    grid = observer(x[:10], x[10:]).grid(8, symmetric=symmetric, method="minmax")
    low, high = float(x.min()), float(x.max())
    wanted = max(-low, high) / 127 if symmetric else (high - min(low, 0)) / 255
    assert wanted <= grid.scale <= wanted * 1.001  # rounded up to the four digits that are stored
    assert len(repr(grid.scale)) <= len("0.00000")


def test_wide_grids_cover_twice_what_was_seen():
    scale = observer(torch.tensor([-3.0, 1.0])).grid(16, symmetric=True, method="mse").scale
    assert 6 / 32767 <= scale <= 6 / 32767 * 1.001


@pytest.mark.parametrize("symmetric", [True, False])
def test_mse_is_never_worse_than_minmax_and_better_with_an_outlier(symmetric):
    torch.manual_seed(0)
    x = torch.cat([torch.randn(100_000), torch.tensor([40.0])])
    errors = {m: squared_error(observer(x).grid(8, symmetric=symmetric, method=m), x) for m in METHODS}
    assert errors["mse"] < 0.9 * errors["minmax"]


@pytest.mark.parametrize("method", ["percentile", "kl"])
def test_one_outlier_in_many_is_cut(method):
    torch.manual_seed(0)
    x = torch.cat([torch.randn(100_000), torch.tensor([400.0])])
    assert observer(x).grid(8, symmetric=True, method=method).scale < 0.5 * 400 / 127


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [torch.zeros(5), torch.tensor([1e-30]), torch.full((4,), -2.0), torch.zeros(0)])
def test_constants_zeros_and_nothing_have_grids(method, values):
    for symmetric in (True, False):
        grid = observer(values).grid(8, symmetric=symmetric, method=method)
        assert 0 < grid.scale < float("inf")
        if values.numel() and float(values.abs().max()) > 1e-10:
            assert squared_error(grid, values) <= 4 * (0.02 * 2) ** 2


def test_the_histogram_keeps_every_count_as_its_range_doubles():
    found = observer(torch.ones(7) * 0.1, torch.ones(5) * 3, torch.ones(2) * -900.0)
    assert float(found.counts.sum()) == 14
    assert found.reach >= 900
    centre = (torch.arange(2 * NUM_BINS) + 0.5) * found.reach / NUM_BINS - found.reach
    assert float((found.counts * centre).sum()) == pytest.approx(0.7 + 15 - 1800, abs=14 * found.reach / NUM_BINS)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stops_calibration(bad):
    with pytest.raises(AsrCompressError, match="NaN or infinity"):
        observer(torch.tensor([1.0, bad]))


def test_half_precision_counts_as_its_values():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0)).half()
    assert observer(x).grid(8, symmetric=True, method="minmax") == observer(x.double()).grid(
        8, symmetric=True, method="minmax"
    )
