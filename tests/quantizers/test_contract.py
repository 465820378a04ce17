"""What every quantizer in the table promises, whatever its method."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity, quant_max
from asrcompress.packing import SUPPORTED_BITS
from asrcompress.quantizers import QUANTIZERS, get_quantizer

GRANULARITIES = ["per_tensor", "per_channel", "per_group:1", "per_group:4"]
every_method = pytest.mark.parametrize("method", sorted(QUANTIZERS))
every_grid = pytest.mark.parametrize(
    ("num_bits", "granularity"), [(b, g) for b in SUPPORTED_BITS for g in GRANULARITIES]
)


def run(method, weight, num_bits, granularity, name="weight"):
    return get_quantizer(method)(weight, num_bits=num_bits, granularity=Granularity.parse(granularity), name=name)


def random_weight(seed, rows, columns, exponent=0):
    """Normal, with rows of very different sizes, as trained layers have them."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randn(rows, 1, generator=generator).exp()
    return torch.randn(rows, columns, generator=generator) * spread * 10.0**exponent


def steps(quantized):
    """The step that each element was rounded with, in the weight's shape."""
    codes, scale = quantized.codes, quantized.scale.double()
    per_column = scale.repeat_interleave(codes.shape[1] // scale.shape[1], dim=1)
    return per_column.expand_as(codes).reshape(quantized.shape)


@every_method
@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    st.builds(
        random_weight, st.integers(0, 10**6), st.integers(1, 6), st.sampled_from((4, 8, 12, 20)), st.integers(-40, 30)
    ),
    st.sampled_from(SUPPORTED_BITS),
    st.sampled_from(GRANULARITIES),
)
def test_every_element_is_within_half_a_step(method, weight, num_bits, granularity):
    quantized = run(method, weight, num_bits, granularity)
    error = (quantized.dequantize().double() - weight.double()).abs()
    assert (error <= steps(quantized) * (0.5 + 1e-5)).all()
    assert quantized.codes.abs().max() <= quant_max(num_bits)


@every_method
@every_grid
def test_codes_and_scales_have_the_documented_shapes_and_types(method, num_bits, granularity):
    weight = random_weight(1, 6, 8).reshape(6, 2, 4)
    quantized = run(method, weight, num_bits, granularity)
    groups = {"per_tensor": (1, 1), "per_channel": (6, 1), "per_group:1": (6, 8), "per_group:4": (6, 2)}
    assert tuple(quantized.scale.shape) == groups[granularity]
    assert quantized.scale.dtype in (torch.float16, torch.float32)
    assert (quantized.scale > 0).all()
    assert (quantized.codes.dtype, tuple(quantized.codes.shape)) == (torch.int8, (6, 8))
    assert (quantized.num_bits, str(quantized.granularity), quantized.shape) == (num_bits, granularity, (6, 2, 4))
    assert quantized.dequantize().shape == weight.shape


@every_method
@every_grid
def test_the_grid_is_used_to_its_end(method, num_bits, granularity):
    # A grid that is too wide (REFERENCE, trap 2: an 8-bit scale, then fewer bits) wastes codes or clips.
    quantized = run(method, random_weight(2, 5, 12), num_bits, granularity)
    assert int(quantized.codes.abs().max()) == quant_max(num_bits)


@every_method
def test_int4_per_channel_error_of_gaussian_weights_is_what_the_field_reports(method):
    # REFERENCE, trap 2: 0.127 for plain per-channel int4 of a trained layer, against 4.08 for Fairseq's own.
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(3))
    error = run(method, weight, 4, "per_channel").dequantize() - weight
    assert 0.09 < float(error.norm() / weight.norm()) < 0.14


@every_method
@every_grid
def test_the_same_weight_gives_the_same_integers_and_is_left_alone(method, num_bits, granularity):
    weight = random_weight(4, 7, 16)
    before = weight.clone()
    first, second = (run(method, weight, num_bits, granularity) for _ in range(2))
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.scale, second.scale)
    assert torch.equal(weight, before)


@every_method
@every_grid
def test_negation_is_exact(method, num_bits, granularity):
    weight = random_weight(5, 4, 8)
    plus, minus = run(method, weight, num_bits, granularity), run(method, -weight, num_bits, granularity)
    assert torch.equal(plus.codes, -minus.codes)


@every_method
@every_grid
def test_rows_of_zeros_stay_zeros(method, num_bits, granularity):
    weight = random_weight(6, 4, 8)
    weight[1] = 0
    back = run(method, weight, num_bits, granularity).dequantize()
    assert not back[1].any()
    assert torch.isfinite(back).all()
    assert not run(method, torch.zeros(3, 8), num_bits, granularity).dequantize().any()


@every_method
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_by_name(method, granularity, value):
    weight = torch.ones(3, 8)
    weight[1, 2] = value
    with pytest.raises(AsrCompressError, match=r"fc\.weight: holds NaN or infinity"):
        run(method, weight, 8, granularity, "fc.weight")


@every_method
def test_groups_that_do_not_divide_name_a_divisor_and_exclude(method):
    with pytest.raises(
        AsrCompressError,
        match=r"fc\.weight: 12 inputs .*groups of 8; use a divisor such as 4, or --exclude 'fc\.weight'",
    ):
        run(method, torch.ones(3, 12), 4, "per_group:8", "fc.weight")


@every_method
def test_a_vector_is_refused_with_the_way_out(method):
    with pytest.raises(AsrCompressError, match="--exclude 'bias'"):
        run(method, torch.ones(3), 8, "per_channel", "bias")


@every_method
def test_half_and_double_weights_are_taken(method):
    weight = random_weight(7, 4, 8).half()
    expected = run(method, weight.float(), 4, "per_channel")
    for same in (weight, weight.double()):
        assert torch.equal(run(method, same, 4, "per_channel").codes, expected.codes)


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(AsrCompressError, match=r"'magic' is not known; use one of .*rtn"):
        get_quantizer("magic")
