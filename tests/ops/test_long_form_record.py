"""Counts, latency, plateau, curve and trace of recordings made up step by step, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from asrcompress.ops.listen import Heard
from asrcompress.ops.long_form_record import Keywords, Recording, curve, outcome, plateau, trace, where

STEP_S = 0.1
# Two keywords of a second, at 3 s and at 7 s, in a recording of 11 s: no, no, no, go, no, no, no, go, no, no, no.
BORDERS = np.arange(12.0)
NAMES = [("go" if part in (3, 7) else "no", f"clip{part}") for part in range(11)]
KEYWORDS = Keywords(Recording(NAMES, BORDERS, lambda: iter(())), np.array([3, 7]), 3.0)
TIMES = (np.arange(110) + 1) * STEP_S


def heard(peaks: dict[float, float], detected: list[float], times: np.ndarray = TIMES) -> Heard:
    """Probability 0 but for these times; moving averages are the probabilities themselves."""
    values = np.zeros(len(times))
    for time_s, value in peaks.items():
        values[round(time_s / STEP_S) - 1] = value
    found = np.array([round(time_s / STEP_S) - 1 for time_s in detected], dtype=np.int64)
    return Heard(times, values, values, found)


def test_counts_and_latencies() -> None:
    # The first keyword is detected 0.8 s after its beginning and again 1.9 s after it, in the tolerance; at 2 s and at 5.5 s
    # there is none; the second one is missed, as 9.1 s is later than 1 s after its end.
    positive = heard({}, [2.0, 3.8, 4.9, 5.5, 9.1])
    negative = heard({}, [0.5, 3.0, 8.0])
    result = outcome(negative, positive, KEYWORDS, 0.5, 0.95)
    assert (result["false_accepts"], result["false_accepts_per_hour"]) == (3, 6.0)
    assert result["interval"]["low"] < 6.0 < result["interval"]["high"]
    assert (result["false_rejects"], result["false_reject_rate"]) == (1, 0.5)
    assert (result["repeated_detections"], result["false_accepts_between_keywords"]) == (1, 3)
    assert result["latency_from_start_ms"] == pytest.approx({"median": 800.0, "p95": 800.0})
    assert result["latency_from_end_ms"] == pytest.approx({"median": -200.0, "p95": -200.0})


def test_a_keyword_detected_in_the_tolerance_has_a_latency_after_its_end() -> None:
    result = outcome(heard({}, []), heard({}, [3.4, 8.9]), KEYWORDS, 1.0, 0.95)
    assert result["false_rejects"] == 0
    assert result["latency_from_end_ms"] == pytest.approx({"median": 150.0, "p95": 825.0})


def test_nothing_detected_has_no_latency_and_an_interval_all_the_same() -> None:
    result = outcome(heard({}, []), heard({}, []), KEYWORDS, 2.0, 0.95)
    assert (result["false_accepts_per_hour"], result["false_reject_rate"]) == (0.0, 1.0)
    assert result["latency_from_start_ms"] is None
    assert result["interval"]["high"] == pytest.approx(3.689 / 2, rel=1e-3)


def test_a_plateau_is_the_time_above_the_threshold_until_the_next_keyword() -> None:
    long = heard({t: 0.9 for t in (3.5, 3.6, 3.7, 3.8, 5.0, 7.2)} | {2.0: 0.9, 3.9: 0.4}, [])
    short = heard({3.5: 0.9}, [3.5])
    found = plateau(long, short, KEYWORDS, 0.5, STEP_S)
    assert found["raw_s"] == pytest.approx({"median": 0.3, "p95": 0.48, "mean": 0.3})  # five steps, and one
    assert found["smoothed_s"] == found["raw_s"]
    assert found["reset_s"] == pytest.approx({"median": 0.1, "p95": 0.1, "mean": 0.1})
    assert plateau(short, short, KEYWORDS, 0.95, STEP_S)["reset_s"] is None
    # With a reset it is the moving average that counts, as it is what detects.
    averaged = replace(short, smoothed=heard({3.5: 0.6, 3.6: 0.6}, []).smoothed)
    found = plateau(averaged, averaged, KEYWORDS, 0.5, STEP_S)
    assert [found[name]["median"] for name in ("raw_s", "smoothed_s", "reset_s")] == pytest.approx([0.1, 0.2, 0.2])


def test_false_accepts_are_traced_to_their_utterances() -> None:
    recording = Recording([("set", "a"), ("set", "b")], np.array([0.0, 4.0, 11.0]), lambda: iter(()))
    events = where(heard({4.0: 0.7, 4.1: 0.8}, [4.0, 4.1]), recording)
    assert [(event["id"], event["time_s"], event["score"]) for event in events] == [("a", 4.0, 0.7), ("b", 0.1, 0.8)]


def test_the_curve_has_every_trade() -> None:
    negative = heard({1.0: 0.3, 5.0: 0.6, 9.0: 0.8}, [])
    positive = heard({3.5: 0.5, 7.5: 0.9}, [])
    found = curve(negative, positive, KEYWORDS, 0.5, 10)
    rows = dict(
        zip(
            found["threshold"],
            zip(found["false_accepts_per_hour"], found["false_reject_rate"], strict=True),
            strict=True,
        )
    )
    assert rows[0.5] == (4.0, 0.0)  # 0.6 and 0.8 in half an hour
    assert rows[0.6] == (4.0, 0.5)
    assert rows[0.9] == (0.0, 0.5)
    assert found["threshold"] == sorted(found["threshold"])


def test_the_trace_is_of_the_median_keyword_with_the_clips_around_it() -> None:
    plain = heard({7.4: 0.9, 7.5: 0.9}, [7.4])
    reset = heard({7.4: 0.9}, [7.4])
    found = trace(plain, reset, KEYWORDS, 0.5)
    assert found is not None
    assert [clip["id"] for clip in found["clips"]] == ["clip6", "clip7", "clip8", "clip9", "clip10"]
    assert [clip["is_keyword"] for clip in found["clips"]] == [False, True, False, False, False]
    assert (found["clips"][1]["start_s"], found["clips"][1]["end_s"]) == (1.0, 2.0)
    for cut, high in ((found["without_policy"], [1.4, 1.5]), (found["with_policy"], [1.4])):
        assert len(cut["time_s"]) == 50 and cut["time_s"][0] == pytest.approx(0.1)
        assert [t for t, p in zip(cut["time_s"], cut["probability"], strict=True) if p > 0.5] == pytest.approx(high)
        assert cut["detections_s"] == pytest.approx([1.4])
    both = heard({3.4: 0.9, 7.9: 0.9}, [3.4, 7.9])
    quick = trace(both, both, KEYWORDS, 0.5)
    assert quick is not None  # of two, the quicker, up to the clip before the next
    assert [clip["id"] for clip in quick["clips"]] == ["clip2", "clip3", "clip4", "clip5", "clip6"]
    assert quick["clips"][-1]["end_s"] == 5.0 and len(quick["with_policy"]["time_s"]) == 50
    assert trace(heard({}, []), heard({}, []), KEYWORDS, 0.5) is None
