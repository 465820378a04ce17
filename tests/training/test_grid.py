"""A trained weight: forward is what its codes stand for, to the last bit; backward is what the estimators' papers say."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.grids import Granularity, QuantizedWeight, dequantize, encode, zero_codes
from asrcompress.packing import pack
from asrcompress.patterns import keep_largest
from asrcompress.quantizers import get_quantizer
from asrcompress.training.grid import INSIDE, SIGNED, TrainedWeight

ROWS, COLUMNS = 4, 16
GRANULARITIES = ("per_tensor", "per_channel", "per_group:8")
MASKS = ("dense", "2:4", "unstructured")
CASES = [
    (bits, granularity, symmetric, mask)
    for bits, granularity, symmetric, mask in itertools.product((1, 2, 3, 4, 8), GRANULARITIES, (True, False), MASKS)
    if bits > 1 or symmetric
]


def weight_of(seed: int, size: float = 0.1) -> torch.Tensor:
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed)) * size


def mask_of(kind: str, weight: torch.Tensor) -> torch.Tensor | None:
    if kind == "dense":
        return None
    if kind == "2:4":
        return keep_largest(weight.abs(), 2, 4)
    return weight.abs() > weight.abs().median()


def quantized(weight: torch.Tensor, bits: int, granularity: str, symmetric: bool, mask=None) -> QuantizedWeight:
    """As the quantizers make it; what a mask drops has the code of 0."""
    method = "binary" if bits == 1 else "rtn" if symmetric else "asymmetric"
    rows = weight if mask is None else weight * mask
    found = get_quantizer(method)(rows, num_bits=bits, granularity=Granularity.parse(granularity), statistics=None)
    zeros = zero_codes(found.zero_point, *found.codes.shape)
    codes = found.codes if mask is None else torch.where(mask, found.codes, zeros)
    return replace(found, codes=codes)


def trained(stored: QuantizedWeight, mask=None, **options) -> TrainedWeight:
    return TrainedWeight(
        mask=mask, scale=stored.scale, num_bits=stored.num_bits, zero_point=stored.zero_point, **options
    )


@pytest.mark.parametrize(("bits", "granularity", "symmetric", "mask_kind"), CASES)
def test_forward_is_what_the_codes_stand_for(bits, granularity, symmetric, mask_kind):
    weight = weight_of(bits)
    mask = mask_of(mask_kind, weight)
    stored = quantized(weight, bits, granularity, symmetric, mask)
    module = trained(stored, mask)
    with torch.no_grad():
        module.growth.copy_(0.3 * torch.randn(module.growth.shape, generator=torch.Generator().manual_seed(9)))
    moved = weight + weight_of(bits + 50, 0.05)
    codes, scale = module.codes(moved)
    assert codes.dtype == torch.int8
    assert scale.dtype == stored.scale.dtype
    assert not torch.equal(scale, stored.scale)
    assert torch.equal(module(moved), dequantize(codes, scale, stored.zero_point))
    if mask is not None:
        zeros = zero_codes(stored.zero_point, ROWS, COLUMNS)
        assert torch.equal(codes[~mask], zeros[~mask])
    kept = torch.ones_like(codes, dtype=torch.bool) if mask is None else mask
    if bits == 1:
        assert torch.equal(codes[kept], torch.where(moved >= 0, 1, -1).to(torch.int8)[kept])
    else:
        assert torch.equal(codes[kept], encode(moved, scale, bits, stored.zero_point)[kept])
    if bits > 1 or mask is None:
        pack(codes, bits)  # raises where a code does not fit


@pytest.mark.parametrize(("bits", "granularity", "symmetric", "mask_kind"), CASES)
@pytest.mark.parametrize("size", (0.1, 1e-7))  # float16 scales; scales that float16 has no normal number for
def test_training_starts_at_the_codes_and_scales_of_the_content(bits, granularity, symmetric, mask_kind, size):
    weight = weight_of(bits, size)
    mask = mask_of(mask_kind, weight)
    stored = quantized(weight, bits, granularity, symmetric, mask)
    assert stored.scale.dtype == (torch.float16 if size == 0.1 else torch.float32)
    # Codes that rounding alone would not give, as GPTQ's: some are moved by one.
    changed = torch.rand(ROWS, COLUMNS, generator=torch.Generator().manual_seed(3)) < 0.3
    if mask is not None:
        changed &= mask
    step = torch.where(stored.codes > 0, -1, 1).to(torch.int8)
    other = stored.codes * -1 if bits == 1 else stored.codes + step
    stored = replace(stored, codes=torch.where(changed, other, stored.codes))
    module = trained(stored, mask)
    start = module.nearest(weight, stored.codes)
    codes, scale = module.codes(start)
    assert torch.equal(codes, stored.codes)
    assert torch.equal(scale, stored.scale)
    assert torch.equal(module(start), stored.dequantize())
    if mask is not None:
        assert torch.equal(start[~mask], weight[~mask])


def test_a_weight_already_inside_its_code_starts_where_it_was():
    weight = weight_of(2)
    stored = quantized(weight, 4, "per_channel", True)
    ratio = weight / stored.scale.float()
    inside = (ratio - stored.codes).abs() <= INSIDE
    start = trained(stored).nearest(weight, stored.codes)
    assert inside.float().mean() > 0.9
    assert torch.allclose(start[inside], weight[inside], rtol=1e-6, atol=0)
    one = quantized(weight, 1, "per_channel", True)
    ratio = (weight / one.scale.float()).abs()
    inside = (ratio >= SIGNED[0]) & (ratio <= SIGNED[1])
    start = trained(one).nearest(weight, one.codes)
    assert 0.7 < inside.float().mean() < 1
    assert torch.allclose(start[inside], weight[inside], rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", (1, 2, 8))
def test_every_weight_has_a_gradient_where_training_starts(bits):
    weight = weight_of(4) * 3
    stored = quantized(weight, bits, "per_tensor", True)
    clipped = replace(stored, scale=stored.scale * 0.5)
    module = trained(clipped)
    start = module.nearest(weight, clipped.codes).requires_grad_()
    module(start).sum().backward()
    assert torch.equal(start.grad, torch.ones_like(start))


def test_a_row_of_zeros_at_one_bit_keeps_its_scale_of_zero():
    weight = weight_of(5)
    weight[2] = 0
    stored = quantized(weight, 1, "per_channel", True)
    assert float(stored.scale[2]) == 0
    module = trained(stored)
    start = module.nearest(weight, stored.codes)
    assert float(start[2].abs().max()) < 1e-18  # no larger than it was, or a new mask would keep it
    with torch.no_grad():
        module.growth += 1
    codes, scale = module.codes(start)
    assert float(scale[2]) == 0
    assert torch.equal(codes, stored.codes)
    start.requires_grad_()
    module(start).square().sum().backward()
    assert torch.isfinite(start.grad).all()
    assert torch.isfinite(module.growth.grad).all()
    assert float(module.growth.grad[2]) == 0


@pytest.mark.parametrize(("symmetric", "expected"), ((True, (3, -3)), (False, (3, -4))))
def test_the_ends_of_the_grid(symmetric, expected):
    scale = torch.tensor([[0.5]])
    zero = None if symmetric else torch.zeros(1, 1, dtype=torch.int8)
    module = TrainedWeight(scale=scale, num_bits=3, zero_point=zero)
    codes, _ = module.codes(torch.tensor([[9.0, -9.0]]))
    assert tuple(codes[0].tolist()) == expected
    assert module(torch.tensor([[9.0, -9.0]])).tolist() == [[0.5 * code for code in expected]]


def test_zero_counts_as_positive_at_one_bit_as_in_its_quantizer():
    rows = torch.tensor([[0.0, -0.0, 1e-30, -1e-30]])
    module = TrainedWeight(scale=torch.ones(1, 1), num_bits=1)
    stored = get_quantizer("binary")(rows, num_bits=1, granularity=Granularity("per_channel"), statistics=None)
    assert module.codes(rows)[0].tolist() == stored.codes.tolist() == [[1, 1, 1, -1]]


def test_halves_round_to_even_as_in_grids():
    module = TrainedWeight(scale=torch.ones(1, 1), num_bits=4)
    rows = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5]])
    assert module.codes(rows)[0].tolist() == [[0, 2, 2, 0, -2, -2]]
    assert torch.equal(module.codes(rows)[0], encode(rows, torch.ones(1, 1), 4))


def reference(rows, scale, zero, mask, bits, grad, *, is_dense):
    """LSQ's gradients (arXiv 1902.08153, equations 2 and 3) in float64, one weight at a time; scale (rows or 1, groups)."""
    symmetric, high = zero is None, 2 ** (bits - 1) - 1
    low = -high if symmetric else -high - 1
    if bits == 1:
        low, high = -1, 1
    count, columns = rows.shape
    size = columns // scale.shape[1]
    of_rows, of_scale = torch.zeros(count, columns, dtype=torch.float64), torch.zeros_like(scale, dtype=torch.float64)
    for row, column in itertools.product(range(count), range(columns)):
        place = (min(row, scale.shape[0] - 1), column // size)
        s, z = float(scale[place]), 0 if symmetric else int(zero[place])
        w, g = float(rows[row, column]), float(grad[row, column])
        ratio = w / s
        # Between the ends, half a step beyond them included: where rounding to nearest is what makes the error.
        between = low - z - 0.5 <= ratio <= high - z + 0.5
        if bits == 1:
            steps = 1.0 if w >= 0 else -1.0
        else:
            steps = min(max(round(ratio) + z, low), high) - z  # Python rounds halves to even, too
        kept = mask is None or bool(mask[row, column])
        if kept or is_dense:
            of_rows[row, column] = g * between
        if kept:
            of_scale[place] += g * (steps - ratio * between)
    return of_rows, of_scale


@pytest.mark.parametrize(("bits", "granularity", "symmetric", "mask_kind"), CASES)
@pytest.mark.parametrize("is_dense", (False, True))
def test_gradients_are_those_of_lsq_and_straight_through(bits, granularity, symmetric, mask_kind, is_dense):
    weight = weight_of(bits + 7)
    mask = mask_of(mask_kind, weight)
    stored = quantized(weight, bits, granularity, symmetric, mask)
    scale = stored.scale.float() * 0.6  # so that some weights are beyond the grid's ends
    module = TrainedWeight(mask=mask, scale=scale, num_bits=bits, zero_point=stored.zero_point, is_dense=is_dense)
    moved = weight.clone().requires_grad_()
    grad = weight_of(31, 1.0)
    module(moved).backward(grad)
    of_rows, of_scale = reference(weight, scale, stored.zero_point, mask, bits, grad, is_dense=is_dense)
    assert torch.equal(moved.grad.double(), of_rows)
    # growth is ln of a factor: d loss / d growth = scale x d loss / d scale
    assert torch.allclose(module.growth.grad.double(), of_scale * scale.double(), rtol=1e-4, atol=1e-6)
    if bits < 8 and mask_kind == "dense":
        assert 0 < int((of_rows == 0).sum()) < of_rows.numel()


def test_the_gradient_of_the_scale_is_the_slope_of_the_loss_where_no_code_changes():
    """With codes held, the output is linear in the scale; LSQ adds -ratio, the slope of rounding's straight-through twin."""
    weight = weight_of(8).double()
    scale = torch.tensor([[0.05]])
    module = TrainedWeight(scale=scale, num_bits=2)
    beyond = (weight / 0.05).abs() > 1.5  # of these the output is +-scale: a true derivative
    grad = torch.where(beyond, weight_of(9, 1.0).double(), 0.0)
    module(weight.float()).backward(grad.float())
    step = 1e-6
    loss = [float((weight.sign() * 0.05 * math.exp(growth) * grad)[beyond].sum()) for growth in (-step, step)]
    assert float(module.growth.grad) == pytest.approx((loss[1] - loss[0]) / (2 * step), rel=1e-4)


def test_a_fixed_scale_is_the_stored_one_and_no_parameter():
    stored = quantized(weight_of(1), 4, "per_channel", True)
    module = trained(stored, is_learned=False)
    assert list(module.parameters()) == []
    weight = weight_of(1).requires_grad_()
    module(weight).sum().backward()
    assert weight.grad is not None
    assert torch.equal(module.codes(weight)[1], stored.scale)


def test_learned_scales_stay_numbers_of_their_type():
    scale = torch.tensor([[1.0], [60000.0], [1e-4]]).half()
    module = TrainedWeight(scale=scale, num_bits=4)
    with torch.no_grad():
        module.growth.copy_(torch.tensor([[0.1], [5.0], [-5.0]]))
    found = module.codes(torch.ones(3, 4))[1]
    assert found.dtype == torch.float16
    assert found.flatten().tolist() == [float(torch.tensor(math.exp(0.1)).half()), 65504.0, 2.0**-14]
    assert torch.equal(module.factor(), found.float())
    wide = TrainedWeight(scale=torch.full((1, 1), 1e-9), num_bits=4)
    with torch.no_grad():
        wide.growth += 1
    assert float(wide.codes(torch.ones(1, 4))[1]) == pytest.approx(1e-9 * math.e, rel=1e-6)


@pytest.mark.parametrize("bits", (1, 4))
@pytest.mark.parametrize("size", (0.1, 1e-7))
def test_a_scale_that_is_found_anew_is_the_quantizers_and_leaves_the_given_one(bits, size):
    weight = weight_of(5, size)
    stored = quantized(weight, bits, "per_channel", True)
    given, before = stored.scale.clone(), trained(stored, is_learned=False)
    before.refit(2 * weight)
    assert torch.equal(stored.scale, given)
    method = get_quantizer("binary" if bits == 1 else "mse")
    expected = method(2 * weight, num_bits=bits, granularity=Granularity("per_channel"), statistics=None).scale
    found = before.codes(weight)[1]
    assert found.dtype == expected.dtype == given.dtype
    assert torch.allclose(found.float(), expected.float(), rtol=0.2 if bits > 1 else 1e-3, atol=0)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16))
