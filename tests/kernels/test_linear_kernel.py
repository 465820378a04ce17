"""One product by the kernels against the same sums by torch, to the bit."""

from __future__ import annotations

import math

import pytest
import torch

from asrcompress.kernels.call import check, linear, usable
from asrcompress.kernels.weights import PanelWeight, fits, stack
from tests.kernels.conftest import packed, product_in_words

SHAPES = [(1, 4, 1), (5, 7, 3), (6, 64, 64), (7, 65, 66), (13, 36, 130), (97, 144, 48), (200, 20, 17)]


def panels(weight, bias=None):
    return PanelWeight(weight.codes, weight.scale, weight.zero_point, bias)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("options", [{}, {"granularity": "per_tensor"}, {"method": "asymmetric"}, {"bits": 2}], ids=str)
def test_every_shape_gives_the_same_bits(rows, inputs, outputs, options):
    weight, bias, x = packed(outputs, inputs, **options), torch.randn(outputs), torch.randn(rows, inputs)
    assert torch.equal(linear(panels(weight), x), product_in_words(x, weight))
    assert torch.equal(linear(panels(weight, bias), x), product_in_words(x, weight, bias))
    assert torch.equal(linear(panels(weight, bias), x, relu=True), product_in_words(x, weight, bias).relu())


@pytest.mark.parametrize("method", ["rtn", "asymmetric"])
@pytest.mark.parametrize("groups", ["per_group:4", "per_group:32", "per_group:64"])
def test_groups_have_scales_and_zero_points_of_their_own(groups, method):
    weight, x = packed(70, 128, granularity=groups, method=method, bits=4), torch.randn(11, 128)
    assert weight.scale.shape[1] == 128 // int(groups.split(":")[1])
    assert torch.equal(linear(panels(weight), x), product_in_words(x, weight))


def test_groups_that_cut_a_word_are_for_torch():
    assert fits(10, 1) and fits(64, 16) and not fits(12, 2)
    weight, x = packed(5, 12, granularity="per_group:6"), torch.randn(3, 12)
    assert not weight.fits_kernels
    torch.testing.assert_close(weight.integer_product(x), product_in_words(x, weight), rtol=0, atol=0)


def test_more_threads_give_the_same_bits():
    weight, few, many = packed(300, 96), torch.randn(5, 96), torch.randn(500, 96)
    before = torch.get_num_threads()
    wanted = [linear(panels(weight), x) for x in (few, many)]
    for threads in (2, 8):  # more than the blocks of rows that there are: they share the outputs
        torch.set_num_threads(threads)
        try:
            found = [linear(panels(weight), x) for x in (few, many)]
        finally:
            torch.set_num_threads(before)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_rows_of_zeros_and_next_to_zeros_give_the_bias():
    weight, bias = packed(9, 8), torch.randn(9)
    x = torch.stack([torch.zeros(8), torch.full((8,), 1e-38)])
    assert torch.equal(linear(panels(weight, bias), x), bias.expand(2, -1))
    assert not linear(panels(weight), x).any() and not product_in_words(x, weight).any()


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_does_not_get_lost(broken):
    weight, x = packed(9, 40), torch.randn(3, 40)
    x[1, 37] = broken
    out = linear(panels(weight), x)
    assert not out[1].isfinite().any() and out[[0, 2]].isfinite().all()
    after = linear(panels(weight), x, relu=True)[1]
    assert after.isnan().all() if math.isnan(broken) else not after.isfinite().all()  # - infinity is below 0


def test_overlapping_rows_are_read_where_they_lie():
    weight, memory = packed(6, 12), torch.randn(100)
    windows = memory.as_strided((20, 12), (4, 1))
    assert torch.equal(linear(panels(weight), windows), product_in_words(windows.contiguous(), weight))


def test_stacked_weights_are_their_outputs_behind_one_another():
    first, second, bias, x = (
        packed(5, 16),
        packed(7, 16, method="asymmetric", seed=1),
        torch.randn(7),
        torch.randn(4, 16),
    )
    both = stack([(w.codes, w.scale, w.zero_point, b) for w, b in ((first, None), (second, bias))])
    assert torch.equal(
        linear(both, x), torch.cat([product_in_words(x, first), product_in_words(x, second, bias)], dim=1)
    )


def test_whoever_differentiates_or_traces_sees_torch():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.seen.append(str(function))
            return function(*args, **(kwargs or {}))

    weight, x = packed(6, 8), torch.randn(2, 8)
    assert usable(x) and not usable(x.clone().requires_grad_()) and not usable(x.double())
    fast = weight.integer_product(x)
    with Names() as names:
        assert torch.equal(weight.integer_product(x), fast)
    assert any("_int_mm" in name for name in names.seen)


def test_copies_and_new_weights_are_laid_out_anew():
    import copy

    weight, other, x = packed(6, 8), packed(6, 8, seed=1), torch.randn(2, 8)
    before = weight.integer_product(x)
    assert torch.equal(copy.deepcopy(weight).integer_product(x), before)
    weight.load_state_dict(other.state_dict())
    assert torch.equal(weight.integer_product(x), product_in_words(x, other)) and not torch.equal(
        before, product_in_words(x, other)
    )


def test_rows_that_do_not_lie_in_one_piece_are_copied_first():
    weight, x = packed(6, 12), torch.randn(12, 5).t()
    assert torch.equal(linear(panels(weight), x), product_in_words(x.contiguous(), weight))


def test_what_is_usable():
    class Special(torch.Tensor):
        pass

    x = torch.randn(2, 8)
    asked = x.clone().requires_grad_()
    with torch.no_grad():
        assert usable(x, asked, torch.nn.Parameter(x))
    assert not usable(x, asked) and not usable(x, x.half()) and not usable(x, x.as_subclass(Special))
    assert not usable(x, torch.empty(2, 8, device="meta"))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_trace_has_the_products_in_it():
    weight, x = packed(6, 8), torch.randn(2, 8)
    traced = torch.jit.trace(lambda x: weight.integer_product(x), x, check_trace=False)
    assert "_int_mm" in str(traced.graph)
    assert torch.equal(traced(3 * x), weight.integer_product(3 * x))


def test_whoever_compiles_sees_torch(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not usable(torch.randn(2, 8))


def test_no_memory_is_an_error():
    with pytest.raises(MemoryError, match="no memory"):
        check(1)
    check(0)


def test_nothing_and_moved_weights():
    weight, x = packed(6, 8), torch.randn(2, 8)
    before = weight.integer_product(x)
    assert weight.integer_product(x[:0]).shape == (0, 6)
    weight.codes.neg_()
    assert torch.equal(weight.to("cpu").integer_product(x), -before)


@pytest.mark.parametrize("method", ["rtn", "asymmetric"])
def test_stacked_weights_of_one_scale(method):
    first, second, x = packed(5, 16, granularity="per_tensor", method=method), packed(7, 16, seed=1), torch.randn(4, 16)
    both = stack([(w.codes, w.scale, w.zero_point, None) for w in (first, second)])
    assert torch.equal(linear(both, x), torch.cat([product_in_words(x, first), product_in_words(x, second)], dim=1))
