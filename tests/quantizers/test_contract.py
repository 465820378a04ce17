"""What every quantizer in the table promises, whatever its method."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity, code_range, quant_max
from asrcompress.packing import SUPPORTED_BITS, pack, unpack
from asrcompress.quantizers import QUANTIZERS, get_quantizer, needs_statistics, supported_bits
from asrcompress.quantizers.statistics import InputStatistics

GRANULARITIES = ["per_tensor", "per_channel", "per_group:1", "per_group:4"]
SYMMETRIC = [
    method for method in sorted(QUANTIZERS) if method not in ("asymmetric", "gptq_asymmetric", "gptq_ls", "auto")
]
every_method = pytest.mark.parametrize("method", sorted(QUANTIZERS))
every_grid = pytest.mark.parametrize(
    ("method", "num_bits", "granularity"),
    [(m, b, g) for m in sorted(QUANTIZERS) for b in supported_bits(m) for g in GRANULARITIES],
)


def make_statistics(columns, seed=0):
    """Correlated inputs of very different sizes, as activations are."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) * torch.randn(columns, generator=generator).exp()
    statistics = InputStatistics.empty(1, columns)
    statistics.add(torch.randn(4 * columns, columns, generator=generator) @ mix + 0.3)
    return statistics


def run(method, weight, num_bits, granularity, name="weight"):
    statistics = make_statistics(weight[0].numel()) if weight.dim() > 1 else None
    return get_quantizer(method)(
        weight, num_bits=num_bits, granularity=Granularity.parse(granularity), name=name, statistics=statistics
    )


def some_bits(method):
    """4 bits where there are 4."""
    return 4 if 4 in supported_bits(method) else supported_bits(method)[0]


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


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    st.builds(
        random_weight, st.integers(0, 10**6), st.integers(1, 6), st.sampled_from((4, 8, 12, 20)), st.integers(-40, 30)
    ),
    st.sampled_from(supported_bits("rtn")),
    st.sampled_from(GRANULARITIES),
)
def test_rtn_leaves_every_element_within_half_a_step(weight, num_bits, granularity):
    quantized = run("rtn", weight, num_bits, granularity)
    error = (quantized.dequantize().double() - weight.double()).abs()
    assert (error <= steps(quantized) * (0.5 + 1e-5)).all()


@every_method
@settings(max_examples=25, derandomize=True, deadline=None)
@given(
    st.builds(
        random_weight, st.integers(0, 10**6), st.integers(1, 5), st.sampled_from((4, 8, 12)), st.integers(-40, 30)
    ),
    st.data(),
)
def test_no_code_is_outside_the_grid_whatever_the_magnitude(method, weight, data):
    num_bits = data.draw(st.sampled_from(supported_bits(method)))
    quantized = run(method, weight, num_bits, data.draw(st.sampled_from(GRANULARITIES)))
    low, high = code_range(num_bits, symmetric=quantized.zero_point is None)
    assert low <= int(quantized.codes.min()) <= int(quantized.codes.max()) <= high
    assert torch.equal(
        unpack(pack(quantized.codes, num_bits), num_bits, weight.numel()), quantized.codes.flatten()
    )  # so it can be stored
    assert torch.isfinite(quantized.scale).all()
    if quantized.zero_point is not None:
        assert low <= int(quantized.zero_point.min()) <= int(quantized.zero_point.max()) <= high


@every_grid
def test_codes_and_scales_have_the_documented_shapes_and_types(method, num_bits, granularity):
    weight = random_weight(1, 6, 8).reshape(6, 2, 4)
    quantized = run(method, weight, num_bits, granularity)
    groups = {"per_tensor": (1, 1), "per_channel": (6, 1), "per_group:1": (6, 8), "per_group:4": (6, 2)}
    assert tuple(quantized.scale.shape) == groups[granularity]
    assert quantized.scale.dtype in (torch.float16, torch.float32)
    assert (quantized.scale > 0).all()
    assert (quantized.codes.dtype, tuple(quantized.codes.shape)) == (torch.int8, (6, 8))
    if quantized.zero_point is not None:
        assert (quantized.zero_point.dtype, quantized.zero_point.shape) == (torch.int8, quantized.scale.shape)
    assert (quantized.num_bits, str(quantized.granularity), quantized.shape) == (num_bits, granularity, (6, 2, 4))
    assert quantized.dequantize().shape == weight.shape


@pytest.mark.parametrize("num_bits", supported_bits("rtn"))
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_rtn_uses_the_grid_to_its_end(num_bits, granularity):
    # A grid that is too wide (REFERENCE, trap 2: an 8-bit scale, then fewer bits) wastes codes or clips.
    quantized = run("rtn", random_weight(2, 5, 12), num_bits, granularity)
    assert int(quantized.codes.abs().max()) == quant_max(num_bits)


@pytest.mark.parametrize(
    "method", [m for m in sorted(QUANTIZERS) if 4 in supported_bits(m) and not needs_statistics(m)]
)
def test_int4_per_channel_error_of_gaussian_weights_is_what_the_field_reports(method):
    # REFERENCE, trap 2: 0.127 for plain per-channel int4 of a trained layer, against 4.08 for Fairseq's own.
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(3))
    error = run(method, weight, 4, "per_channel").dequantize() - weight
    assert 0.07 < float(error.norm() / weight.norm()) < 0.14


