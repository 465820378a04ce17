"""The picture of a fine-tuning, measured as a reader would: by its ticks. And the section of the page that it stands in."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from asrcompress.report import render
from asrcompress.report.html import PAGE_STYLE, PLOT_STYLE
from asrcompress.report.rows import build_report
from asrcompress.report.training_plot import STYLE, training_plot
from asrcompress.report.training_rows import read_training
from asrcompress.sidecar import Sidecar
from tests.fixtures.sidecars import load
from tests.fixtures.training_records import LINES, training, tuned
from tests.report.test_pages import HOSTILE, Page

STILL = tuple((*row[:4], 0.0) for row in LINES)


def drawn(block: dict) -> ElementTree.Element:
    found = read_training({"training": block}, "x.json")
    assert found is not None
    return ElementTree.fromstring(training_plot(found))


def styled(svg: ElementTree.Element, style: str) -> list[ElementTree.Element]:
    return [element for element in svg.iter() if style in (element.get("class") or "").split()]


def numbers(path: ElementTree.Element) -> list[float]:
    return [float(number) for number in re.findall(r"-?[\d.]+", path.get("d"))]


def reader(svg: ElementTree.Element, top: float, bottom: float):
    """What a y on the page is worth, by the ticks on the left between two heights."""
    ticks = [
        (float(element.get("y")) - 4, float(element.text))
        for element in styled(svg, "tick")
        if element.get("text-anchor") == "end" and top <= float(element.get("y")) - 4 <= bottom
    ]
    (y0, v0), (y1, v1) = ticks[0], ticks[-1]
    return lambda y: v0 + (y - y0) / (y1 - y0) * (v1 - v0)


def frames(svg: ElementTree.Element) -> list[tuple[float, float]]:
    """(top, bottom) of the panels."""
    found = []
    for path in styled(svg, "frame"):
        if "H" in path.get("d"):
            _, top, bottom, _ = numbers(path)
            found.append((top, bottom))
    return found


def test_the_points_read_off_the_ticks_are_the_metric_in_per_cent():
    svg = drawn(training())
    value = reader(svg, *frames(svg)[0])
    dots = styled(svg, "dot")
    assert [value(float(dot.get("cy"))) for dot in dots] == pytest.approx([row[1] * 100 for row in LINES], abs=0.02)
    across = [float(dot.get("cx")) for dot in dots]
    shares = [(x - across[0]) / (across[-1] - across[0]) for x in across]
    assert shares == pytest.approx([row[0] / 600 for row in LINES], abs=1e-3)


def test_the_best_and_the_one_shot_start_are_marked_where_they_are():
    svg = drawn(training())
    dots, (best,) = styled(svg, "dot"), styled(svg, "best")
    assert (best.get("cx"), best.get("cy")) == (dots[2].get("cx"), dots[2].get("cy"))
    assert numbers(styled(svg, "at-best")[0])[0] == float(best.get("cx"))
    assert numbers(styled(svg, "reference")[0])[1] == float(dots[0].get("cy"))
    assert len(styled(svg, "start")) == 1
    assert [label.text for label in styled(svg, "label")] == ["one-shot 6.35 %", "best 3.98 %, after 470"]


def test_the_training_loss_is_a_step_as_long_as_what_it_is_the_mean_of():
    svg = drawn(training())
    value = reader(svg, *frames(svg)[1])
    across = [float(dot.get("cx")) for dot in styled(svg, "dot")]
    steps = numbers(next(path for path in styled(svg, "training-loss") if "V" in path.get("d")))
    assert steps[0] == across[0]
    assert steps[2::2] == across[1:]
    assert [value(y) for y in steps[1::2]] == pytest.approx([0.9, 0.5, 0.3], abs=0.002)
    of_dev = numbers(next(path for path in styled(svg, "dev-loss") if "L" in path.get("d")))
    assert [value(y) for y in of_dev[1::2]] == pytest.approx([row[2] for row in LINES], abs=0.002)


def test_masks_are_drawn_where_some_moved_and_only_there():
    svg = drawn(training())
    assert len(frames(svg)) == 3
    value, bars = reader(svg, *frames(svg)[2]), styled(svg, "bar")
    assert [value(float(bar.get("y"))) for bar in bars] == pytest.approx([1.2, 0.4], abs=0.01)
    heights = [float(bar.get("height")) for bar in bars]
    assert heights[0] == pytest.approx(3 * heights[1], abs=0.3)
    still = drawn(training(STILL))
    assert len(frames(still)) == 2
    assert not styled(still, "bar")
    assert not styled(drawn(training(tuple((*row[:4], None) for row in LINES))), "bar")


@pytest.mark.parametrize(
    "rows",
    [
        LINES[:1],
        LINES[:2],
        ((0, 0.0, 0.0, None, None), (1, 0.0, 0.0, 0.0, None)),
        ((0, 1e-9, 5e5, None, 1.0), (1, 3e9, 1e-8, 7.0, 1.0)),
        ((0, 0.05, 0.3, None, 0.0), (1, 0.05, 0.3, -0.5, 0.1)),
        tuple((i * 47, 0.04 + 0.05 / (i + 1), 1 / (i + 1), 1.0 if i else None, 0.01 * (i % 3)) for i in range(300)),
    ],
    ids=["start", "worse", "zeros", "far-apart", "even", "many"],
)
@pytest.mark.parametrize("metric", ["wer", "au_fa_fr"])
def test_everything_lies_on_the_picture(rows, metric):
    svg = drawn(training(rows, metric=metric))
    wide, high = map(float, svg.get("viewBox").split()[2:])
    panels = frames(svg)
    for element in svg.iter():
        for name, end in (("x", wide), ("cx", wide), ("y", high), ("cy", high)):
            assert 0 <= float(element.get(name, 0)) <= end, ElementTree.tostring(element)
    for dot in styled(svg, "dot"):
        assert panels[0][0] - 0.1 <= float(dot.get("cy")) <= panels[0][1] + 0.1
    for label in styled(svg, "label"):  # names stay within their panel
        assert panels[0][0] - 14 <= float(label.get("y")) <= panels[0][1]
    assert "nan" not in ElementTree.tostring(svg, encoding="unicode").lower()
    assert len(styled(svg, "best")) == 1


def test_every_class_has_a_style():
    used = {word for element in drawn(training()).iter() for word in (element.get("class") or "").split()}
    known = set(re.findall(r"\.([a-z-]+)", PAGE_STYLE + PLOT_STYLE + STYLE))
    assert used - known == {"training-loss"}  # a series, and no more than one


# ---------------------------------------------------------------- the page


def test_the_page_has_a_section_per_fine_tuned_model(example):
    other = tuned(file="other.safetensors")
    other.record["model"]["sha256"] = "9" * 64
    page = Page(render("html", build_report([tuned(), other, example("crnn_happy.pt.eval.json")])))
    assert page.count("svg", "training") == 2
    assert page.text.count("Fine-tuning: ") == 2
    assert page.text.count("From wer 6.35 % one-shot to 3.98 % after 470 updates of 600; trained on") == 2
    assert "fine-tuned, from" not in page.text  # the section says it, the notes do not again


def test_a_model_that_was_evaluated_twice_has_one_section():
    sidecar = tuned()
    sidecars = [sidecar]
    for number, file in enumerate(("a.tsv", "b.tsv")):
        record = copy.deepcopy(load("checkpoint_best.int8.safetensors.eval.json"))
        record["model"]["file"] = sidecar.record["model"]["file"]
        record["data"] |= {"file": file, "sha256": str(number) * 64}
        sidecars.append(Sidecar(Path(f"{file}.json"), record))
    report = build_report(sidecars)
    assert len(report.rows) == 2
    page = Page(render("html", report))
    assert page.count("svg", "training") == 1
    assert "Fine-tuning: small.safetensors" in page.text
    assert "Fine-tuning: small.safetensors (" not in page.text


def test_a_page_without_fine_tuning_has_no_section(digits):
    assert "Fine-tuning" not in render("html", digits)


def test_the_teacher_is_named_where_there_was_one():
    with_teacher = render("html", build_report([tuned()]))
    without = render("html", build_report([tuned(training(teacher_sha256=None))]))
    assert "distance from the teacher" in with_teacher
    assert "distance from the teacher" not in without


def test_any_name_is_text():
    block = training()
    for name in ("train", "dev"):
        block[name] |= {"file": HOSTILE, "split": HOSTILE}
    page = Page(render("html", build_report([tuned(block, file=HOSTILE.replace("/", ""))])))
    assert page.count("script") == page.count("img") == page.count("a") == 0
    assert page.text.count(HOSTILE.replace("\n", "\ufffd")) == 4  # file and split, twice
