"""Quantizers on pruned weights: the mask is the sparsifier's, zeros have no say in scales, and errors are made up for together."""

from __future__ import annotations

import itertools

import pytest
import torch

from asrcompress.grids import Granularity, code_range, dequantize, quant_max, zero_codes
from asrcompress.group_codes import join, split
from asrcompress.packing import pack
from asrcompress.patterns import code_sizes
from asrcompress.quantizers import QUANTIZERS, get_quantizer, gptq, supported_bits
from asrcompress.quantizers.statistics import InputStatistics, output_error
from asrcompress.quantizers.support import Pruned
from asrcompress.sparsifiers import prune

COLUMNS = 48
GRANULARITIES = ["per_tensor", "per_channel", "per_group:8", "per_group:6"]  # 6 and groups of 4 do not fall together


def make(seed=0, rows=6, columns=COLUMNS, tokens=600):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.eye(columns) + 0.3 * torch.randn(columns, columns, generator=generator)
    inputs = torch.randn(tokens, columns, generator=generator) @ mix + 0.2
    statistics = InputStatistics.empty(1, columns)
    statistics.add(inputs)
    return torch.randn(rows, columns, generator=generator), inputs, statistics


def quantized(method, weight, num_bits, granularity, statistics, pruned, **options):
    return get_quantizer(method)(
        weight,
        num_bits=num_bits,
        granularity=Granularity.parse(granularity),
        statistics=statistics,
        pruned=pruned,
        **options,
    )


