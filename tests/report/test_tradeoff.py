"""Quality against bytes and MACs: read off the pictures by their ticks, as a person would."""

from __future__ import annotations

import copy
import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from asrcompress.gate import parse
from asrcompress.report import render
from asrcompress.report.gallery import svg_files
from asrcompress.report.picture import Picture
from asrcompress.report.rows import Report, build_report
from asrcompress.report.svg import Point, pareto_front
from asrcompress.report.tradeoff import tradeoffs as pictures
from asrcompress.sidecar import Sidecar
from tests.fixtures.keyword_records import SWEEP, keyword_sidecars
from tests.report.test_pages import HOSTILE, Page

SVG = "{http://www.w3.org/2000/svg}"
SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def sweep(**changes: object) -> Report:
    sidecars = keyword_sidecars(**changes)
    return build_report(sidecars[2:], sidecars[:2])


def drawn(picture: Picture) -> ElementTree.Element:
    return ElementTree.fromstring(picture.svg)


def styled(svg: ElementTree.Element, style: str) -> list[ElementTree.Element]:
    return [element for element in svg.iter() if style in (element.get("class") or "").split()]


def number(text: str) -> float:
    """What a tick says: 5·10⁻⁴, 200 k, 2.5 MB."""
    if "10" in text and text.endswith(tuple("⁰¹²³⁴⁵⁶⁷⁸⁹")):
        factor, _, power = text.rpartition("10")
        return float(factor.rstrip("·") or 1) * 10.0 ** int(power.translate(SUPERSCRIPTS))
    value, _, unit = text.partition(" ")
    return float(value) * {"": 1, "B": 1, "k": 1e3, "kB": 1e3, "M": 1e6, "MB": 1e6, "G": 1e9, "GB": 1e9}[unit]


def log_reader(svg: ElementTree.Element, *, across: bool):
    """What a place on the page is worth, by the first and the last tick, on a logarithmic axis."""
    anchor, name, shift = ("middle", "x", 0) if across else ("end", "y", 4)
    ticks = [
        (float(e.get(name)) - shift, number(e.text)) for e in styled(svg, "tick") if e.get("text-anchor") == anchor
    ]
    (a, low), (b, high) = ticks[0], ticks[-1]
    return lambda place: low * (high / low) ** ((place - a) / (b - a))


@pytest.mark.parametrize(("index", "column"), [(0, 2), (1, 3)], ids=["bytes", "macs"])
def test_points_read_off_the_logarithmic_ticks_are_the_measured_values(index, column):
    svg = drawn(pictures(sweep())[index])
    x, y = log_reader(svg, across=True), log_reader(svg, across=False)
    for circle in styled(svg, "marker"):
        if circle.get("cx") is None:
            continue
        label = circle[0].text.split(":")[0]
        expected = next(row for row in SWEEP if row[0] == label)
        assert x(float(circle.get("cx"))) == pytest.approx(expected[column], rel=0.01)
        assert y(float(circle.get("cy"))) == pytest.approx(expected[4], rel=0.02)


def test_macs_come_from_the_analyze_sidecar_of_the_same_file_and_say_their_input():
    sizes, macs = pictures(sweep())
    assert (sizes.name, macs.name) == ("au_fa_fr-against-size_bytes", "au_fa_fr-against-macs")
    assert 'against multiply-accumulates (macs) for 1 s of speech"' in macs.svg  # and no more
    only_eval = build_report([s for s in keyword_sidecars() if s.kind == "eval"])
    assert [picture.name for picture in pictures(only_eval)] == ["au_fa_fr-against-size_bytes"]


def test_macs_of_a_batch_or_counted_in_another_way_say_so():
    sidecars = keyword_sidecars()
    for sidecar in sidecars[1::2]:
        sidecar.record["input"]["batch_size"], sidecar.record["macs_convention"] = 4, "thop"
    macs = pictures(build_report(sidecars[2:], sidecars[:2]))[1]
    assert 'against multiply-accumulates (macs) for 1 s of speech, 4 times, counted as thop"' in macs.svg


