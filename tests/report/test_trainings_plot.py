"""Several trainings in one picture, read by its ticks."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from asrcompress.report import render
from asrcompress.report.gallery import svg_files
from asrcompress.report.html import PAGE_STYLE, PICTURE_STYLE, PLOT_STYLE
from asrcompress.report.rows import build_report
from asrcompress.report.training_rows import read_training
from asrcompress.report.trainings_plot import trainings_plot
from asrcompress.sidecar import Sidecar
from tests.fixtures.training_records import LINES, training, tuned
from tests.report.test_pages import Page
from tests.report.test_tradeoff import log_reader
from tests.report.test_training_plot import numbers, styled

SHORT = tuple((update, metric * 2, loss * 2, trained, None) for update, metric, loss, trained, _ in LINES[:3])
FALLING = ((0, 0.2, 0.6, None, None), (50, 3e-3, 0.2, 0.3, None), (100, 2e-4, 0.1, 0.1, None))


def drawn(*blocks: dict) -> ElementTree.Element:
    return ElementTree.fromstring(
        trainings_plot([(f"m{i}.safetensors", read_training({"training": b}, "x")) for i, b in enumerate(blocks)])
    )


def lines_of(svg: ElementTree.Element, number: int) -> list[list[float]]:
    """The places of each line of a training: its loss, its metric."""
    return [numbers(path) for path in styled(svg, f"s{number}") if "L" in path.get("d")]


def test_au_fa_fr_is_read_off_a_logarithmic_axis():
    svg = drawn(training(FALLING, metric="au_fa_fr"), training(FALLING[:2], metric="au_fa_fr"))
    loss, metric = lines_of(svg, 1)
    assert len(loss) == len(metric) == 6
    ticks = styled(svg, "tick")
    upper = ElementTree.Element("svg")
    upper.extend(e for e in ticks if e.get("text-anchor") == "end" and float(e.get("y")) < max(metric[1::2]) + 20)
    value = log_reader(upper, across=False)
    assert [value(y) for y in metric[1::2]] == pytest.approx([row[1] for row in FALLING], rel=0.02)


def test_each_training_ends_where_it_ended_and_epochs_are_shared():
    svg = drawn(training(), training(SHORT))
    (_, long_line), (_, short_line) = lines_of(svg, 1), lines_of(svg, 2)
    assert long_line[0] == short_line[0]
    assert (short_line[-2] - short_line[0]) / (long_line[-2] - long_line[0]) == pytest.approx(470 / 600, abs=1e-3)
    best = styled(svg, "f1")[-1]  # over the key's
    assert numbers(best)[1] == pytest.approx(long_line[5], abs=0.1)


def test_more_trainings_than_colours_differ_in_dashes():
    svg = drawn(*(training() for _ in range(12)))
    looks = {(e.get("class"), e.get("stroke-dasharray")) for e in styled(svg, "series")}
    assert len(looks) == 12
    assert len([text for text in svg.iter("text") if "best 3.98 %" in (text.text or "")]) == 12


@pytest.mark.parametrize("metric", ["wer", "au_fa_fr"])
@pytest.mark.parametrize(
    "rows",
    [LINES[:1], ((0, 0.0, 0.0, None, None), (9, 0.0, 0.0, 0.0, None)), FALLING],
    ids=["start", "zeros", "falling"],
)
def test_everything_lies_on_the_picture(rows, metric):
    svg = drawn(training(rows, metric=metric), training(metric=metric))
    wide, high = map(float, svg.get("viewBox").split()[2:])
    for element in svg.iter():
        assert 0 <= float(element.get("x", 0)) <= wide
        assert 0 <= float(element.get("y", 0)) <= high
    for path in styled(svg, "series"):
        assert all(0 <= y <= high for y in numbers(path)[1::2])
    assert "nan" not in ElementTree.tostring(svg, encoding="unicode")


def test_every_class_has_a_style():
    used = {word for element in drawn(training(), training()).iter() for word in (element.get("class") or "").split()}
    assert not used - set(re.findall(r"\.([a-z0-9-]+)", PAGE_STYLE + PLOT_STYLE + PICTURE_STYLE))


# ---------------------------------------------------------------- the page and the files


def students(*files: str) -> list[Sidecar]:
    found = []
    for number, file in enumerate(files):
        sidecar = tuned(training(FALLING, metric="au_fa_fr"), file)
        sidecar.record["model"]["sha256"] = f"{number:064x}"
        sidecar.record["training"]["student"] = {"family": "kws_crnn", "sizes": {"channels": 2}}
        found.append(sidecar)
    return found


def test_students_share_a_picture_and_are_said_to_be_distilled():
    report = build_report(students("a.safetensors", "b.safetensors"))
    page = Page(render("html", report))
    assert page.count("svg", "trainings") == 1
    assert page.count("svg", "training") == 2
    assert "2 trainings, area under FA/FR" in page.text
    assert page.text.count("Distillation: ") == 2
    assert "From au_fa_fr 0.2 before training to 0.0002 after 100 updates" in page.text
    assert "one-shot" not in page.text
    assert "a.safetensors: distilled, from au_fa_fr 0.2 before training" in render("table", report)
    assert sorted(svg_files(report)) == ["training-a.svg", "training-b.svg", "trainings-au_fa_fr.svg"]


def test_a_compressed_student_that_was_fine_tuned_began_one_shot():
    (sidecar,) = students("a.safetensors")
    del sidecar.record["training"]["student"]
    page = Page(render("html", build_report([sidecar])))
    assert page.count("svg", "trainings") == 0
    assert "Fine-tuning: a.safetensors" in page.text
    assert "0.2 one-shot to" in page.text
