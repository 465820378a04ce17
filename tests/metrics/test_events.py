"""Moving average, threshold, debounce: small cases by hand, laws, and a stream that agrees however it is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrcompress.metrics.events import Detector, detections, match, smooth

probabilities = st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 0.9, 1.0]), max_size=60)


def test_a_moving_average_by_hand() -> None:
    assert smooth([0.0, 0.9, 0.3, 0.6], 3).tolist() == pytest.approx([0.0, 0.3, 0.4, 0.6])
    assert smooth([0.2, 0.7], 1).tolist() == [0.2, 0.7]
    assert smooth([], 4).tolist() == []


def test_one_high_step_at_the_very_start_does_not_pass_for_many() -> None:
    assert smooth([1.0, 0.0], 4).tolist() == [0.25, 0.25]


def test_detections_by_hand() -> None:
    assert detections([0.1, 0.5, 0.9, 0.9, 0.9, 0.2, 0.7], 0.5, 3).tolist() == [1, 4]
    assert detections([0.1, 0.5, 0.9, 0.9, 0.9, 0.2, 0.7], 0.5, 6).tolist() == [1]
    assert detections([0.1, 0.5, 0.9], 0.5, 1).tolist() == [1, 2]
    assert detections([0.1, 0.49], 0.5, 1).tolist() == []


@given(probabilities, st.integers(1, 9))
def test_between_two_detections_lies_the_debounce_and_no_step_above_is_left_alone(
    values: list[float], debounce: int
) -> None:
    found = detections(values, 0.5, debounce)
    assert (np.diff(found) >= debounce).all()
    for step, value in enumerate(values):
        covered = ((found <= step) & (step < found + debounce)).any()
        assert covered or value < 0.5
    assert all(values[step] >= 0.5 for step in found)


@given(probabilities, st.integers(1, 6), st.integers(1, 9), st.data())
def test_a_stream_finds_what_a_whole_recording_does_however_it_is_cut(
    values: list[float], smoothing: int, debounce: int, data: st.DataObject
) -> None:
    detector, averages, found = Detector(0.5, smoothing, debounce), [], []
    rest = list(values)
    while rest:
        piece = rest[: data.draw(st.integers(1, len(rest)))]
        smoothed, is_detection = detector.advance(piece)
        averages += smoothed.tolist()
        rest = rest[len(smoothed) :]
        if is_detection:
            found.append(detector.num_steps - 1)
    assert averages == smooth(values, smoothing).tolist()
    assert found == detections(averages, 0.5, debounce).tolist()


def test_a_reset_forgets_the_average_and_keeps_the_debounce() -> None:
    detector = Detector(0.5, 2, 4)
    assert detector.advance([1.0, 1.0])[1]  # at step 0: (0 + 1) / 2
    assert detector.num_steps == 1
    detector.reset()
    smoothed, is_detection = detector.advance([0.9, 0.9, 0.9])  # steps 1 to 3: debounced
    assert smoothed.tolist() == [0.45, 0.9, 0.9]
    assert not is_detection
    assert detector.advance([0.9])[1]  # step 4


def test_the_first_detection_in_a_span_accepts_and_further_ones_repeat() -> None:
    # Spans (1, 2] and (4, 5] and (7, 8]: the end belongs to one, the beginning does not.
    found = match([0.5, 1.0, 1.5, 2.0, 3.0, 4.5, 7.0], [1.0, 4.0, 7.0], [2.0, 5.0, 8.0])
    assert found.first.tolist() == [2, 5, -1]
    assert (found.num_rejected, found.num_repeated, found.num_elsewhere) == (1, 1, 4)


@given(st.lists(st.integers(0, 40), max_size=12, unique=True))
def test_every_detection_is_counted_once(times: list[int]) -> None:
    found = match(sorted(times), [5, 15, 30], [9, 22, 31])
    assert (found.first >= 0).sum() + found.num_repeated + found.num_elsewhere == len(times)


def test_spans_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        match([], [0.0, 1.0], [2.0, 3.0])