@every_grid
def test_the_same_weight_gives_the_same_integers_and_is_left_alone(method, num_bits, granularity):
    weight = random_weight(4, 7, 16)
    before = weight.clone()
    first, second = (run(method, weight, num_bits, granularity) for _ in range(2))
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.scale, second.scale)
    assert (first.zero_point is None) == (second.zero_point is None)
    assert first.zero_point is None or torch.equal(first.zero_point, second.zero_point)
    assert torch.equal(weight, before)


@pytest.mark.parametrize(
    ("method", "num_bits", "granularity"),
    [(m, b, g) for m in SYMMETRIC for b in supported_bits(m) for g in GRANULARITIES],
)
def test_negation_is_exact_on_symmetric_grids(method, num_bits, granularity):
    weight = random_weight(5, 4, 8)
    plus, minus = run(method, weight, num_bits, granularity), run(method, -weight, num_bits, granularity)
    assert torch.equal(plus.codes, -minus.codes)


@every_grid
def test_rows_of_zeros_stay_zeros(method, num_bits, granularity):
    weight = random_weight(6, 4, 8)
    weight[1] = 0
    back = run(method, weight, num_bits, granularity).dequantize()
    if (num_bits, granularity) != (1, "per_tensor"):  # signs that share a scale have no 0
        assert not back[1].any()
    assert torch.isfinite(back).all()
    assert back.any()
    assert not run(method, torch.zeros(3, 8), num_bits, granularity).dequantize().any()


@every_method
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_by_name(method, granularity, value):
    weight = torch.ones(3, 8)
    weight[1, 2] = value
    with pytest.raises(AsrCompressError, match=r"fc\.weight: holds NaN or infinity"):
        run(method, weight, some_bits(method), granularity, "fc.weight")


@every_method
def test_groups_that_do_not_divide_name_a_divisor_and_exclude(method):
    with pytest.raises(
        AsrCompressError,
        match=r"fc\.weight: 12 inputs .*groups of 8; use a divisor such as 4, or --exclude 'fc\.weight'",
    ):
        run(method, torch.ones(3, 12), some_bits(method), "per_group:8", "fc.weight")


@every_method
def test_a_vector_is_refused_with_the_way_out(method):
    with pytest.raises(AsrCompressError, match="--exclude 'bias'"):
        run(method, torch.ones(3), some_bits(method), "per_channel", "bias")


@every_method
def test_half_and_double_weights_are_taken(method):
    weight = random_weight(7, 4, 8).half()
    expected = run(method, weight.float(), some_bits(method), "per_channel")
    for same in (weight, weight.double()):
        assert torch.equal(run(method, same, some_bits(method), "per_channel").codes, expected.codes)


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(AsrCompressError, match=r"'magic' is not known; use one of .*rtn"):
        get_quantizer("magic")


@every_method
def test_bits_without_a_grid_are_refused_with_the_way_out(method):
    missing = [num_bits for num_bits in SUPPORTED_BITS if num_bits not in supported_bits(method)]
    for num_bits in missing:
        with pytest.raises(AsrCompressError, match=r"^fc\.weight: --method .*use (--method binary|--bits 1)"):
            run(method, torch.ones(3, 8), num_bits, "per_channel", "fc.weight")
    assert missing or method == "auto"


@every_method
def test_a_method_that_needs_inputs_says_how_to_get_them(method):
    def without():
        options = {"num_bits": some_bits(method), "granularity": Granularity("per_channel"), "name": "fc.weight"}
        return get_quantizer(method)(torch.ones(3, 8), **options)

    if not needs_statistics(method):
        without()
        return
    with pytest.raises(AsrCompressError, match=rf"^fc\.weight: --method {method} needs .*--calibrate DATA"):
        without()


@pytest.mark.parametrize("method", [method for method in sorted(QUANTIZERS) if needs_statistics(method)])
@pytest.mark.parametrize(("value", "message"), [(None, "no calibration input reached"), (float("nan"), "hold NaN")])
def test_inputs_that_say_nothing_are_refused(method, value, message):
    statistics = InputStatistics.empty(1, 8)
    if value is not None:
        statistics.add(torch.full((2, 8), value))
    with pytest.raises(AsrCompressError, match=rf"^fc\.weight: .*{message}.*--calibrate"):
        get_quantizer(method)(
            torch.ones(3, 8),
            num_bits=4,
            granularity=Granularity("per_channel"),
            name="fc.weight",
            statistics=statistics,
        )


@every_method
@pytest.mark.parametrize("value", [0.0, 1e-20])
def test_dead_inputs_do_no_harm(method, value):
    weight = random_weight(8, 5, 8)
    statistics = InputStatistics.empty(1, 8)
    statistics.add(torch.full((4, 8), value))
    back = get_quantizer(method)(
        weight, num_bits=some_bits(method), granularity=Granularity("per_channel"), statistics=statistics
    ).dequantize()
    assert torch.isfinite(back).all()
    assert ((back - weight).norm(dim=1) <= weight.norm(dim=1)).all()
