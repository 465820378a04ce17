"""The page of a sensitivity table: words, maps, plots and the plan are on it, and no string breaks it."""

from __future__ import annotations

import copy
import re
from xml.etree import ElementTree

import pytest

from asrcompress.report import render_sensitivity
from asrcompress.report.scatter import scatter
from asrcompress.report.sensitivity_rows import read_sensitivity
from tests.fixtures.sensitivity_records import keyword_record, transformer_record, with_words
from tests.report.test_pages import Page
from tests.report.test_sensitivity_table import HOSTILE, hostile


@pytest.fixture(scope="module")
def found():
    return read_sensitivity(with_words(transformer_record(3)))


def test_the_page_has_words_maps_and_plots(found):
    page = Page(render_sensitivity("html", found))
    for sentence in found.advice:
        assert sentence in page.text
    assert page.count("svg", "map") == 6  # legend and rows, by kind, by block and by unit
    assert page.count("svg", "scatter") == 2
    cells = len(found.rows) * len(found.options)
    titles = page.count("title") - 1
    measured = sum(cell.is_exact and cell.cost is not None for unit in found.units for cell in unit.cells.values())
    assert titles == cells + 2 * measured
    assert "Spearman 0.94 (95 % interval 0.89 to 0.96" in page.text
    for text in (
        "checkpoint_best.pt",
        "dev.tsv",
        "gptq",
        "2a0a2109db482d37585c7ff83c2bb181b94965bf543237679dd1d813fb3f27f1",
    ):
        assert text in page.text
    assert "The plan" not in page.text


def test_warnings_stand_first():
    record = keyword_record() | {"warnings": ["Beware of this."]}
    page = Page(render_sensitivity("html", read_sensitivity(record)))
    assert page.count("p", "warning") == 1
    assert page.text.index("Beware of this.") < page.text.index("By kind")


def test_the_plan_counts_units_and_bytes_per_option(found):
    weights = [unit for unit in found.units if unit.target == "weight"]
    chosen = {unit.name: "int4+2:4" for unit in weights[1:]}
    text = render_sensitivity("html", found, chosen)
    rows = re.findall(r"<tr><td>([^<]*)</td>(.*?)</tr>", text)
    numbers = {name: [int(n.replace(",", "")) for n in re.findall(r">([\d,]+)<", cells)] for name, cells in rows}
    packed = sum(unit.cells["int4+2:4"].size_bytes for unit in weights[1:])
    assert numbers["int4+2:4"] == [
        len(weights) - 1, sum(unit.num_params for unit in weights[1:]), packed, sum(unit.size_bytes_float for unit in weights[1:]),
    ]  # fmt: skip
    left = weights[0]
    assert numbers["float"][1:] == [left.num_params, left.size_bytes_float, left.size_bytes_float]
    assert f"Its weights take {packed + left.size_bytes_float:,} bytes" in text
    assert text.count('class="chosen"') == len(chosen) + 1  # one in the legend


def test_an_empty_plan_leaves_everything_in_float(found):
    text = render_sensitivity("html", found, {})
    assert "The plan" in text and "100.0 % of float" in text


def test_strings_of_a_record_are_text_and_never_markup():
    page = Page(render_sensitivity("html", read_sensitivity(hostile())))
    assert page.count("script") == page.count("img") == 0
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "<script>alert(1)</script>" in page.text
    assert "\x1b" not in page.text and HOSTILE[:8] in page.text


def test_every_picture_on_the_page_is_xml(found):
    pictures = re.findall(r"<svg.*?</svg>", render_sensitivity("html", found), re.DOTALL)
    assert len(pictures) == 8
    for picture in pictures:
        ElementTree.fromstring(picture)


# ---------------------------------------------------------------- the scatter plot


def points(svg: str) -> list[tuple[float, float, str]]:
    root = ElementTree.fromstring(svg.replace('xmlns="http://www.w3.org/2000/svg"', ""))
    found = [c for c in root.iter("circle") if c.find("title") is not None]
    return [(float(c.get("cx")), float(c.get("cy")), c.get("class")) for c in found]


def test_points_lie_by_the_logarithms_of_both(found):
    cells = [cell for unit in found.units for cell in unit.cells.values() if cell.is_exact]
    drawn = points(scatter(found, "fisher"))
    assert len(drawn) == len(cells)
    assert {style.split()[1] for *_, style in drawn} == {"dense", "sparse", "activations"}
    positive = [(cell, point) for cell, point in zip(cells, drawn, strict=True) if cell.cost > 0]
    by_fisher = sorted(positive, key=lambda pair: pair[0].fisher)
    assert [p[0] for _, p in by_fisher] == sorted(p[0] for _, p in positive)
    by_cost = sorted(positive, key=lambda pair: -pair[0].cost)
    assert [p[1] for _, p in by_cost] == sorted(p[1] for _, p in positive)


def test_changes_of_nothing_lie_hollow_on_the_edge(found):
    record = copy.deepcopy(dict(found.record))
    exact = [option for unit in record["units"] for option in unit["options"] if option["loss_change"] is not None]
    for number, option in enumerate(exact):
        option["loss_change"] = option["cost"] = -0.001 * number if number < 3 else abs(option["loss_change"])
    drawn = points(scatter(read_sensitivity(record), "kl"))
    hollow = [(x, y) for x, y, style in drawn if "hollow" in style]
    assert len(hollow) == 3
    assert len({y for _, y in hollow}) == 1 and hollow[0][1] == max(y for _, y, _ in drawn)
    assert "3 cells that raised the loss by nothing" in render_sensitivity("html", read_sensitivity(record))


def test_without_measurements_there_is_no_plot():
    record = keyword_record(exact_share=0.0)
    found = read_sensitivity(record)
    assert scatter(found, "fisher") == scatter(found, "kl") == ""
    assert Page(render_sensitivity("html", found)).count("svg", "scatter") == 0
