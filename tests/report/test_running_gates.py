"""Gates on running speech: compared only where the same was played in the same way."""

from __future__ import annotations

import pytest

from asrcompress.gate import parse
from asrcompress.report.rows import build_report
from tests.fixtures.running_records import long_form, spoken, streaming


def pair(block: dict, other: dict, name: str, gate: str) -> str:
    """The status of a gate on the second against the first, and the message."""
    base, candidate = spoken("base.pt", **{name: block}), spoken("small.safetensors", **{name: other})
    candidate.record["model"]["sha256"] = "1" * 64
    (result,) = build_report([candidate], [base], [parse(gate)]).results
    return f"{result.status}: {result.message}"


def test_false_accepts_are_compared_on_the_same_speech_whatever_threshold_the_rate_chose():
    other = long_form()
    other["policy"] = other["policy"] | {"threshold": 0.4}
    assert pair(long_form(), other, "long_form", "ratio.false_accepts_per_hour<=1").startswith("passed")


@pytest.mark.parametrize(
    "change",
    [{"debounce_s": 2.0}, {"reset": False}, {"largest_false_reject_rate": 0.1}, {"chosen_by": "threshold"}],
)
def test_another_policy_is_not_compared(change):
    other = long_form()
    other["policy"] = other["policy"] | change
    said = pair(long_form(), other, "long_form", "ratio.false_accepts_per_hour<=1")
    assert said.startswith("error")
    assert "the running speech of false_accepts_per_hour" in said


def test_other_speech_is_not_compared():
    other = long_form()
    other["negatives"] = [other["negatives"][0] | {"sha256": "d" * 64}]
    assert pair(long_form(), other, "long_form", "delta.detection_latency_ms<=9").startswith("error")


def test_a_given_threshold_has_to_be_the_same():
    blocks = [long_form(), long_form()]
    for block, threshold in zip(blocks, (0.5, 0.6), strict=True):
        block["policy"] = block["policy"] | {"chosen_by": "threshold", "threshold": threshold}
    assert pair(*blocks, "long_form", "ratio.false_accepts_per_hour<=1").startswith("error")


def test_latency_is_compared_for_the_same_pieces():
    assert pair(streaming(), streaming(), "streaming", "ratio.stream_latency_ms<=1").startswith("passed")
    said = pair(streaming(), streaming(chunk_ms=[100, 100]), "streaming", "ratio.stream_latency_ms<=1")
    assert said.startswith("error")
