"""Each method against the ones before it, on its own objective, and against independent answers."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity, as_rows, dequantize, quant_max
from asrcompress.quantizers import auto, bias_correction, gptq, gptq_asymmetric
from asrcompress.quantizers import get_quantizer as get
from asrcompress.quantizers.statistics import MAX_COLUMNS, InputStatistics, output_error

BITS = [8, 4, 3, 2]
GRANULARITIES = ["per_tensor", "per_channel", "per_group:4", "per_group:12"]
cases = st.tuples(
    st.integers(0, 10**6),
    st.sampled_from(["normal", "heavy", "skewed"]),
    st.sampled_from(BITS),
    st.sampled_from(GRANULARITIES),
)


def make_weight(kind, seed, rows=6, columns=24):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    if kind == "heavy":
        weight = weight / torch.rand(rows, columns, generator=generator).clamp_min(1e-3)
    if kind == "skewed":
        weight = weight.abs() * 1.5 - 0.3
    return weight


def make_inputs(seed, tokens=200, columns=24):
    generator = torch.Generator().manual_seed(seed + 1)
    mix = torch.randn(columns, columns, generator=generator) + 3 * torch.randn(columns, 1, generator=generator)
    return torch.randn(tokens, columns, generator=generator) @ mix.t() / columns**0.5 + 0.5


def collect(inputs, groups=1):
    statistics = InputStatistics.empty(groups, inputs.shape[-1])
    for part in inputs.split(64):
        statistics.add(part)
    return statistics


def quantized(method, weight, num_bits, granularity, statistics=None):
    return get(method)(weight, num_bits=num_bits, granularity=Granularity.parse(granularity), statistics=statistics)


def weight_errors(packed, weight, granularity):
    """Squared error of the weights that share a scale, one by one."""
    square = (packed.dequantize() - weight).double().square()
    if granularity == "per_tensor":
        return square.sum()
    size = Granularity.parse(granularity).group_size or weight.shape[1]
    return square.reshape(weight.shape[0], -1, size).sum(dim=-1)


@settings(max_examples=120, derandomize=True, deadline=None)
@given(cases)
def test_mse_and_asymmetric_never_have_a_larger_weight_error_than_the_method_before(case):
    seed, kind, num_bits, granularity = case
    weight = make_weight(kind, seed)
    rtn, mse, asymmetric = (
        weight_errors(quantized(method, weight, num_bits, granularity), weight, granularity)
        for method in ("rtn", "mse", "asymmetric")
    )
    assert (mse <= rtn * (1 + 1e-5)).all()
    assert (asymmetric <= mse * (1 + 1e-5)).all()


@settings(max_examples=60, derandomize=True, deadline=None)
@given(cases)
def test_gptq_and_auto_never_have_a_larger_output_error_than_the_methods_before(case):
    seed, kind, num_bits, granularity = case
    weight, inputs = make_weight(kind, seed), make_inputs(seed).double()
    statistics = collect(inputs.float())

    def error(method):  # from the inputs themselves, not from their moments
        packed = quantized(method, weight, num_bits, granularity, statistics)
        return float(((weight - packed.dequantize()).double() @ inputs.t()).square().sum())

    errors = {method: error(method) for method in ("rtn", "mse", "gptq", "asymmetric", "gptq_asymmetric", "auto")}
    slack = 1 + 1e-4
    assert errors["gptq"] <= min(errors["rtn"], errors["mse"]) * slack
    assert errors["gptq_asymmetric"] <= errors["asymmetric"] * slack
    assert errors["auto"] <= min(errors[method] for method in auto.candidates(num_bits)) * slack


@pytest.mark.parametrize("num_bits", [4, 3, 2])
@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_mse_is_the_minimum_over_a_brute_force_search(num_bits, granularity):
    weight = make_weight("heavy", 3, rows=4, columns=16)
    found = weight_errors(quantized("mse", weight, num_bits, granularity), weight, granularity)
    limit = quant_max(num_bits)
    largest = weight.abs().max() if granularity == "per_tensor" else weight.abs().amax(dim=1, keepdim=True)
    tried = []
    for fraction in torch.linspace(0.01, 1.2, 4000):
        step = largest / limit * fraction
        square = ((weight / step).round().clamp(-limit, limit) * step - weight).double().square()
        tried.append(square.sum() if granularity == "per_tensor" else square.sum(dim=1, keepdim=True))
    assert (found <= torch.stack(tried).amin(dim=0) * 1.02).all()


def test_clipping_pays_where_one_of_many_weights_is_far_out():
    weight = torch.randn(4, 1024, generator=torch.Generator().manual_seed(1))
    weight[:, 0] = 8.0
    rtn, mse = (
        float((quantized(method, weight, 4, "per_channel").dequantize() - weight).norm()) for method in ("rtn", "mse")
    )
    assert mse < 0.7 * rtn


def reference_obq(weight, inputs, scale, num_bits):
    """Optimal brain quantization, column by column, in double: the inverse Hessian shrinks by elimination.

    GPTQ's algorithm before its Cholesky form (arXiv 2210.17323, equations 2 and 3).
    """
    hessian = inputs.double().t() @ inputs.double()
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    inverse, left = torch.linalg.inv(hessian), weight.double().clone()
    codes, limit = torch.zeros_like(weight), quant_max(num_bits)
    for column in range(weight.shape[1]):
        code = (left[:, column] / scale.double()[:, 0]).round().clamp(-limit, limit)
        codes[:, column] = code.float()
        error = (left[:, column] - code * scale.double()[:, 0]) / inverse[column, column]
        left = left - torch.outer(error, inverse[column])
        inverse = inverse - torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        inverse[column, column] = 1.0  # column is done; its row and column are 0 by now
    return codes


@pytest.mark.parametrize("num_bits", [4, 3, 2])
@pytest.mark.parametrize("columns", [24, 300])
def test_gptq_gives_the_codes_of_column_by_column_elimination(num_bits, columns):
    weight, inputs = make_weight("normal", 7, columns=columns), make_inputs(7, tokens=900, columns=columns)
    start = quantized("mse", weight, num_bits, "per_channel")
    found = gptq.compensate(weight, start, collect(inputs).second_moment)
    expected = reference_obq(weight, inputs, start.scale, num_bits)
    assert torch.equal(found.scale, start.scale)
    # float32 against double: a weight at the middle between two codes may go either way, and takes a few with it.
    assert float((found.codes == expected).double().mean()) > 0.97
    assert found.codes.ne(start.codes).float().mean() > 0.1  # and it is not what rounding gives


def test_gptq_halves_the_output_error_of_correlated_inputs():
    weight, inputs = make_weight("normal", 9, rows=32, columns=64), make_inputs(9, tokens=600, columns=64)
    statistics = collect(inputs)
    errors = {
        m: output_error(weight, quantized(m, weight, 3, "per_channel", statistics).dequantize(), statistics)
        for m in ("mse", "gptq")
    }
    assert errors["gptq"] < 0.5 * errors["mse"]


@pytest.mark.parametrize("method", [gptq, gptq_asymmetric])
@pytest.mark.parametrize("granularity", ["per_channel", "per_group:8"])
def test_columns_in_the_order_of_their_inputs_stay_in_their_places(method, granularity):
    weight, inputs = make_weight("normal", 11), make_inputs(11) * torch.linspace(0.1, 3, 24)
    statistics = collect(inputs)
    options = {"num_bits": 4, "granularity": Granularity.parse(granularity), "statistics": statistics}
    plain = output_error(weight, method.quantize(weight, **options).dequantize(), statistics)
    ordered = method.quantize(weight, **options, act_order=True)
    assert output_error(weight, ordered.dequantize(), statistics) < 2 * plain
    assert float((ordered.dequantize() - weight).norm() / weight.norm()) < 0.4


@pytest.mark.parametrize("method", ["gptq", "gptq_asymmetric", "auto"])
@pytest.mark.parametrize("granularity", ["per_channel", "per_group:4"])
def test_a_grouped_convolution_is_its_groups_one_by_one(method, granularity):
    weight = make_weight("normal", 13, rows=6, columns=12).reshape(6, 4, 3)
    inputs = torch.stack([make_inputs(seed, columns=12) for seed in (1, 2)], dim=1)  # (tokens, groups, columns)
    whole = quantized(method, weight, 3, granularity, collect(inputs, groups=2))
    parts = [quantized(method, weight[3 * g : 3 * g + 3], 3, granularity, collect(inputs[:, g])) for g in range(2)]
    if method == "auto":  # which picks for the layer as a whole
        assert whole.method in auto.candidates(3)
        return
    assert torch.equal(whole.codes, torch.cat([part.codes for part in parts]))
    assert torch.equal(whole.scale, torch.cat([part.scale for part in parts]))


def test_output_error_is_what_a_grouped_convolution_gives():
    weight = make_weight("normal", 15, rows=6, columns=12).reshape(6, 4, 3)
    x = torch.randn(2, 8, 50, generator=torch.Generator().manual_seed(0)) + 0.2
    patches = x.unfold(2, 3, 1).reshape(2, 2, 4, 48, 3).permute(0, 3, 1, 2, 4).reshape(96, 2, 12)
    statistics = collect(patches, groups=2)
    packed = quantized("rtn", weight, 3, "per_channel")
    before = torch.conv1d(x.double(), weight.double(), groups=2)
    after = torch.conv1d(x.double(), packed.dequantize().double(), groups=2)
    expected = float((after - before).square().sum() / before.square().sum())
    found = output_error(as_rows(weight), dequantize(packed.codes, packed.scale), statistics)
    assert found == pytest.approx(expected, rel=1e-4)
    bias = bias_correction.bias_shift(weight, packed, statistics)
    assert torch.allclose((after + bias[:, None]).mean(dim=(0, 2)), before.mean(dim=(0, 2)), atol=1e-6)


@pytest.mark.parametrize("method", ["rtn", "gptq", "asymmetric"])
def test_bias_correction_keeps_the_mean_of_the_output(method):
    weight, inputs = make_weight("skewed", 17), make_inputs(17) + 2
    statistics = collect(inputs)
    packed = quantized(method, weight, 2, "per_channel", statistics)
    before, after = inputs @ weight.t(), inputs @ packed.dequantize().t()
    shift = bias_correction.bias_shift(weight, packed, statistics)
    assert (after.mean(dim=0) - before.mean(dim=0)).abs().max() > 0.05
    assert torch.allclose((after + shift).mean(dim=0), before.mean(dim=0), atol=1e-4)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["per_tensor", "per_channel", "per_group:2"]))
def test_one_bit_is_the_least_squares_optimum(seed, granularity):
    weight = make_weight("heavy", seed, rows=2, columns=4)
    found = weight_errors(quantized("binary", weight, 1, granularity), weight, granularity)
    size = weight.numel() if granularity == "per_tensor" else Granularity.parse(granularity).group_size or 4
    best = []
    for part in weight.double().reshape(-1, size):
        signs = [
            torch.tensor([1.0 if number >> bit & 1 else -1.0 for bit in range(size)]).double()
            for number in range(2**size)
        ]
        # For signs s the best scale is <w, s> / <s, s>; what is left is w's part across s.
        best.append(min(float(part.square().sum() - (part @ s).square() / size) for s in signs))
    assert found.flatten().tolist() == pytest.approx(best, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("granularity", ["per_channel", "per_group:12"])
@pytest.mark.parametrize("kind", ["skewed", "normal"])
def test_at_two_bits_four_codes_beat_three(kind, granularity):
    weight = make_weight(kind, 19, rows=32)
    errors = {
        method: float(weight_errors(quantized(method, weight, 2, granularity), weight, granularity).sum())
        for method in ("mse", "asymmetric")
    }
    assert errors["asymmetric"] < (0.5 if kind == "skewed" else 0.85) * errors["mse"]


def test_an_evenly_spread_group_is_exact_on_an_asymmetric_grid():
    weight = torch.tensor([[0.0, 1.0, 2.0, 3.0], [-1.0, 0.0, 1.0, 2.0]])
    assert torch.equal(quantized("asymmetric", weight, 2, "per_channel").dequantize(), weight)


@pytest.mark.parametrize(("num_bits", "expected"), [(4, "gptq_asymmetric"), (1, "binary")])
def test_auto_says_what_it_picked(num_bits, expected):
    weight, inputs = make_weight("skewed", 21, rows=32), make_inputs(21)
    assert quantized("auto", weight, num_bits, "per_channel", collect(inputs)).method == expected


def test_of_equals_auto_picks_the_simplest():
    weight = torch.tensor([[7.0, -3.0, 1.0], [-7.0, 2.0, 0.0]])  # on the grid already
    assert quantized("auto", weight, 4, "per_channel", collect(torch.randn(9, 3))).method == "rtn"


def test_with_unknown_inputs_gptq_is_mse():
    weight = make_weight("heavy", 23)
    found, mse = (
        quantized("gptq", weight, 3, "per_channel", InputStatistics.unknown(24)),
        quantized("mse", weight, 3, "per_channel"),
    )
    assert torch.equal(found.codes, mse.codes)
    assert torch.equal(found.scale, mse.scale)


def test_wide_weights_keep_the_diagonal_and_say_so():
    columns = MAX_COLUMNS + 8
    weight = torch.randn(2, columns, generator=torch.Generator().manual_seed(0))
    statistics = InputStatistics.empty(1, columns)
    inputs = torch.randn(5, columns)
    statistics.add(inputs)
    assert statistics.is_diagonal
    assert torch.allclose(statistics.second_moment, inputs.square().sum(dim=0, keepdim=True))
    packed = {
        method: quantized(method, weight, 4, "per_channel", statistics)
        for method in ("rtn", "mse", "gptq", "gptq_asymmetric")
    }
    assert [packed[method].method for method in ("gptq", "gptq_asymmetric")] == ["mse", "asymmetric"]
    errors = {method: output_error(weight, each.dequantize(), statistics) for method, each in packed.items()}
    assert errors["gptq"] <= min(errors["rtn"], errors["mse"])
    unknown = InputStatistics.unknown(columns)
    assert output_error(weight, weight * 0.9, unknown) == pytest.approx(0.01, rel=1e-3)


def test_statistics_of_another_weight_are_a_bug():
    with pytest.raises(ValueError, match="statistics of"):
        quantized("gptq", torch.ones(4, 8), 4, "per_channel", collect(torch.randn(5, 6)))
    with pytest.raises(ValueError, match="statistics of"):
        quantized("gptq", torch.ones(4, 8), 4, "per_channel", collect(torch.randn(5, 3, 8), groups=3))


def test_moments_that_no_inputs_have_are_refused():
    statistics = collect(torch.randn(5, 8))
    statistics.second_moment -= 100 * torch.eye(8) - 101 * torch.ones(8, 8)
    with pytest.raises(AsrCompressError, match="no usable second moment"):
        quantized("gptq", torch.randn(4, 8), 4, "per_channel", statistics)


def test_the_error_of_an_output_that_is_always_zero_is_not_zero():
    statistics = InputStatistics.unknown(4)
    zeros = torch.zeros(2, 4)
    assert output_error(zeros, zeros, statistics) == 0.0
    assert output_error(zeros, torch.ones(2, 4), statistics) == float("inf")


@pytest.mark.parametrize(("rows", "columns"), [(576, 144), (256, 2880)])
def test_gptq_is_quick(rows, columns):
    weight, statistics = torch.randn(rows, columns), InputStatistics.empty(1, columns)
    statistics.add(torch.randn(500, columns))
    begin = time.process_time()
    quantized("gptq", weight, 4, "per_channel", statistics)
    assert time.process_time() - begin < 5  # about a second for the wide one


def test_weight_errors_of_a_trained_transformer(digits_dir):
    # REFERENCE, trap 2: 0.127 for plain per-channel int4 of a trained layer, against 4.08 for Fairseq's own.
    state = torch.load(digits_dir / "checkpoint_best.pt", map_location="cpu", weights_only=False)["model"]
    weights = [
        state[f"encoder.transformer_layers.{layer}.{part}.weight"].float()
        for layer in (0, 5)
        for part in ("fc1", "fc2", "self_attn.q_proj")
    ]
    found = {}
    for num_bits in (4, 3, 2):
        for method in ("rtn", "mse", "asymmetric"):
            errors = [
                float((quantized(method, w, num_bits, "per_channel").dequantize() - w).norm() / w.norm())
                for w in weights
            ]
            found[num_bits, method] = sum(errors) / len(errors)
        assert found[num_bits, "asymmetric"] < found[num_bits, "mse"] < found[num_bits, "rtn"]
    print({key: round(value, 4) for key, value in found.items()})
    assert 0.10 < found[4, "rtn"] < 0.15


@pytest.mark.parametrize("granularity", ["per_channel", "per_group:8"])
@pytest.mark.parametrize("seed", range(4))
def test_no_row_is_worse_by_gptq_even_where_inputs_are_hardly_correlated(granularity, seed):
    weight = make_weight("normal", seed, rows=64)
    inputs = torch.randn(2000, 24, generator=torch.Generator().manual_seed(seed)).double()
    statistics = collect(inputs.float())

    def errors(packed):
        return ((weight - packed.dequantize()).double() @ inputs.t()).square().sum(dim=1)

    rtn, mse, found = (
        errors(quantized(method, weight, 3, granularity, statistics)) for method in ("rtn", "mse", "gptq")
    )
    alone = errors(gptq.compensate(weight, quantized("mse", weight, 3, granularity), statistics.second_moment))
    assert (alone > torch.minimum(rtn, mse) * 1.001).any()  # so the choice matters here
    assert (found <= torch.minimum(torch.minimum(rtn, mse), alone) * 1.001).all()
