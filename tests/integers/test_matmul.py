"""Integer products against int64 arithmetic, and the grid of activations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asrcompress.integers.matmul import int_bmm, int_matmul, quantize_tokens

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
sizes = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)


def random_codes(rng, *shape):
    """int8 over the whole range, its ends more often than chance has it."""
    codes = rng.integers(-128, 128, shape)
    return np.where(rng.random(shape) < 0.2, rng.choice([-128, 127], shape), codes).astype(np.int8)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.integers(0, 40), sizes, sizes, seeds)
@example(5, 1, 3, 0)  # torch._int_mm on CPU is wrong for one column
@example(1, 1, 1, 0)
@example(0, 4, 4, 0)
@example(17, 8, 8, 0)
def test_products_are_exact(device, m, k, n, seed):
    rng = np.random.default_rng(seed)
    left, right = random_codes(rng, m, k), random_codes(rng, n, k)
    out = int_matmul(torch.from_numpy(left).to(device), torch.from_numpy(right).to(device))
    assert out.dtype == torch.int32
    assert np.array_equal(out.cpu().numpy(), left.astype(np.int64) @ right.astype(np.int64).T)


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), seeds)
@example(2, 5, 1, 3, 0)
def test_batched_products_are_exact(device, batch, m, k, n, seed):
    rng = np.random.default_rng(seed)
    left, right = random_codes(rng, batch, m, k), random_codes(rng, batch, n, k)
    out = int_bmm(torch.from_numpy(left).to(device), torch.from_numpy(right).to(device))
    assert out.dtype == torch.int32
    assert np.array_equal(out.cpu().numpy(), left.astype(np.int64) @ right.astype(np.int64).transpose(0, 2, 1))


def test_sums_beyond_int16_and_float32_are_exact():
    left = torch.full((1, 4097), 127, dtype=torch.int8)
    left[0, 0] = 126
    assert int_matmul(left, torch.full((1, 4097), 127, dtype=torch.int8)).item() == 4096 * 127 * 127 + 126 * 127


def test_slices_and_transposes_are_exact():
    rng = np.random.default_rng(0)
    left, right = torch.from_numpy(random_codes(rng, 12, 9)), torch.from_numpy(random_codes(rng, 20, 7))
    out = int_matmul(left[:, 2:7], right.t()[1:6].t())
    assert torch.equal(out.long(), left[:, 2:7].long() @ right[:, 1:6].long().t())


def test_no_tokens_and_no_outputs_give_empty_products():
    left, none = torch.ones(3, 4, dtype=torch.int8), torch.ones(0, 4, dtype=torch.int8)
    assert int_matmul(none, left).shape == (0, 3)
    assert int_matmul(left, none).shape == (3, 0)
    assert int_matmul(none, left).dtype == torch.int32


@settings(max_examples=60, derandomize=True, deadline=None)
@given(seeds, st.integers(1, 5), st.integers(1, 20), st.integers(-30, 30))
def test_every_activation_is_within_half_a_step_of_its_token(seed, tokens, columns, exponent):
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(tokens, columns)) * 10.0**exponent).float()
    codes, scale = quantize_tokens(x)
    assert codes.dtype == torch.int8
    assert scale.shape == (tokens, 1)
    assert ((codes.double() * scale.double() - x.double()).abs() <= scale.double() * (0.5 + 1e-5)).all()
    assert (codes.abs().amax(dim=1) == 127).all()


def test_a_token_has_a_scale_of_its_own():
    x = torch.tensor([[127.0, 1.0, -127.0], [1.27, 0.01, -1.27], [0.0, 0.0, 0.0]])
    codes, scale = quantize_tokens(x)
    assert codes.tolist() == [[127, 1, -127], [127, 1, -127], [0, 0, 0]]
    assert scale[:, 0].tolist() == pytest.approx([1.0, 0.01, 1.0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_lost(value):
    codes, scale = quantize_tokens(torch.tensor([[1.0, value, 2.0], [1.0, 1.0, 2.0]]))
    back = int_matmul(codes, torch.tensor([[1, 0, 0], [1, 1, 1]], dtype=torch.int8)).float() * scale
    assert not torch.isfinite(back[0]).any()
    assert torch.isfinite(back[1]).all()


def test_a_vector_of_next_to_nothing_is_zeros():
    codes, scale = quantize_tokens(torch.tensor([[1e-38, -1e-38], [1e-29, -5e-30]]))
    assert codes.tolist() == [[0, 0], [127, -64]] and scale.isfinite().all()


def test_no_batch_entries_give_no_products():
    none = torch.ones(0, 3, 4, dtype=torch.int8)
    assert int_bmm(none, none).shape == (0, 3, 3) and int_bmm(none, none).dtype == torch.int32