def test_an_interval_that_reaches_down_to_nothing_leaves_the_points_their_room():
    sidecars = keyword_sidecars()
    sidecars[2].record["intervals"]["au_fa_fr"]["low"] = 1e-30
    svg = drawn(pictures(build_report(sidecars[2:], sidecars[:2]))[0])
    ticks = [number(e.text) for e in styled(svg, "tick") if e.get("text-anchor") == "end"]
    assert min(row[4] for row in SWEEP) / 20 < min(ticks) < min(row[4] for row in SWEEP)


def test_macs_of_another_input_are_left_out_and_named():
    sidecars = keyword_sidecars()
    record = copy.deepcopy(sidecars[5].record)
    record["input"]["num_frames"] = 998
    sidecars[5] = Sidecar(sidecars[5].path, record)
    macs = pictures(build_report(sidecars[2:], sidecars[:2]))[1]
    assert f"Left out, since their MACs are of another input or convention: {SWEEP[2][0]}." in macs.caption
    assert len(styled(drawn(macs), "marker")) == len(SWEEP) - 1


def test_the_front_is_what_no_other_point_beats():
    points = [Point(str(i), x, y) for i, (x, y) in enumerate([(5, 5), (1, 9), (3, 3), (3, 2), (9, 2), (2, 9), (4, 1)])]
    assert [(p.x, p.y) for p in pareto_front(points)] == [(1, 9), (3, 2), (4, 1)]
    for point in points:  # by the definition, one against all
        beaten = any(o.x <= point.x and o.y <= point.y and (o.x, o.y) != (point.x, point.y) for o in points)
        assert beaten != (point in pareto_front(points))


def test_the_front_is_drawn_as_steps_through_its_points():
    svg = drawn(pictures(sweep())[0])
    (front,) = styled(svg, "front")
    corners = [float(n) for n in re.findall(r"[\d.]+", front.get("d"))]
    x, y = log_reader(svg, across=True), log_reader(svg, across=False)
    expected = pareto_front([Point(row[0], row[2], row[4]) for row in SWEEP])
    assert [y(place) for place in corners[2::2]] == pytest.approx([p.y for p in expected], rel=0.02)
    assert [x(place) for place in [corners[0], *corners[3:-1:2]]] == pytest.approx([p.x for p in expected], rel=0.02)


def test_models_of_different_test_sets_do_not_share_a_front():
    sidecars = keyword_sidecars()
    other = copy.deepcopy(sidecars[2].record)
    other["data"] |= {"file": "other.tsv", "sha256": "9" * 64}
    other["metrics"]["au_fa_fr"] = 1e-9  # would beat all
    picture = pictures(build_report([*sidecars[2:], Sidecar(Path("other.json"), other)], sidecars[:2]))[0]
    (front,) = styled(drawn(picture), "front")
    alone = styled(drawn(pictures(sweep())[0]), "front")[0]
    assert front.get("d").count("V") == alone.get("d").count("V")
    assert "Only models that were measured alike share a front." in picture.caption
    more = copy.deepcopy(
        sidecars[4].record
    )  # a second model of the other set, smaller: the two have a front of their own
    more["data"], more["metrics"]["au_fa_fr"] = other["data"], 1e-8
    found = [Sidecar(Path(f"{number}.json"), record) for number, record in enumerate((other, more))]
    picture = pictures(build_report([*sidecars[2:], *found], sidecars[:2]))[0]
    assert sorted(e.get("d").count("V") for e in styled(drawn(picture), "front")) == sorted(
        [2, alone.get("d").count("V")]
    )


def test_the_baseline_is_marked_over_what_lies_at_the_same_place():
    svg = drawn(pictures(sweep())[1])
    marks = styled(svg, "marker")
    assert "baseline" in marks[-1].get("class")
    assert len(styled(svg, "reference")) == 1
    assert "The diamond is the baseline" in pictures(sweep())[1].caption
    assert "diamond" not in pictures(build_report(keyword_sidecars()))[0].caption


def test_the_size_is_that_of_the_model_without_what_lies_beside_it_in_the_file():
    sidecars = keyword_sidecars()
    plain = [e[0].text for e in styled(drawn(pictures(build_report(sidecars[2:], sidecars[:2]))[0]), "marker")]
    for sidecar in sidecars[:2]:  # an optimizer's state
        for part in ("model", "metrics"):
            sidecar.record[part]["size_bytes"] = 3_000_000
    again = pictures(build_report(sidecars[2:], sidecars[:2]))[0]
    assert [e[0].text for e in styled(drawn(again), "marker")] == plain
    assert "base.pt: 287.7 kB, 0.000137" in plain


