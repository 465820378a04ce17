"""Masks chosen anew: exact counts whatever the weights, the largest kept; how much they change, counted by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asrcompress.training.masks import Chooser, divergence

# Few different values, so that most are equal.
weights = st.lists(st.sampled_from((0.0, 1.0, -1.0, 2.0, -0.0, 1e-30)), min_size=48, max_size=48).map(
    lambda values: torch.tensor(values).reshape(4, 12)
)


@given(weights, st.sampled_from(((2, 4), (1, 4), (1, 2), (3, 6), (11, 12))))
def test_every_group_keeps_exactly_as_many_even_of_equals(weight, pattern):
    mask = Chooser(pattern, 0).choose(weight)
    groups = mask.reshape(-1, pattern[1])
    assert groups.sum(dim=1).tolist() == [pattern[0]] * len(groups)
    size = weight.abs().reshape(groups.shape)
    least_kept = torch.where(groups, size, torch.inf).amin(dim=1)
    assert (torch.where(groups, -torch.inf, size).amax(dim=1) <= least_kept).all()


@given(weights, st.integers(0, 48))
def test_unstructured_keeps_exactly_as_many_even_of_equals(weight, num_kept):
    mask = Chooser(None, num_kept).choose(weight)
    assert int(mask.sum()) == num_kept
    size = weight.abs()
    if 0 < num_kept < 48:
        assert float(size[mask].min()) >= float(size[~mask].max())


def test_of_equals_the_first_are_kept():
    ones = torch.ones(2, 8)
    assert Chooser((1, 4), 0).choose(ones).nonzero().tolist() == [[0, 0], [0, 4], [1, 0], [1, 4]]
    assert Chooser(None, 3).choose(ones).nonzero().tolist() == [[0, 0], [0, 1], [0, 2]]


def test_a_weight_counts_as_its_size_times_its_inputs():
    weight = torch.tensor([[1.0, -2.0, 3.0, 4.0]])
    assert Chooser((2, 4), 0).choose(weight).tolist() == [[False, False, True, True]]
    inputs = torch.tensor([9.0, 5.0, 1.0, 0.5])
    assert Chooser((2, 4), 0, inputs).choose(weight).tolist() == [[True, True, False, False]]
    assert Chooser(None, 1, inputs).choose(weight).tolist() == [[False, True, False, False]]


def test_rows_of_a_grouped_convolution_see_the_inputs_of_their_group():
    weight = torch.ones(4, 2, 1)
    inputs = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    found = Chooser((1, 2), 0, inputs).choose(weight)
    assert found.tolist() == [[False, True], [False, True], [True, False], [True, False]]


@pytest.mark.parametrize("pattern", ((2, 4), None))
def test_a_kernel_is_seen_as_its_rows(pattern):
    kernel = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    mask = Chooser(pattern, 17).choose(kernel.requires_grad_())
    assert mask.shape == (3, 20)
    assert not mask.requires_grad
    assert torch.equal(mask, Chooser(pattern, 17).choose(kernel.reshape(3, 20)))


def test_divergence_is_the_share_of_bits_that_differ_over_all_weights():
    before = {"a": torch.tensor([[True, True, False, False]]), "b": torch.tensor([[True, False]] * 3)}
    after = {"a": torch.tensor([[True, False, True, False]]), "b": torch.tensor([[True, False]] * 3)}
    assert divergence(before, after) == pytest.approx(2 / 10)
    assert divergence(before, before) == 0.0
    assert divergence(before, {name: ~mask for name, mask in before.items()}) == 1.0
    assert divergence({}, {}) == 0.0
