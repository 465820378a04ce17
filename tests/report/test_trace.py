"""Running speech in a report: the trace as a picture that is read by its ticks, the figures as columns and a sentence."""

from __future__ import annotations

import copy
import csv
import io
import math
import re
from xml.etree import ElementTree

import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.report import render
from asrcompress.report.gallery import gallery, svg_files
from asrcompress.report.html import PAGE_STYLE, PICTURE_STYLE, PLOT_STYLE
from asrcompress.report.rows import build_report, columns
from asrcompress.report.trace_plot import trace_plot
from asrcompress.report.trace_rows import read_trace, running_note
from asrcompress.report.tradeoff import tradeoffs
from tests.fixtures.running_records import RAW, SMOOTHED, TIMES, long_form, spoken, streaming
from tests.fixtures.sidecars import validator  # noqa: F401
from tests.report.test_pages import HOSTILE, Page
from tests.report.test_training_plot import numbers, styled


def drawn(block: dict) -> ElementTree.Element:
    trace = read_trace({"long_form": block}, "x.json")
    assert trace is not None
    return ElementTree.fromstring(trace_plot(trace))


def seconds(svg: ElementTree.Element):
    ticks = [(float(e.get("x")), float(e.text)) for e in styled(svg, "tick") if e.get("text-anchor") == "middle"]
    (a, low), (b, high) = ticks[0], ticks[-1]
    return lambda x: low + (x - a) / (b - a) * (high - low)


def test_the_lines_read_off_the_ticks_are_the_posteriors():
    svg = drawn(long_form())
    time = seconds(svg)
    ones, zeros = (
        [float(e.get("y")) - 4 for e in styled(svg, "tick") if e.text == t and e.get("text-anchor") == "end"]
        for t in "10"
    )
    for path, values, one, zero in zip(styled(svg, "line"), (RAW, SMOOTHED), ones, zeros, strict=True):
        found = numbers(path)[:-1]  # the last stair ends at the frame
        xs, ys = [found[0], *found[2::2]], [found[1], *found[3::2]]
        assert [time(x) for x in xs] == pytest.approx(TIMES, abs=0.003)
        assert [(zero - y) / (zero - one) for y in ys] == pytest.approx(values, abs=0.002)


def test_what_reaches_the_threshold_is_filled_and_counted():
    svg = drawn(long_form())
    bars = styled(svg, "above")
    num_raw = sum(value >= 0.76 for value in RAW)
    assert len(bars) == num_raw + 1  # one step of the moving average
    assert f"as the model gives it: {num_raw * 0.08:.2f} s at or above" in styled(svg, "head")[0].text
    assert "reset after a detection: 0.08 s" in styled(svg, "head")[1].text
    at_it = long_form()
    at_it["trace"]["threshold"] = 0.9  # which is as high as it gets
    assert read_trace({"long_form": at_it}, "x").raw_above_s == pytest.approx(num_raw * 0.08)
    time = seconds(svg)
    assert time(float(bars[0].get("x"))) == pytest.approx(
        min(t for t, v in zip(TIMES, RAW, strict=True) if v > 0.5), abs=0.003
    )
    at_threshold = [value if value < 0.5 else 0.76 for value in RAW]
    block = long_form()
    block["trace"]["without_policy"]["probability"] = at_threshold
    assert len(styled(drawn(block), "above")) == num_raw + 1  # reached by an equal value


def test_the_keyword_and_the_detection_are_marked_where_they_are():
    svg = drawn(long_form())
    time = seconds(svg)
    (band,) = styled(svg, "keyword")
    start = float(band.get("x"))
    assert (time(start), time(start + float(band.get("width")))) == pytest.approx((1, 2), abs=0.003)
    (mark,) = styled(svg, "detection")
    assert time(numbers(mark)[0]) == pytest.approx(1.76, abs=0.003)
    assert [e.text for e in styled(svg, "spoken")] == ["happy"]
    assert [e.text for e in styled(svg, "word")] == ["cat", "dog"]


def test_everything_lies_on_the_picture_whatever_the_threshold():
    for threshold in (0.0, 0.004, 0.5, 1.0):
        block = long_form()
        block["trace"]["threshold"] = threshold
        svg = drawn(block)
        wide, high = map(float, svg.get("viewBox").split()[2:])
        for element in svg.iter():
            for name, end in (("x", wide), ("y", high), ("width", wide), ("height", high)):
                assert 0 <= float(element.get(name, 0)) <= end, ElementTree.tostring(element)


def test_every_class_has_a_style():
    used = {word for element in drawn(long_form()).iter() for word in (element.get("class") or "").split()}
    assert not used - set(re.findall(r"\.([a-z-]+)", PAGE_STYLE + PLOT_STYLE + PICTURE_STYLE))


# ---------------------------------------------------------------- rows and words


def test_figures_are_columns_with_the_exact_interval():
    report = build_report([spoken(long_form=long_form()), spoken(streaming=streaming())])
    shown = {column.heading: column.cells for column in columns(report)}
    assert shown["false_accepts_per_hour"] == ("23.5", "")
    assert shown["false_accepts_per_hour 0.95 interval"] == ("[10.8, 44.7]", "")
    assert shown["long_form_false_reject_rate"] == ("0.04808", "")
    assert shown["detection_latency_ms"] == ("-46.30", "")
    assert shown["stream_latency_ms"] == ("", "21.63")
    assert shown["stream_state_bytes"] == ("", "7,592")
    named = ["small.safetensors (manifest.tsv, long form)", "small.safetensors (manifest.tsv, streamed)"]
    assert [row.label for row in report.rows] == named


