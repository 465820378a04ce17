"""AU FA-FR and operating points against the definition, written out in quadratic time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.detection import (
    at_threshold,
    bootstrap_au_fa_fr,
    detection_curve,
    paired_bootstrap_au_fa_fr,
    thin_curve,
)

SCORES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(0, 1, width=32))
CLIPS = st.lists(st.tuples(SCORES, st.booleans()), min_size=2, max_size=25).filter(
    lambda clips: len({label for _, label in clips}) == 2
)


def by_definition(clips):
    """Every threshold against every clip, ties kept as thresholds of their own; trapezoids one by one."""
    thresholds = sorted([0.0, 1.0, *(score for score, _ in clips)])
    points = []
    for threshold in thresholds:
        false_accepts = sum(score >= threshold and not label for score, label in clips)
        false_rejects = sum(score < threshold and label for score, label in clips)
        points.append((false_accepts / len(clips), false_rejects / len(clips)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        area += (x0 - x1) * (y0 + y1) / 2
    return dict(zip(thresholds, points, strict=True)), area


@given(CLIPS)
@settings(max_examples=200, deadline=None)
def test_curve_and_area_are_the_definitions(clips):
    points, area = by_definition(clips)
    curve = detection_curve(*zip(*clips, strict=True))
    assert curve.thresholds.tolist() == list(points)
    assert list(zip(curve.false_accept_rate, curve.false_reject_rate, strict=True)) == list(points.values())
    assert curve.au_fa_fr == pytest.approx(area, abs=1e-12)
    assert curve.num_positives == sum(label for _, label in clips)


@given(CLIPS)
@settings(max_examples=60, deadline=None)
def test_order_of_clips_does_not_matter_and_area_is_at_most_all_pairs(clips):
    curve = detection_curve(*zip(*clips, strict=True))
    backwards = detection_curve(*zip(*reversed(clips), strict=True))
    assert curve.au_fa_fr == backwards.au_fa_fr
    share = curve.num_positives / curve.num_samples
    assert 0 <= curve.au_fa_fr <= share * (1 - share) + 1e-12


@pytest.mark.parametrize(
    ("scores", "labels", "area"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 0),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1], 4 / 16),  # each of the 2 x 2 pairs is the wrong way round
        ([0.5, 0.5, 0.5, 0.5], [0, 0, 1, 1], 2 / 16),  # a tie counts half
        ([0.1, 0.6, 0.4, 0.9], [0, 0, 1, 1], 1 / 16),
    ],
)
def test_worked_examples(scores, labels, area):
    assert detection_curve(scores, labels).au_fa_fr == area


@given(CLIPS, SCORES)
@settings(max_examples=100, deadline=None)
def test_operating_point_counts(clips, threshold):
    point = at_threshold(*zip(*clips, strict=True), threshold)
    assert point.false_accepts == sum(score >= threshold and not label for score, label in clips)
    assert point.false_rejects == sum(score < threshold and label for score, label in clips)
    assert point.false_accept_rate == point.false_accepts / len(clips)
    assert point.false_reject_rate == point.false_rejects / len(clips)


def test_rates_are_over_all_clips():
    point = at_threshold([0.9, 0.1, 0.2, 0.3], [0, 0, 0, 1], 0.5)
    assert (point.false_accept_rate, point.false_reject_rate) == (0.25, 0.25)


def test_float32_scores_at_their_own_threshold_are_accepted():
    scores = np.array([0.1, 0.3], dtype=np.float32)
    assert at_threshold(scores, [1, 0], float(scores[0])).false_rejects == 0


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, np.nan, np.nan], [0, 1, 0], "2 of 3 scores are NaN, the first at clip 1"),
        ([0.1, 1.5], [0, 1], "score 1.5 of clip 1 is outside"),
        ([-np.inf, 0.5], [0, 1], "score -inf of clip 0 is outside"),
        ([0.1, 0.2], [0, 0], "none of the 2 clips holds the keyword"),
        ([0.1, 0.2], [1, 1], "all 2 clips hold the keyword"),
        ([], [], "none of the 0 clips"),
    ],
)
@pytest.mark.parametrize("function", [detection_curve, lambda *x: at_threshold(*x, 0.5), bootstrap_au_fa_fr])
def test_scores_without_a_curve_are_errors(function, scores, labels, message):
    with pytest.raises(AsrCompressError, match=message):
        function(scores, labels)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, np.nan])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(AsrCompressError, match="outside"):
        at_threshold([0.1, 0.2], [0, 1], threshold)


@pytest.mark.parametrize(("scores", "labels"), [([0.1], [0, 1]), ([[0.1]], [[1]]), ([0.1, 0.2], [0, 2])])
def test_shapes_and_labels(scores, labels):
    with pytest.raises(ValueError, match="label"):
        detection_curve(scores, labels)


def make_clips(num_samples, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.random(num_samples) < 0.3
    scores = np.clip(generator.normal(0.3 + 0.4 * labels, 0.2), 0, 1)
    return scores, labels, np.clip(scores + generator.normal(0, 0.05, num_samples), 0, 1)


def test_interval_repeats_draws_of_clips():
    """The same draws, each evaluated by building the curve of the drawn clips anew."""
    scores, labels, _ = make_clips(60)
    interval = bootstrap_au_fa_fr(scores, labels, num_resamples=80, confidence=0.9, seed=3)
    draws = np.random.default_rng(3).integers(0, 60, size=(80, 60))
    areas = [by_definition(list(zip(scores[draw], labels[draw], strict=True)))[1] for draw in draws]
    assert [interval.low, interval.high] == pytest.approx(np.quantile(areas, [0.05, 0.95]), abs=1e-12)
    assert interval == bootstrap_au_fa_fr(scores, labels, num_resamples=80, confidence=0.9, seed=3)


def test_interval_of_a_perfect_and_of_a_tiny_set():
    perfect = bootstrap_au_fa_fr([0.1, 0.2, 0.9], [0, 0, 1], num_resamples=100)
    assert (perfect.low, perfect.high) == (0, 0)
    worst = bootstrap_au_fa_fr([0.9, 0.1], [0, 1], num_resamples=100)  # half of all draws hold one kind only
    assert (worst.low, worst.high) == (0.25, 0.25)


def test_pairs_see_the_same_draws():
    scores, labels, others = make_clips(300)
    same = paired_bootstrap_au_fa_fr(scores, scores, labels, num_resamples=100)
    assert (same.delta, same.low, same.high) == (0, 0, 0)
    paired = paired_bootstrap_au_fa_fr(others, scores, labels, num_resamples=200)
    delta = detection_curve(others, labels).au_fa_fr - detection_curve(scores, labels).au_fa_fr
    assert paired.delta == delta
    assert paired.low <= delta <= paired.high
    alone = bootstrap_au_fa_fr(scores, labels, num_resamples=200)
    assert paired.high - paired.low < (alone.high - alone.low) / 2


@pytest.mark.parametrize(("num_samples", "max_points"), [(2000, 200), (30, 200), (2000, 2)])
def test_thin_curve_keeps_ends_and_corners(num_samples, max_points):
    scores, labels, _ = make_clips(num_samples)
    curve = detection_curve(scores, labels)
    thin = thin_curve(curve, max_points)
    points = list(zip(*thin.values(), strict=True))
    whole = list(zip(curve.thresholds, curve.false_accept_rate, curve.false_reject_rate, strict=True))
    assert len(points) <= max_points
    assert set(points) <= set(whole)
    assert (points[0], points[-1]) == (whole[0], whole[-1])
    assert thin["threshold"] == sorted(set(thin["threshold"]))
    if len(whole) <= max_points:
        assert {point[1:] for point in points} == {point[1:] for point in whole}
