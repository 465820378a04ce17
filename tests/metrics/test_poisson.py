"""Garwood's interval: printed tables, the tails that define it, and how often it covers the truth."""

from __future__ import annotations

import math

import pytest

from asrcompress.metrics.poisson import poisson_interval


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # Two-sided 95 % limits as statistical tables print them.
    [
        (0, 0.0, 3.689),
        (1, 0.0253, 5.572),
        (2, 0.242, 7.225),
        (5, 1.623, 11.668),
        (10, 4.795, 18.390),
        (100, 81.36, 121.63),
    ],
)
def test_the_limits_are_those_of_printed_tables(count: int, low: float, high: float) -> None:
    interval = poisson_interval(count, 1.0)
    assert interval.low == pytest.approx(low, rel=2e-3)
    assert interval.high == pytest.approx(high, rel=2e-4)


@pytest.mark.parametrize("count", [0, 1, 4, 37])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_each_limit_leaves_half_of_the_rest_to_its_side(count: int, confidence: float) -> None:
    def at_most(count: int, mean: float) -> float:
        return sum(math.exp(-mean + k * math.log(mean) - math.lgamma(k + 1)) for k in range(count + 1))

    interval = poisson_interval(count, 1.0, confidence=confidence)
    tail = (1 - confidence) / 2
    assert at_most(count, interval.high) == pytest.approx(tail, rel=1e-6)
    if count:
        assert 1 - at_most(count - 1, interval.low) == pytest.approx(tail, rel=1e-6)


def test_a_rate_is_per_exposure() -> None:
    one, ten = poisson_interval(3, 1.0), poisson_interval(3, 2.5)
    assert (ten.low, ten.high) == (one.low / 2.5, one.high / 2.5)
    assert one.method == "poisson_exact"


@pytest.mark.parametrize(
    ("count", "exposure", "confidence"),
    [(-1, 1, 0.95), (1, 0, 0.95), (1, math.nan, 0.95), (1, math.inf, 0.95), (1, 1, 1)],
)
def test_what_has_no_interval_is_refused(count: int, exposure: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="num_events|exposure|confidence"):
        poisson_interval(count, exposure, confidence=confidence)