def test_the_sentence_states_the_conditions():
    said = running_note(spoken(long_form=long_form()).record, "x")
    for part in (
        "9 false accepts in 0.383 h of LibriSpeech, 23.5 an hour (95 % interval 10.8 to 44.7)",
        "25 of 520 keywords missed (4.81 %)",
        "threshold 0.76, mean over 0.24 s, debounce 1 s, reset on",
        "detected 939 ms after the clip begins (95 % within 1145 ms), -46 ms from its end",
        "0.96 s (median) as it comes, 0.08 s with smoothing and reset",
    ):
        assert part in said
    two = long_form()
    two["negatives"] = [two["negatives"][0], two["negatives"][0] | {"file": "digits", "hours": 1.7, "false_accepts": 0}]
    assert "of LibriSpeech (9 in 0.383 h) and digits (0 in 1.7 h)" in running_note({"long_form": two}, "x")
    late = long_form(latency_from_end_ms={"median": 12.0, "p95": 300.0})
    assert "+12 ms from its end" in running_note({"long_form": late}, "x")
    nothing = long_form(latency_from_start_ms=None, latency_from_end_ms=None)
    nothing["plateau"] = dict.fromkeys(nothing["plateau"])
    said = running_note({"long_form": nothing}, "x")
    assert "detected" not in said
    assert "median" not in said


def test_the_sentence_of_a_stream_counts_codes_of_integers():
    assert "at most 2.4e-07 from offline; hears 92.5 ms late at most, a piece takes 1.34 ms" in running_note(
        {"streaming": streaming()}, "x"
    )
    assert "pieces of 10 to 500 ms" in running_note({"streaming": streaming()}, "x")
    assert "pieces of 100 ms" in running_note({"streaming": streaming(chunk_ms=[100, 100])}, "x")
    assert "0 of 19,272 steps with other codes" in running_note({"streaming": streaming(num_different=0)}, "x")


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b.pop("policy"),
        lambda b: b.update(interval=None),
        lambda b: b["trace"]["clips"][1].update(end_s=0.5),
        lambda b: b["trace"]["clips"][1].update(end_s=1.0),
        lambda b: b["trace"]["with_policy"].update(time_s=[], probability=[], smoothed=[]),
        lambda b: b["trace"].update(threshold=math.inf),
        lambda b: b["trace"]["with_policy"].update(probability=[0.1]),
        lambda b: b["trace"]["without_policy"].update(smoothed="high"),
        lambda b: b["trace"].update(threshold=True),
        lambda b: b.update(false_accepts="many"),
    ],
)
def test_a_damaged_block_is_one_line_that_names_the_file(damage):
    block = copy.deepcopy(long_form())
    damage(block)
    with pytest.raises(
        AsrCompressError, match=r"^small\.safetensors\.long_form\.eval\.json: long_form .*write the sidecar again$"
    ):
        gallery(build_report([spoken(long_form=block)]))


# ---------------------------------------------------------------- the page and the files


def test_the_page_shows_the_trace_with_its_sentence_once():
    page = Page(render("html", build_report([spoken(long_form=long_form()), spoken(streaming=streaming())])))
    assert page.count("svg", "trace") == 1
    assert "Running speech: small.safetensors (" in page.text
    assert page.text.count("23.5 an hour") == 1
    assert page.text.count("streamed in pieces") == 1  # a note: there is nothing to draw


def test_one_point_stands_for_a_model_evaluated_again_to_the_same_value():
    page = Page(render("html", build_report([spoken(long_form=long_form()), spoken(streaming=streaming())])))
    assert page.count("circle", "marker") == 1
    (picture,) = tradeoffs(build_report([spoken(long_form=long_form()), spoken(streaming=streaming())]))
    assert [e.text for e in styled(ElementTree.fromstring(picture.svg), "label")] == [
        "small"
    ]  # how it was evaluated is not said
    first = spoken(streaming=streaming())
    first.record["metrics"]["au_fa_fr"] = 0.002
    page = Page(render("html", build_report([first, spoken(long_form=long_form())])))
    assert page.count("circle", "marker") == 2


def test_files_of_one_name_get_numbers():
    sidecars = [spoken(file, long_form=long_form()) for file in ("a b.safetensors", "a?b.safetensors")]
    sidecars[1].record["model"]["sha256"] = "1" * 64
    names = [name for name in svg_files(build_report(sidecars)) if name.startswith("posterior")]
    assert names == ["posterior-a-b.svg", "posterior-a-b-2.svg"]


def test_no_trace_where_no_keyword_was_detected():
    assert read_trace({"long_form": long_form(trace=None)}, "x") is None
    assert read_trace({}, "x") is None


def test_any_word_is_text():
    block = long_form()
    block["trace"]["clips"][0] |= {"word": HOSTILE}
    block["negatives"][0]["file"] = HOSTILE
    page = Page(render("html", build_report([spoken(long_form=block)])))
    assert page.count("script") == page.count("img") == page.count("a") == 0


def test_the_fixture_is_as_the_schema_has_it(validator):  # noqa: F811
    validator.evolve(schema={"$ref": "#/$defs/long_form", "$defs": validator.schema["$defs"]}).validate(long_form())
    validator.evolve(schema={"$ref": "#/$defs/streaming", "$defs": validator.schema["$defs"]}).validate(streaming())


def test_csv_has_the_ends_of_the_exact_interval():
    (row,) = csv.DictReader(io.StringIO(render("csv", build_report([spoken(long_form=long_form())]))))
    ends = [float(row[f"false_accepts_per_hour_interval_{end}"]) for end in ("low", "high")]
    assert ends == [10.7562, 44.654]
