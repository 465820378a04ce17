"""Pooling, means, sums and resizing against torch's own on the numbers that the codes stand for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from asrcompress.errors import AsrCompressError
from asrcompress.integers.grid import Grid
from tests.fixtures.static import activation, floats, inside

OUT = Grid(2**-9, 0, 16)
GRIDS = [Grid(2**-3, 0, 8), Grid(2**-3, -100, 8), Grid(2**-11, 0, 16)]
every_grid = pytest.mark.parametrize("grid", GRIDS, ids=["int8", "zero point", "int16"])


def numbers(grid, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(grid.code_min, grid.code_max + 1, shape, generator=generator)
    return activation(codes, grid, inside(mean=OUT, sum=OUT, resize=OUT))


def within_one_code(found, wanted, more=0.0):
    wanted = wanted.clamp(-32767 * OUT.scale, 32767 * OUT.scale)
    assert found.shape == wanted.shape
    assert (floats(found) - wanted).abs().max() <= (0.5 + 1e-3) * OUT.scale + more


@every_grid
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(2, None, 0, 1), (3, 2, 1, 1), (3, 1, 1, 2), (5, 3, 2, 1), (1, 4, 0, 1), (2, 5, 1, 1)],
)
@pytest.mark.parametrize("size", [11, 12])
def test_max_pooling_is_torchs(grid, batched, ceil_mode, kernel, stride, padding, dilation, size):
    options = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    x = numbers(grid, *((2,) if batched else ()), 3, size)
    assert torch.equal(floats(F.max_pool1d(x, kernel, **options)), F.max_pool1d(floats(x), kernel, **options))
    x = numbers(grid, *((2,) if batched else ()), 3, size, 9)
    assert torch.equal(floats(F.max_pool2d(x, kernel, **options)), F.max_pool2d(floats(x), kernel, **options))


def test_max_pooling_of_other_sizes_by_axis_and_through_modules():
    x = numbers(GRIDS[1], 2, 3, 12, 8)
    pool = torch.nn.MaxPool2d((3, 2), stride=(2, 1), padding=(1, 0), ceil_mode=True)
    assert torch.equal(floats(pool(x)), pool(floats(x)))
    with pytest.raises(AsrCompressError, match="max_pool2d_with_indices"):
        F.max_pool2d(x, 2, return_indices=True)


@every_grid
@pytest.mark.parametrize("batched", [True, False])
def test_average_pooling_is_within_half_a_code(grid, batched):
    lead = (2,) if batched else ()
    x = numbers(grid, *lead, 3, 12)
    for options in ({"kernel_size": 3}, {"kernel_size": 4, "stride": 2}):
        x.sites.stack[-1][1].clear()
        within_one_code(F.avg_pool1d(x, **options), F.avg_pool1d(floats(x), **options))
    x = numbers(grid, *lead, 3, 12, 8)
    within_one_code(F.avg_pool2d(x, (3, 2), stride=(2, 3)), F.avg_pool2d(floats(x), (3, 2), stride=(2, 3)))


@every_grid
@pytest.mark.parametrize("batched", [True, False])
def test_adaptive_average_pooling_to_divisors(grid, batched):
    lead = (2,) if batched else ()
    for size in (1, 3, 12):
        x = numbers(grid, *lead, 3, 12)
        within_one_code(F.adaptive_avg_pool1d(x, size), F.adaptive_avg_pool1d(floats(x), size))
        x = numbers(grid, *lead, 3, 12, 8)
        within_one_code(F.adaptive_avg_pool2d(x, (size, None)), F.adaptive_avg_pool2d(floats(x), (size, None)))


@pytest.mark.parametrize(
    "function",
    [lambda x: F.adaptive_avg_pool2d(x, 5), lambda x: F.avg_pool2d(x, 3, padding=1), lambda x: F.avg_pool2d(x, 5, ceil_mode=True),
     lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), lambda x: F.adaptive_max_pool2d(x, 2)],
)  # fmt: skip
def test_what_has_no_integer_version_is_named(function):
    with pytest.raises(AsrCompressError, match="module 'm': .*integer version"):
        function(numbers(GRIDS[2], 2, 3, 12, 8))


@every_grid
@pytest.mark.parametrize("dim", [None, -1, 0, (1, 2), [0, -1]], ids=str)
@pytest.mark.parametrize("keepdim", [True, False])
def test_means_and_sums_are_within_half_a_code(grid, dim, keepdim):
    x = numbers(grid, 4, 5, 6)
    options = {} if dim is None else {"dim": dim, "keepdim": keepdim}
    within_one_code(x.mean(**options), floats(x).mean(**options))
    within_one_code(torch.sum(x, **options), floats(x).sum(**options))


@pytest.mark.parametrize("length", [200_000, 1])
def test_means_and_sums_of_long_saturated_inputs_do_not_overflow(length):
    grid = Grid(2**-15, 0, 16)
    x = activation(torch.full((2, length), 32767), grid, inside(mean=OUT, sum=Grid(16.0, 0, 16)))
    x.payload[1] = -32767
    within_one_code(x.mean(dim=1), floats(x).mean(dim=1))
    assert (floats(x.sum(dim=1)) - floats(x).sum(dim=1)).abs().max() <= 8.001


def test_a_mean_of_nothing_is_zero():
    assert numbers(GRIDS[2], 2, 0).mean(dim=1).payload.tolist() == [0, 0]
    assert numbers(GRIDS[2], 0, 3).mean(dim=1).shape == (0,)


RESIZES = [
    {"size": 17}, {"size": 5}, {"size": 1}, {"scale_factor": 2}, {"scale_factor": 2.5}, {"scale_factor": 0.6},
    {"scale_factor": 1.3, "recompute_scale_factor": True}, {"size": 11},
]  # fmt: skip


@every_grid
@pytest.mark.parametrize("options", RESIZES, ids=str)
@pytest.mark.parametrize("mode", ["nearest", "linear", "linear, corners"])
def test_resizing_is_within_a_code_of_torchs(grid, options, mode):
    mode, _, corners = mode.partition(", ")
    x = numbers(grid, 2, 3, 11)
    kwargs = options | {"mode": mode} | ({"align_corners": bool(corners)} if mode == "linear" else {})
    # A neighbour's weight is off by at most 2^-12, times twice the range of the grid.
    reach = 2.0 ** (grid.num_bits + 1) * grid.scale
    within_one_code(F.interpolate(x, **kwargs), F.interpolate(floats(x), **kwargs), reach * 2**-12)


@every_grid
@pytest.mark.parametrize(
    "options", [{"size": (17, 3)}, {"scale_factor": (2, 1.5)}, {"scale_factor": 0.5}, {"size": 4}], ids=str
)
def test_two_dimensional_resizing_does_not_overflow(grid, options):
    x = numbers(grid, 2, 3, 11, 8)
    x.payload[0], x.payload[1] = grid.code_min, grid.code_max
    reach = 2.0 ** (grid.num_bits + 1) * grid.scale
    for mode in ("nearest", "bilinear"):
        x.sites.stack[-1][1].clear()
        wanted = F.interpolate(floats(x), **options, mode=mode)
        within_one_code(F.interpolate(x, **options, mode=mode), wanted, 2 * reach * 2**-12)
