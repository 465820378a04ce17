"""Heat maps: every cell is there, colours follow the cost, marks say what was measured, labels stay apart."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrcompress.report import render_sensitivity
from asrcompress.report.colours import (
    NUM_STEPS,
    THEMES,
    CostScale,
    contrast,
    ink,
    luminance,
    steps,
    themed,
)
from asrcompress.report.figures import nats, thousandths
from asrcompress.report.heat_map import STYLE, costs, group_layout, heat_map, render, unit_layout
from asrcompress.report.sensitivity_rows import read_sensitivity
from tests.fixtures.sensitivity_records import example, keyword_record, transformer_record
from tests.report.test_sensitivity_table import hostile

SVG = "{http://www.w3.org/2000/svg}"
SIZES = {"keywords": keyword_record, "medium": lambda: transformer_record(4), "large": lambda: transformer_record(18)}


@pytest.fixture(scope="module", params=list(SIZES))
def found(request):
    return read_sensitivity(SIZES[request.param]())


def cells_of(root: ElementTree.Element) -> dict[tuple[str, str], ElementTree.Element]:
    """The cells by unit and option, as their titles name them."""
    cells = {}
    for rect in root.iter(f"{SVG}rect"):
        title = rect.find(f"{SVG}title")
        if title is not None:
            name, option = title.text.splitlines()[:2]
            assert (name, option) not in cells
            cells[name.rpartition(" (")[0] or name, option] = rect
    return cells


def test_every_unit_and_option_has_a_cell_with_its_figures(found):
    cells = cells_of(ElementTree.fromstring(render(found)))
    assert len(cells) == len(found.units) * len(found.options)
    for unit in found.units:
        for option in found.options:
            title = cells[unit.name, option.name].find(f"{SVG}title").text
            cell = unit.cells.get(option.name)
            if cell is None:
                assert title.endswith("not possible")
                assert "hatch" in cells[unit.name, option.name].get("fill")
                continue
            word = "measured" if cell.is_exact else "estimated"
            assert f"loss {nats(cell.cost)} {found.unit_of_loss}, {word}" in title
            assert (found.quality_name in title.split("loss", 1)[1]) == (cell.quality is not None)
            assert cell.size_bytes is None or f"{cell.size_bytes:,} bytes" in title


def test_the_colour_never_pales_as_the_cost_rises(found):
    cells = cells_of(ElementTree.fromstring(render(found)))
    pairs = [
        (cell.cost, int(cells[unit.name, name].get("class").removeprefix("c")))
        for unit in found.units
        for name, cell in unit.cells.items()
    ]
    pairs.sort()
    found_steps = [step for _, step in pairs]
    assert found_steps == sorted(found_steps)
    assert len(set(found_steps)) > 10
    for theme in THEMES:
        shades = [luminance(colour) for colour in steps(theme)]
        assert shades == sorted(shades, reverse=theme == "light")
        assert len(set(shades)) == NUM_STEPS == len(shades)
        assert abs(luminance(THEMES[theme]["page"]) - shades[0]) < 0.15  # little cost is quiet


@pytest.mark.parametrize("theme", THEMES)
def test_what_is_written_can_be_read(theme):
    page = THEMES[theme]["page"]
    assert all(contrast(ink(colour), colour) >= 4.5 for colour in steps(theme))
    assert all(contrast(THEMES[theme][name], page) >= 4.5 for name in ("text", "quiet", "accent"))
    assert all(contrast(THEMES[theme][name], page) >= 3 for name in ("first", "second", "third"))


def test_a_dot_marks_what_was_measured_and_nothing_else(found):
    root = ElementTree.fromstring(render(found))
    layout = unit_layout(found, CostScale.over(costs(found.units), found.loss))
    dots = {(c.get("cx"), c.get("cy")) for c in root.iter(f"{SVG}circle") if "d" in c.get("class").split()}
    expected = {
        (f"{x + 6.5:.1f}", f"{(number + 0.5) * layout.row_height:.1f}")
        for number, line in enumerate(layout.lines)
        for x, option in zip(layout.columns, layout.options, strict=True)
        if option.name in line.row.cells and line.row.cells[option.name].is_exact
    }
    assert dots == expected


def test_chosen_cells_are_outlined(found):
    chosen = {unit.name: "int4" for unit in found.units[::2]} | {found.units[1].name: None}
    root = ElementTree.fromstring(render_sensitivity("svg", found, chosen))
    outlines = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "chosen" and rect.get("x") is not None]
    inside = [rect for rect in outlines if float(rect.get("height")) != 10]  # 10: the one in the legend
    assert len(inside) == len(found.units[::2])
    layout = unit_layout(found, CostScale.over(costs(found.units), found.loss))
    x = layout.columns[[option.name for option in layout.options].index("int4")]
    for rect in inside:
        assert x < float(rect.get("x")) < x + 2
    assert sum("chosen by the plan" in (title.text or "") for title in root.iter(f"{SVG}title")) == len(inside)
    assert "chosen" not in re.sub(r"<style>.*?</style>", "", render(found), flags=re.DOTALL)


def test_names_stand_apart_and_within_the_picture(found):
    root = ElementTree.fromstring(render(found))
    layout = unit_layout(found, CostScale.over(costs(found.units), found.loss))
    columns: dict[str, list[float]] = {}
    for text in root.iter(f"{SVG}text"):
        x = text.get("x")
        if "font-size" in (text.get("style") or "") and x in ("0", str(layout.name_x), str(layout.note_x)):
            columns.setdefault(x, []).append(float(text.get("y")))
    for ys in columns.values():
        gaps = [b - a for a, b in itertools.pairwise(ys)]
        assert all(gap >= layout.font for gap in gaps)
    assert len(columns[str(layout.name_x)]) == len(found.units)  # up to 300 units all have their names
    assert layout.columns[-1] + 50 <= layout.width < 1250


def test_a_thousand_units_thin_their_names_out():
    record = transformer_record(2)
    unit = record["units"][3]
    record["units"] = [unit | {"name": f"stack.{i}.weight", "block": f"stack.{i // 10}"} for i in range(1000)]
    record["groups"] = {"kind": [], "block": []}
    found = read_sensitivity(record)
    root = ElementTree.fromstring(render(found))
    assert len(cells_of(root)) == 12 * 1000
    assert float(root.get("height")) < 5000
    names = [text.text for text in root.iter(f"{SVG}text") if re.fullmatch(r"stack\.\d+", text.text or "")]
    assert 50 <= len(names) <= 500


@pytest.mark.parametrize("by", ["kinds", "blocks"])
def test_groups_have_a_row_each_and_both_changes(found, by):
    rows = getattr(found, by)
    layout = group_layout(found, rows, CostScale.over(costs(found.rows), found.loss))
    root = ElementTree.fromstring(heat_map(layout, "x", "t & t"))
    assert len([r for r in root.iter(f"{SVG}rect") if r.find(f"{SVG}title") is not None]) == len(rows) * 12
    written = [text.text for text in root.iter(f"{SVG}text")]
    for row in rows:
        assert f"{row.num_units} unit" + "s" * (row.num_units > 1) in written
        for cell in row.cells.values():
            assert thousandths(cell.cost) in written


@pytest.mark.parametrize("name", ["svg", "html"])
def test_pictures_need_nothing_else_and_have_no_nan(found, name):
    text = render_sensitivity(name, found)
    stripped = text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|@import|url\((?!#)|<script|<link|<img|<iframe|\bsrc=|\bhref=", stripped)
    assert not re.search(r"\bnan\b|\binf\b|None", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))
    assert "prefers-color-scheme: dark" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


def test_a_file_says_every_colour_outright():
    text = render(read_sensitivity(example()))
    assert "var(" not in text  # programs that show SVG files have no variables
    assert not re.search(r"\{(page|text|quiet|line|soft|accent)\}", text)
    style = themed(STYLE)
    assert style.count("{") == style.count("}")


def test_strings_of_a_record_are_text_and_never_markup():
    root = ElementTree.fromstring(render(read_sensitivity(hostile())))
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "style", "rect", "text", "g", "defs", "pattern", "path", "circle", "title",
    }  # fmt: skip
    assert any("<script>alert(1)</script>" in (title.text or "") for title in root.iter(f"{SVG}title"))


@given(st.lists(st.floats(-1e6, 1e6) | st.floats(0, 1e-300), max_size=20), st.floats(0, 10) | st.none())
def test_any_costs_have_a_scale(values, loss):
    scale = CostScale.over(values, loss)
    assert 0 < scale.low < scale.high
    previous = -1
    for value in sorted(values):
        step = scale.step(value)
        assert previous <= step and 0 <= step < NUM_STEPS
        previous = step
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 9
    places = [scale.place(tick) for tick in ticks]
    assert places == sorted(places) and all(0 <= place <= 1 for place in places)
    if max(values, default=0) > 1e-12:
        assert scale.high >= max(values) * 0.99 and not math.isinf(scale.high)
