"""Spearman's rank correlation against scipy's, and its interval against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from asrcompress.metrics.rank_correlation import spearman

pairs = st.lists(st.tuples(st.integers(-20, 20), st.floats(-5, 5, allow_nan=False)), min_size=5, max_size=60)


@given(pairs)
def test_it_is_scipys_ties_included(values):
    one, other = [float(a) for a, _ in values], [b for _, b in values]
    found = spearman(one, other)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert found.spearman is None
    else:
        assert found.spearman == pytest.approx(spearmanr(one, other).statistic, abs=1e-9)
        assert found.low <= found.spearman <= found.high


def test_only_ranks_count():
    values = [0.1, 3.0, -2.0, 7.5, 4.0, 11.0]
    assert spearman(values, [math.exp(value) for value in values]).spearman == 1.0
    assert spearman(values, [-(value**3) for value in values]).spearman == -1.0


def test_its_interval_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(5)
    rho = 0.8
    truth = 6 / math.pi * math.asin(rho / 2)  # Spearman's of a bivariate normal distribution
    held = 0
    for _ in range(400):
        one = generator.normal(size=60)
        other = rho * one + math.sqrt(1 - rho**2) * generator.normal(size=60)
        found = spearman(one, other)
        held += found.low <= truth <= found.high
    assert 0.91 <= held / 400 <= 0.985


def test_too_few_pairs_or_none_that_differ_say_nothing():
    assert spearman([1, 2, 3, 4], [1, 2, 3, 4]).spearman is None
    assert spearman([1.0] * 9, list(range(9))).spearman is None
    assert spearman([], []).num_pairs == 0


def test_what_is_no_number_is_an_error():
    with pytest.raises(ValueError, match="NaN"):
        spearman([1, 2, 3, 4, math.nan], [1, 2, 3, 4, 5])
    with pytest.raises(ValueError, match="against"):
        spearman([1, 2], [1, 2, 3])
