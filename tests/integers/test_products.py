"""Products with packed weights and of activations against exact arithmetic."""

from __future__ import annotations

import pytest
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity
from asrcompress.integers.grid import Grid
from asrcompress.integers.products import batched_product, fix_weight, weight_product
from asrcompress.quantizers.rtn import SUPPORTED_BITS, quantize
from tests.fixtures.static import activation, floats, inside


def product(codes, scale, zero_point, bias, input_grid, grid, x):
    return weight_product(x, codes, fix_weight(codes, scale, zero_point, bias, input_grid, grid)).double()


def exact(codes, scale, zero_point, bias, input_grid, x):
    groups = scale.shape[1]
    rows, columns = codes.shape
    wide = codes.double().reshape(rows, groups, columns // groups)
    if zero_point is not None:
        wide = wide - zero_point.double().expand(rows, groups)[..., None]
    weight = (wide * scale.double().expand(rows, groups)[..., None]).reshape(rows, columns)
    return (x.double() - input_grid.zero_point) * input_grid.scale @ weight.t() + (0 if bias is None else bias.double())


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel", "per_group:8", "per_group:1"])
@pytest.mark.parametrize("num_bits", SUPPORTED_BITS)
@pytest.mark.parametrize("zero_point", [0, -128, 77])
@pytest.mark.parametrize("weight_zero_point", [False, True])
def test_a_product_is_the_nearest_code_of_the_exact_one(granularity, num_bits, zero_point, weight_zero_point):
    torch.manual_seed(0)
    packed = quantize(torch.randn(10, 24), num_bits=num_bits, granularity=Granularity.parse(granularity))
    zeros = torch.randint(-128, 128, packed.scale.shape, dtype=torch.int8) if weight_zero_point else None
    x, bias = torch.randint(-128, 128, (7, 24), dtype=torch.int8), torch.randn(10)
    input_grid = Grid(0.02, zero_point, 8)
    wanted = exact(packed.codes, packed.scale, zeros, bias, input_grid, x)
    grid = Grid(float(wanted.abs().max()) / 32000, 0, 16)
    found = product(packed.codes, packed.scale, zeros, bias, input_grid, grid, x)
    assert (found - wanted / grid.scale).abs().max() <= 0.51


def test_rows_of_scale_zero_give_their_bias():
    codes = torch.where(torch.randn(4, 16) > 0, 1, -1).to(torch.int8)
    scale, bias = torch.tensor([[0.0], [0.5], [0.0], [1e-12]]), torch.tensor([1.0, 0.0, -2.0, 3.0])
    x = torch.randint(-128, 128, (5, 16), dtype=torch.int8)
    grid = Grid(1 / 256, 3, 16)
    found = product(codes, scale, None, bias, Grid(0.1, 9, 8), grid, x)
    assert set(found[:, 0].tolist()) == {256 + 3}
    assert set(found[:, 2].tolist()) == {-512 + 3}
    assert set(found[:, 3].tolist()) == {768 + 3}


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1e-6])
def test_a_bias_survives_weights_that_are_nearly_zero(scale):
    codes = torch.full((2, 8), 127, dtype=torch.int8)
    x = torch.randint(-128, 128, (3, 8), dtype=torch.int8)
    bias = torch.tensor([1.0, -1.0])
    found = product(codes, torch.full((2, 1), scale), None, bias, Grid(0.1, 0, 8), Grid(1 / 16384, 0, 16), x)
    assert (found - 16384 * torch.tensor([1.0, -1.0])).abs().max() <= 1 + 127 * 128 * 8 * scale * 0.1 * 16384


def test_a_site_that_saw_only_zeros_stays_a_site_of_zeros():
    codes = torch.full((2, 8), 0, dtype=torch.int8)
    x = torch.randint(-128, 128, (3, 8), dtype=torch.int8)
    found = product(codes, torch.ones(2, 1), None, None, Grid(0.1, 5, 8), Grid.of_range(0, 0, 16), x)
    assert found.abs().max() == 0


def test_sixty_thousand_saturated_columns_do_not_overflow():
    codes, x = torch.full((1, 65_536), -128, dtype=torch.int8), torch.full((1, 65_536), -128, dtype=torch.int8)
    scale, grid = torch.ones(1, 1), Grid(2.0**17, 0, 16)
    assert product(codes, scale, None, torch.zeros(1), Grid(1.0, 0, 8), grid, x).tolist() == [[2**13]]
    assert product(codes, scale, None, None, Grid(1.0, 127, 8), grid, x).tolist() == [
        [round(255 * 128 * 65536 / 2**17)]
    ]


def test_no_tokens():
    codes = torch.ones(3, 8, dtype=torch.int8)
    assert product(codes, torch.ones(3, 1), None, None, Grid(1.0), Grid(1.0), codes[:0]).shape == (0, 3)


def test_batches_are_broadcast():
    left = torch.randint(-128, 128, (2, 1, 4, 5), dtype=torch.int8)
    right = torch.randint(-128, 128, (3, 6, 5), dtype=torch.int8)
    assert torch.equal(batched_product(left, right).double(), left.double() @ right.double().transpose(1, 2))
    assert batched_product(left[:0], right[:1]).shape == (0, 1, 4, 6)


@pytest.mark.parametrize("multiply", [torch.matmul, lambda a, b: a @ b, lambda a, b: a.matmul(b)])
def test_activations_by_activations(multiply):
    torch.manual_seed(0)
    operand, out = Grid(1 / 100, 0, 8), Grid(1 / 1000, 0, 16)
    sites = inside(operand=operand, operand1=operand, matmul=out)
    a, b = (
        activation(torch.randint(-30000, 30000, shape), Grid(1 / 32000, 0, 16), sites)
        for shape in ((2, 4, 6), (2, 6, 3))
    )
    wanted = floats(a.on(operand)) @ floats(b.on(operand))
    assert (floats(multiply(a, b)) - wanted).abs().max() <= 0.501 * out.scale


@pytest.mark.parametrize("other", [torch.ones(6), torch.ones(6, 2), torch.ones(6, 2, dtype=torch.int64)], ids=str)
def test_products_with_plain_tensors_are_refused(other):
    x = activation(torch.ones(4, 6), Grid(1.0), inside())
    with pytest.raises(AsrCompressError, match="module 'm'.*plain tensor"):
        x @ other
