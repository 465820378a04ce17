"""Intervals: laws that hold for any counts, exact cases, and coverage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.metrics.bootstrap import bootstrap_interval, paired_bootstrap, percentiles

COUNTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=12)


@given(COUNTS, st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_interval_lies_within_the_utterances_rates_and_repeats(counts, seed):
    errors, _, totals = np.array(counts).T
    interval = bootstrap_interval(errors, totals, num_resamples=50, seed=seed)
    rates = errors / totals
    assert rates.min() - 1e-12 <= interval.low <= interval.high <= rates.max() + 1e-12
    assert interval == bootstrap_interval(errors, totals, num_resamples=50, seed=seed)
    assert (interval.confidence, interval.num_resamples, interval.seed) == (0.95, 50, seed)


def test_against_every_possible_draw():
    """Three utterances have 27 draws: the interval's ends are those of the exact distribution."""
    errors, totals = [0, 1, 4], [3, 2, 5]
    exact = [
        sum(errors[index] for index in draw) / sum(totals[index] for index in draw)
        for draw in itertools.product(range(3), repeat=3)
    ]
    expected = np.quantile(exact, [0.1, 0.9], method="inverted_cdf")
    interval = bootstrap_interval(errors, totals, num_resamples=20000, confidence=0.8)
    assert [interval.low, interval.high] == pytest.approx(expected, abs=1e-12)


def test_coverage_of_the_true_rate():
    generator = np.random.default_rng(0)
    totals = generator.integers(1, 9, size=(150, 80))
    errors = generator.binomial(totals, 0.1)
    intervals = [bootstrap_interval(*row, num_resamples=300) for row in zip(errors, totals, strict=True)]
    covered = np.mean([interval.low <= 0.1 <= interval.high for interval in intervals])
    assert 0.87 <= covered <= 0.99


def test_many_utterances_are_drawn_in_blocks_and_give_the_normal_interval():
    """30 000 utterances of one word: half the width is 1.96 standard errors."""
    errors = np.arange(30000) % 10 == 0
    interval = bootstrap_interval(errors, np.ones(30000), num_resamples=400)
    deviation = (0.1 * 0.9 / 30000) ** 0.5
    assert interval.low == pytest.approx(0.1 - 1.96 * deviation, abs=0.25 * deviation)
    assert interval.high == pytest.approx(0.1 + 1.96 * deviation, abs=0.25 * deviation)


def test_draws_without_a_reference_word_are_drawn_again():
    interval = bootstrap_interval([1, 0], [2, 0], num_resamples=200)
    assert (interval.low, interval.high) == (0.5, 0.5)


@given(COUNTS)
@settings(max_examples=40, deadline=None)
def test_pairs_delta_is_exact_and_turns_with_its_sides(counts):
    errors, baseline, totals = np.array(counts).T
    forth = paired_bootstrap(errors, baseline, totals, num_resamples=50)
    back = paired_bootstrap(baseline, errors, totals, num_resamples=50)
    assert forth.delta == pytest.approx(errors.sum() / totals.sum() - baseline.sum() / totals.sum(), abs=1e-12)
    assert [back.delta, back.low, back.high] == pytest.approx([-forth.delta, -forth.high, -forth.low], abs=1e-12)


def test_both_systems_see_the_same_draws():
    """One more error in every reference word: each draw differs by exactly 1, however much draws vary."""
    totals = np.arange(1, 40)
    baseline = np.arange(39) % 7
    paired = paired_bootstrap(baseline + totals, baseline, totals, num_resamples=200)
    assert [paired.low, paired.high] == pytest.approx([1, 1], abs=1e-12)
    same = paired_bootstrap(baseline, baseline, totals, num_resamples=200)
    assert (same.delta, same.low, same.high) == (0, 0, 0)
    alone = bootstrap_interval(baseline, totals, num_resamples=200)
    assert alone.high - alone.low > 0.02


@pytest.mark.parametrize(
    ("errors", "totals", "options", "message"),
    [
        ([1, 2], [1], {}, "differ in length"),
        ([[1]], [[1]], {}, "differ in length"),
        ([1, -1], [1, 1], {}, "negative"),
        ([1], [0], {}, "all totals are 0"),
        ([], [], {}, "all totals are 0"),
        ([1], [1], {"num_resamples": 0}, "at least 1"),
        ([1], [1], {"confidence": 1.0}, "fraction between 0 and 1"),
        ([1], [1], {"confidence": 95}, "fraction between 0 and 1"),
    ],
)
def test_bad_input(errors, totals, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(errors, totals, **options)


def test_percentiles_hold_the_central_share():
    assert percentiles(np.arange(101.0), 0.9) == pytest.approx((5, 95))