@pytest.mark.parametrize("is_dense", (False, True))
def test_sparse_floats(dtype, is_dense):
    weight = weight_of(6).requires_grad_()
    mask = mask_of("2:4", weight.detach())
    module = TrainedWeight(mask=mask, is_dense=is_dense, dtype=dtype)
    assert list(module.parameters()) == []
    out = module(weight)
    assert torch.equal(out, torch.where(mask, weight, 0.0).to(dtype).float())
    grad = weight_of(7, 1.0)
    out.backward(grad)
    assert torch.equal(weight.grad, grad if is_dense else grad * mask)


@pytest.mark.parametrize("scale", (None, torch.tensor([[0.05]])))
def test_sr_ste_pulls_what_is_dropped_and_nothing_else(scale):
    weight, mask = weight_of(6), mask_of("unstructured", weight_of(6))
    module = TrainedWeight(mask=mask, scale=scale, num_bits=4, is_dense=True, decay=2e-4)
    # Zhou et al., arXiv 2102.04010, equation 8: lambda (1 - mask) x weight beside the straight-through gradient
    expected = [0.0 if kept else 2e-4 * w for w, kept in zip(weight.flatten().tolist(), mask.flatten(), strict=True)]
    assert torch.allclose(module.pull(weight).flatten(), torch.tensor(expected), rtol=1e-6, atol=0)
    assert TrainedWeight(mask=mask, scale=scale, num_bits=4, is_dense=True).pull(weight) is None
    assert TrainedWeight(scale=torch.ones(1, 1), num_bits=4, decay=1.0).pull(weight) is None


def test_the_shape_of_a_convolution_is_that_of_its_rows():
    kernel = weight_of(3).reshape(ROWS, 2, 4, 2)
    stored = quantized(kernel, 4, "per_group:8", True)
    module = trained(stored)
    assert torch.equal(module(module.nearest(kernel, stored.codes)), stored.dequantize())
    assert module(kernel).shape == kernel.shape


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.floats(-10, 10, width=32), min_size=8, max_size=8),
    scale=st.floats(2.0**-12, 4.0, width=16),
    zero=st.integers(-8, 7),
    growth=st.floats(-2, 2, width=32),
)
def test_any_weight_and_scale(rows, scale, zero, growth):
    module = TrainedWeight(
        scale=torch.tensor([[scale]]).half(), num_bits=4, zero_point=torch.tensor([[zero]], dtype=torch.int8)
    )
    with torch.no_grad():
        module.growth.fill_(growth)
    weight = torch.tensor([rows])
    codes, stored = module.codes(weight)
    assert torch.equal(codes, encode(weight, stored, 4, module.zero_point.to(torch.int8)))
    assert torch.equal(module(weight), dequantize(codes, stored, module.zero_point.to(torch.int8)))
