"""Integer grids: scales' shapes, rounding, and what is refused. Laws over all quantizers are in quantizers/test_contract.py."""

from __future__ import annotations

import pytest
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.grids import (
    BLOCK_ELEMENTS,
    Granularity,
    as_rows,
    dequantize,
    encode,
    max_abs,
    narrow_scale,
    quant_max,
)


@pytest.mark.parametrize("text", ["per_tensor", "per_channel", "per_group:1", "per_group:32"])
def test_a_granularity_reads_back_as_it_is_written(text):
    assert str(Granularity.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "per_row",
        "per_group",
        "per_group:",
        "per_group:0",
        "per_group:-4",
        "per_group:4.0",
        "per_group:٣",
        "per_channel:8",
        "PER_TENSOR",
    ],
)
def test_other_granularities_are_refused_with_the_way_out(text):
    with pytest.raises(AsrCompressError, match=r"use per_channel, per_tensor, or per_group:SIZE"):
        Granularity.parse(text)


def test_codes_are_symmetric_around_zero():
    assert [quant_max(num_bits) for num_bits in (8, 4, 3, 2)] == [127, 7, 3, 1]


def test_the_largest_magnitude_is_taken_over_what_shares_a_scale():
    rows = torch.tensor([[1.0, -4.0, 2.0, 0.5], [0.0, 0.0, -3.0, 1.0]])
    assert max_abs(rows, Granularity.parse("per_tensor")).tolist() == [[4.0]]
    assert max_abs(rows, Granularity.parse("per_channel")).tolist() == [[4.0], [3.0]]
    assert max_abs(rows, Granularity.parse("per_group:2")).tolist() == [[4.0, 2.0], [0.0, 3.0]]


def test_groups_that_do_not_divide_name_the_weight_a_divisor_and_exclude():
    with pytest.raises(
        AsrCompressError,
        match=r"fc1\.weight: 144 inputs .* groups of 32; use a divisor such as 16, or --exclude 'fc1\.weight'",
    ):
        Granularity.parse("per_group:32").num_groups(144, "fc1.weight")


def test_dequantize_is_code_times_the_scale_of_its_group():
    codes = torch.tensor([[1, -2, 3, 4], [5, 6, -7, 0]], dtype=torch.int8)
    by_group = torch.tensor([[0.5, 2.0], [1.0, 0.25]])
    assert dequantize(codes, by_group).tolist() == [[0.5, -1.0, 6.0, 8.0], [5.0, 6.0, -1.75, 0.0]]
    assert dequantize(codes, torch.tensor([[2.0], [1.0]])).tolist() == [[2.0, -4.0, 6.0, 8.0], [5.0, 6.0, -7.0, 0.0]]
    assert dequantize(codes, torch.tensor([[0.5]])).tolist() == [[0.5, -1.0, 1.5, 2.0], [2.5, 3.0, -3.5, 0.0]]


def test_encode_takes_the_nearest_code_and_stays_on_the_grid():
    rows = torch.tensor([[0.24, -0.26, 0.74, 0.76, 100.0, -100.0]])
    assert encode(rows, torch.tensor([[0.5]]), 3).tolist() == [[0, -1, 1, 2, 3, -3]]


def test_a_scale_is_half_precision_only_where_all_of_them_are_normal_there():
    smallest, largest = 2.0**-14, 65504.0
    assert narrow_scale(torch.tensor([[smallest], [largest]])).dtype == torch.float16
    for outside in (smallest * 0.999, largest * 1.001):
        kept = narrow_scale(torch.tensor([[outside], [1.0]]))
        assert kept.dtype == torch.float32
        assert kept[0].item() == pytest.approx(outside, rel=1e-6)


def test_a_scale_of_zero_becomes_one():
    assert narrow_scale(torch.zeros(2, 1)).tolist() == [[1.0], [1.0]]


def test_rows_are_outputs_and_columns_everything_else():
    weight = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert as_rows(weight).tolist() == [list(range(12)), list(range(12, 24))]


@pytest.mark.parametrize("weight", [torch.ones(3), torch.ones(()), torch.ones(0, 4), torch.ones(4, 0)])
def test_what_has_no_rows_and_columns_is_refused(weight):
    with pytest.raises(AsrCompressError, match=r"odd: shape .* --exclude 'odd'"):
        as_rows(weight, "odd")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_what_is_not_finite_in_float32_is_refused(value):
    weight = torch.ones(2, 2, dtype=torch.float64)
    weight[1, 0] = value
    with pytest.raises(AsrCompressError, match="odd: holds NaN or infinity"):
        as_rows(weight, "odd")


@pytest.mark.parametrize("kind", ["per_tensor", "per_channel", "per_group:4"])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_many_rows_are_rounded_as_all_at_once(kind, asymmetric):
    """Against the formula, over more than is worked on at once, with what lies outside the grid."""
    rows = torch.randn(BLOCK_ELEMENTS // 64 + 3, 64, generator=torch.Generator().manual_seed(0))
    granularity = Granularity.parse(kind)
    largest = max_abs(rows, granularity)
    scale = largest / 5
    grouped = rows.reshape(len(scale), scale.shape[1], -1)
    assert torch.equal(largest, grouped.abs().amax(dim=-1))
    zero_point = torch.randint(-8, 8, scale.shape, dtype=torch.int8) if asymmetric else None
    steps = torch.round(grouped / scale.unsqueeze(-1)) + (zero_point.unsqueeze(-1) if asymmetric else 0)
    codes = encode(rows, scale, 3, zero_point)
    assert torch.equal(codes, steps.clamp(-4 if asymmetric else -3, 3).to(torch.int8).reshape(rows.shape))


@pytest.mark.parametrize("kind", ["per_tensor", "per_channel", "per_group:2"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_is_not_finite_shows_in_the_largest_magnitude(kind, value):
    rows = torch.tensor([[1.0, 2.0, value, 3.0], [4.0, 5.0, 6.0, 7.0]])
    assert not torch.isfinite(max_abs(rows, Granularity.parse(kind))).all()