@pytest.mark.parametrize("sparsifier", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(("method", "num_bits"), [(m, b) for m in sorted(QUANTIZERS) for b in supported_bits(m)])
def test_what_is_dropped_is_zero_and_the_rest_is_stored_whatever_the_method(method, num_bits, granularity, sparsifier):
    pattern = (2, 4)
    weight, _, statistics = make(num_bits)
    pruned = prune(weight, pattern, sparsifier=sparsifier, statistics=statistics)
    packed = quantized(method, weight.reshape(6, 12, 4), num_bits, granularity, statistics, pruned)
    assert packed.pattern == pattern
    assert packed.shape == (6, 12, 4)
    low, high = code_range(num_bits, symmetric=packed.zero_point is None)
    assert low <= int(packed.codes.min()) <= int(packed.codes.max()) <= high
    zeros = zero_codes(packed.zero_point, *packed.codes.shape)
    nonzero = packed.codes != zeros
    assert (nonzero.reshape(-1, 4).sum(dim=1) <= 2).all()
    assert not packed.dequantize().reshape(6, -1)[~nonzero].any()
    if not (pruned.by_column and method in ("gptq", "gptq_asymmetric", "gptq_ls", "auto")):
        assert not nonzero[~pruned.mask].any()
    if num_bits == 1:
        assert (nonzero.reshape(-1, 4).sum(dim=1) == 2).all()
    kept, group_codes = split(packed.codes, zeros, pattern)
    stored = pack(kept, num_bits)
    assert stored.numel() + group_codes.numel() == sum(code_sizes(packed.codes.numel(), num_bits, pattern).values())
    assert torch.equal(join(kept, group_codes, zeros, pattern), packed.codes)


@pytest.mark.parametrize("method", ["rtn", "mse", "asymmetric"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_scales_are_found_on_what_is_kept(method, granularity):
    """As if the dropped weights were not there: with per-channel scales, the kept ones alone have the same scale."""
    weight, _, statistics = make(1)
    pruned = prune(weight, (2, 4), sparsifier="magnitude")
    packed = quantized(method, weight, 4, granularity, statistics, pruned)
    zeros = quantized(method, pruned.rows, 4, granularity, statistics, None)
    assert torch.equal(packed.codes, zeros.codes)
    if granularity in ("per_tensor", "per_channel"):
        alone = quantized(method, pruned.rows[pruned.mask].reshape(6, -1), 4, granularity, statistics, None)
        found, expected = (
            float((q.dequantize() - rows).square().sum())
            for q, rows in ((packed, pruned.rows), (alone, pruned.rows[pruned.mask].reshape(6, -1)))
        )
        assert found == pytest.approx(expected, rel=0.02)
    dense = quantized(method, weight.fill_diagonal_(9), 4, granularity, statistics, None)
    assert not torch.equal(dense.scale, packed.scale)


def test_one_bit_is_the_least_squares_optimum_of_what_is_kept():
    weight = torch.tensor([[3.0, -1.0, 0.5, 0.2], [0.1, 0.3, -0.2, 0.0]])
    pruned = prune(weight, (2, 4), sparsifier="magnitude")
    packed = quantized("binary", weight, 1, "per_channel", None, pruned)
    assert packed.codes.tolist() == [[1, -1, 0, 0], [0, 1, -1, 0]]
    assert packed.scale.flatten().tolist() == [2.0, 0.25]
    empty = quantized(
        "binary", weight, 1, "per_group:2", None, pruned
    )  # the second scale of row 0 has nothing to cover
    expected = torch.tensor([[2.0, -2.0, 0.0, 0.0], [0.0, 0.3, -0.2, 0.0]])
    assert torch.allclose(empty.dequantize(), expected, rtol=1e-3)


def errors_of_rows(packed, weight, inputs):
    return ((weight - packed.dequantize()).double() @ inputs.double().t()).square().sum(dim=1)


@pytest.mark.parametrize("sparsifier", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("granularity", ["per_channel", "per_group:8", "per_group:6"])
@pytest.mark.parametrize("num_bits", [4, 2])
def test_no_row_has_a_larger_output_error_by_gptq_than_by_rounding(sparsifier, granularity, num_bits):
    weight, inputs, statistics = make(2, rows=32)
    pruned = prune(weight, (2, 4), sparsifier=sparsifier, statistics=statistics)
    found = {
        method: errors_of_rows(quantized(method, weight, num_bits, granularity, statistics, pruned), weight, inputs)
        for method in ("rtn", "mse", "gptq", "asymmetric", "gptq_asymmetric")
    }
    assert (found["gptq"] <= torch.minimum(found["rtn"], found["mse"]) * 1.001).all()
    assert (found["gptq_asymmetric"] <= found["asymmetric"] * 1.001).all()
    assert found["gptq"].sum() < 0.97 * found["mse"].sum()


def test_auto_is_as_good_as_the_best_of_them():
    weight, _, statistics = make(3, rows=16)
    pruned = prune(weight, (2, 4), sparsifier="sparsegpt", statistics=statistics)
    error = {
        method: output_error(weight, quantized(method, weight, 2, "per_channel", statistics, pruned).dequantize(), statistics)
        for method in ("rtn", "mse", "gptq", "asymmetric", "gptq_asymmetric", "auto")
    }  # fmt: skip
    assert error["auto"] == min(error.values())


def reference_masked(weight, inputs, mask, scale, num_bits):
    """Optimal brain quantization in double, column by column, with what the mask drops held at 0."""
    hessian = inputs.double().t() @ inputs.double()
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    inverse, left = torch.linalg.inv(hessian), weight.double().clone()
    codes, limit = torch.zeros_like(weight), quant_max(num_bits)
    for column in range(weight.shape[1]):
        code = (left[:, column] / scale.double()[:, 0]).round().clamp(-limit, limit) * mask[:, column]
        codes[:, column] = code.float()
        error = (left[:, column] - code * scale.double()[:, 0]) / inverse[column, column]
        left = left - torch.outer(error, inverse[column])
        inverse = inverse - torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        inverse[column, column] = 1.0
    return codes


@pytest.mark.parametrize("columns", [48, 300])
def test_gptq_with_a_mask_is_column_by_column_elimination_with_the_mask_held(columns):
    weight, inputs, statistics = make(4, columns=columns, tokens=1000)
    pruned = prune(weight, (2, 4), sparsifier="wanda", statistics=statistics)
    start = quantized("mse", weight, 4, "per_channel", statistics, pruned)
    found = gptq.compensate(weight, start, statistics.second_moment, mask=pruned.mask)
    expected = reference_masked(weight, inputs, pruned.mask, start.scale, 4)
    assert not found.codes[~pruned.mask].any()
    assert float((found.codes == expected).double().mean()) > 0.97
    assert found.codes.ne(start.codes).double().mean() > 0.1


@pytest.mark.parametrize("granularity", ["per_channel", "per_group:12", "per_group:6", "per_group:2"])
@pytest.mark.parametrize("pattern", [(2, 4), (1, 4), (3, 8), (7, 16)])
def test_groups_chosen_while_rounding_keep_exactly_n_and_lose_less(granularity, pattern):
    weight, inputs, statistics = make(5, rows=64)
    pruned = prune(weight, pattern, sparsifier="sparsegpt", statistics=statistics)
    start = quantized("mse", weight, 2, granularity, statistics, pruned)
    joint = gptq.compensate(weight, start, statistics.second_moment, pattern=pattern)
    assert ((joint.codes != 0).reshape(-1, pattern[1]).sum(dim=1) <= pattern[0]).all()
    assert (joint.codes != start.codes).any()
    if not (start.granularity.group_size or 0) % pattern[1]:  # else a scale is found before all it covers is chosen
        assert errors_of_rows(joint, weight, inputs).sum() < errors_of_rows(start, weight, inputs).sum()
    assert torch.equal(joint.codes, gptq.compensate(weight, start, statistics.second_moment, pattern=pattern).codes)


@pytest.mark.parametrize("sparsifier", ["wanda", "sparsegpt"])
def test_columns_in_the_order_of_their_inputs_keep_the_mask(sparsifier):
    weight, _, statistics = make(6)
    pruned = prune(weight, (2, 4), sparsifier=sparsifier, statistics=statistics)
    packed = quantized("gptq", weight, 4, "per_channel", statistics, pruned, act_order=True)
    assert not packed.codes[~pruned.mask].any()
    back = dequantize(packed.codes, packed.scale)
    assert output_error(weight, back, statistics) < 1.2 * output_error(weight, pruned.rows, statistics)


def test_dropped_weights_are_made_up_for_by_gptq_whoever_chose_them():
    """With 8 bits rounding is nothing, so what is left is pruning."""
    for method, sparsifier in itertools.product(("gptq", "gptq_asymmetric"), ("magnitude", "wanda")):
        weight, _, statistics = make(7, rows=32)
        pruned = prune(weight, (2, 4), sparsifier=sparsifier, statistics=statistics)
        back = quantized(method, weight, 8, "per_channel", statistics, pruned).dequantize()
        assert output_error(weight, back, statistics) < 0.9 * output_error(weight, pruned.rows, statistics)


@pytest.mark.parametrize("granularity", ["per_group:8", "per_group:6"])
def test_scales_of_groups_that_gptq_searches_are_found_on_what_is_kept(granularity):
    """With uncorrelated inputs nothing moves, so they are those of the masked weight, however large what is dropped."""
    weight = make(8)[0]
    mask = prune(1 / weight, (2, 4), sparsifier="magnitude").mask  # keeps the smallest
    pruned = Pruned(torch.where(mask, weight, 0.0), mask, (2, 4))
    start = quantized("mse", weight, 4, granularity, None, pruned)
    found = gptq.compensate(weight, start, torch.eye(COLUMNS).unsqueeze(0), mask=mask)
    assert torch.equal(found.scale, start.scale)
    assert torch.equal(found.codes, start.codes)


def test_grids_grow_with_the_weights_that_make_up_for_dropped_ones():
    """Where all inputs are nearly the same, the two weights that stay do the work of four, so they are twice as large."""
    generator = torch.Generator().manual_seed(9)
    weight = 1 + 0.1 * torch.rand(8, COLUMNS, generator=generator)
    statistics = InputStatistics.empty(1, COLUMNS)
    statistics.add(torch.randn(500, 1, generator=generator) + 0.3 * torch.randn(500, COLUMNS, generator=generator))
    pruned = prune(weight, (2, 4), sparsifier="magnitude")
    start = quantized("mse", weight, 4, "per_channel", None, pruned)
    clipped = gptq.compensate(weight, start, statistics.second_moment, mask=pruned.mask)
    errors = [
        output_error(weight, packed.dequantize(), statistics)
        for packed in (quantized("gptq", weight, 4, "per_channel", statistics, pruned), clipped)
    ]
    assert errors[0] < 0.5 * errors[1]