def test_a_model_that_failed_one_of_its_gates_failed():
    sidecars = keyword_sidecars()
    gates = [parse("ratio.au_fa_fr<=1.5"), parse("size_bytes<=30000")]
    svg = drawn(pictures(build_report(sidecars[2:], sidecars[:2], gates))[0])
    markers = [(e[0].text.split(":")[0], e.get("class")) for e in styled(svg, "marker")]
    assert {name for name, style in markers if style == "marker passed"} == {
        "C2H12.safetensors",
        "C2H12.int8.safetensors",
    }
    assert sum(style == "marker failed" for _, style in markers) == 7


def test_a_perfect_model_lies_hollow_on_the_lower_edge():
    sidecars = keyword_sidecars(au_fa_fr=0.0, at=3)
    picture = pictures(build_report(sidecars[2:], sidecars[:2]))[0]
    (edge,) = styled(drawn(picture), "edge")
    assert float(edge.get("cy")) == pytest.approx(402)  # the frame
    assert "Hollow points on the lower edge have no errors at all" in picture.caption
    assert "Hollow" not in pictures(sweep())[0].caption


def test_labels_of_a_sweep_cover_neither_each_other_nor_a_point():
    for picture in pictures(sweep()):
        svg = drawn(picture)
        labels = styled(svg, "label")
        assert len(labels) == len(SWEEP)
        boxes = [
            (float(e.get("x")), float(e.get("y")) - 11, float(e.get("x")) + 6.6 * len(e.text), float(e.get("y")) + 2)
            for e in labels
        ]
        for i, (left, top, right, bottom) in enumerate(boxes):
            for a, b, c, d in boxes[i + 1 :]:
                assert min(right, c) <= max(left, a) or min(bottom, d) <= max(top, b), labels[i].text
            for circle in styled(svg, "marker"):
                if circle.get("cx"):
                    assert not (left < float(circle.get("cx")) < right and top < float(circle.get("cy")) < bottom)


def test_wer_keeps_its_linear_axis_until_values_lie_far_apart(digits, named):
    picture = pictures(digits)[0]
    ticks = [e.text for e in styled(drawn(picture), "tick") if e.get("text-anchor") == "end"]
    steps = [float(b) - float(a) for a, b in itertools.pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    report = named("a.safetensors", "b.safetensors")
    report.rows[1].values["wer"] = 0.9
    ticks = [number(e.text) for e in styled(drawn(pictures(report)[0]), "tick") if e.get("text-anchor") == "end"]
    assert max(b - a for a, b in itertools.pairwise(ticks)) > 2 * (ticks[1] - ticks[0])


# ---------------------------------------------------------------- the page and the files


def test_the_page_has_both_pictures_with_their_captions():
    page = Page(render("html", sweep()))
    assert page.count("svg") == 2
    assert page.text.count("The stepped line is the Pareto front") == 2
    assert "Multiply-accumulates against area under FA/FR (au_fa_fr)" in page.text


def test_files_stand_alone_with_colours_for_light_and_dark():
    files = svg_files(sweep())
    assert sorted(files) == ["au_fa_fr-against-macs.svg", "au_fa_fr-against-size_bytes.svg"]
    for text in files.values():
        root = ElementTree.fromstring(text)
        assert root.tag == f"{SVG}svg"
        assert root.get("viewBox").split()[2:] == [root.get("width"), root.get("height")]
        assert "var(" not in text
        assert "prefers-color-scheme: dark" in text
        assert not re.search(r"<script|href=|url\(|@import", text)


def test_hostile_names_stay_text_in_files_and_captions():
    sidecars = keyword_sidecars(file=HOSTILE.replace("/", ""), at=2)
    record = sidecars[5].record
    record["input"]["num_frames"] = 7  # so that the caption names it
    report = build_report(sidecars[2:], sidecars[:2])
    for text in svg_files(report).values():
        ElementTree.fromstring(text)
        assert "<script" not in text
    assert Page(render("html", report)).count("script") == 0
