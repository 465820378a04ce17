"""The plot: axes, and labels that stay apart."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.report.svg import (
    AREA,
    Point,
    _quality_axis,
    _size_axis,
    bytes_text,
    linear_ticks,
    log_ticks,
    place_labels,
    plot,
)

# A sweep as people plot it: sizes halving, neighbours close together.
SWEEP = [(100 + 640 / (k + 1), 80 + 30 * k + 4 * (k % 2)) for k in range(10)]


def test_labels_do_not_overlap_each_other_or_the_points():
    texts = [f"digits.int{k}.per_channel" for k in range(10)]
    boxes = place_labels(texts, SWEEP, [])
    for i, box in enumerate(boxes):
        assert box.left >= AREA.left
        assert box.right <= AREA.right + 1e-9
        assert box.top >= AREA.top
        assert box.bottom <= AREA.bottom
        assert all(box.overlap(other) == 0 for other in boxes[i + 1 :])
        for x, y in SWEEP:
            assert not (box.left < x < box.right and box.top < y < box.bottom)


def test_labels_at_one_place_still_stay_apart():
    boxes = place_labels(["one model", "another model", "a third"], [(400, 200)] * 3, [])
    assert all(boxes[i].overlap(boxes[j]) == 0 for i in range(3) for j in range(i))


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_linear_ticks_are_round_and_within(low, span):
    high = low + span
    ticks = linear_ticks(low, high)
    tolerance = span * 1e-6 + abs(low) * 1e-9
    if span > abs(low) * 1e-6:
        assert 3 <= len(ticks) <= 10
    assert all(low - tolerance <= tick <= high + tolerance for tick in ticks)


def test_ticks_by_example():
    assert linear_ticks(0, 12.6e6) == (0, 2.5e6, 5e6, 7.5e6, 10e6, 12.5e6)
    assert log_ticks(4e5, 2.5e7) == pytest.approx((5e5, 1e6, 2e6, 5e6, 1e7, 2e7))
    assert [bytes_text(v) for v in (0, 512, 76432, 2.5e6, 4e9)] == ["0", "512 B", "76.43 kB", "2.5 MB", "4 GB"]


def test_size_axis_starts_at_zero_until_sizes_lie_far_apart():
    near = _size_axis([1e6, 4e6])
    assert near.place(0) == AREA.left
    assert near.place(2e6) - AREA.left == pytest.approx(2 * (near.place(1e6) - AREA.left))
    far = _size_axis([1e4, 1e8])
    assert far.place(1e6) - far.place(1e5) == pytest.approx(far.place(1e8) - far.place(1e7))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 2**62), st.floats(0, 1) | st.floats(0, 1e-9) | st.floats(-1e18, 1e18), st.floats(0, 0.5)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_any_values_give_well_formed_svg_with_every_point_inside(values):
    points = [
        Point(f"<m{i}>", size, q, q - d, q + d, "baseline" if i == 0 else "plain")
        for i, (size, q, d) in enumerate(values)
    ]
    root = ElementTree.fromstring(plot(points, "size", "wer & more"))
    circles = [element for element in root.iter() if element.tag == "circle"]
    assert len(circles) == len(points) - 1
    x_axis = _size_axis([p.x for p in points])
    y_axis = _quality_axis([end for p in points for end in (p.y, p.low, p.high)])
    for point in points:
        assert AREA.left - 0.01 <= x_axis.place(point.x) <= AREA.right + 0.01
        assert AREA.top - 0.01 <= y_axis.place(point.y) <= AREA.bottom + 0.01
        assert math.isfinite(y_axis.place(point.high))
