"""The text of a sensitivity table: what a person sees first, marks, width; and its CSV, JSON and markdown."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.report import SENSITIVITY_FORMATS, render_sensitivity
from asrcompress.report.sensitivity_rows import by_sensitivity, ranking_option, read_sensitivity
from asrcompress.report.sensitivity_table import render
from asrcompress.report.table import text_width
from tests.fixtures.sensitivity_records import example, keyword_record, transformer_record, with_words

HOSTILE = "<script>alert(1)</script>\"'&amp;|x](http://evil)\x1b[31m\n# a `b` *c* \u202e"


@pytest.fixture(scope="module")
def found():
    return read_sensitivity(with_words(transformer_record(4)))


def hostile() -> dict:
    """A record whose every free string is hostile."""
    record = with_words(example())
    record["model"]["file"] = record["data"]["file"] = record["options"]["method"] = HOSTILE
    for unit in record["units"]:
        unit["name"] += HOSTILE
        unit["kind"] += HOSTILE
        unit["block"] += HOSTILE
    for group in (*record["groups"]["kind"], *record["groups"]["block"]):
        group["name"] += HOSTILE
    record["advice"] = record["warnings"] = [HOSTILE]
    return record


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_tables_fit_the_width_and_every_kind_block_and_option_is_there(found, width):
    text = render(found, width=width)
    tables = text.split("\nby kind")[1].split("What to leave alone")[0]
    assert max(map(text_width, tables.splitlines())) <= width
    for row in (*found.kinds, *found.blocks):
        count = f" ({row.num_units})" if row.num_units > 1 else ""
        assert re.search(rf"^{re.escape(row.name[:4])}\S*.*{re.escape(count)}  ", tables, re.MULTILINE), row.name
    if width >= 100:
        for row in (*found.kinds, *found.blocks):
            assert f"\n{row.name}" in tables
    for pattern in ("dense", "2:4", "1:4"):
        assert tables.count(pattern) >= 4 * 3


def test_a_wide_terminal_has_one_table_per_section(found):
    assert len(render(found, width=200).splitlines()) < len(render(found, width=100).splitlines())
    assert len(render(found, width=200).split("by block")[0].split("by kind")[1].split("\n\n")) == 2


def test_the_most_sensitive_come_first(found):
    text = render(found)
    option = ranking_option(found)
    for title, rows, section in (
        ("by kind", found.kinds, text.split("by kind")[1].split("\n\n")[0]),
        ("most sensitive of", found.units, text.split("most sensitive of")[1].split("\n\n")[0]),
    ):
        shown = [line for line in section.splitlines()[3:] if not line.startswith(" ")]
        expected = [row.name for row in by_sensitivity(rows, option)][: len(shown)]
        assert [line.split("  ")[0].split(" (")[0] for line in shown] == expected, title


def test_estimates_are_marked_and_measurements_are_not(found):
    text = render(found, width=400)
    section = text.split("most sensitive of")[1]
    for unit in by_sensitivity(found.units, ranking_option(found))[:12]:
        (line,) = [line for line in section.splitlines() if line.startswith(f"{unit.name} ")]
        cells = line.removeprefix(unit.name).split()
        assert len(cells) == len(found.options)
        for option, cell in zip(found.options, cells, strict=True):
            known = unit.cells.get(option.name)
            assert cell.endswith("~") == (known is not None and not known.is_exact)
            assert (cell == "-") == (known is None)


def test_changes_of_wer_stand_under_those_of_the_loss(found):
    lines = render(found, width=400).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("by kind"))
    for number, line in enumerate(lines[start : start + 30]):
        if line.startswith("embedding"):
            below = lines[start + number + 1].split()
            assert below[0] == "wer"
            (kind,) = [kind for kind in found.kinds if kind.name == "embedding"]
            assert [float(cell) / 100 for cell in below[1:]] == pytest.approx(
                [kind.cells[o.name].quality for o in found.options if o.name in kind.cells], abs=5.1e-5
            )
            return
    pytest.fail("no line of the embedding")


def test_the_head_says_what_was_measured_and_how_far_estimates_go(found):
    head = render(found).split("by kind")[0]
    exact = sum(cell.is_exact for unit in found.units for cell in unit.cells.values())
    assert f"{len(found.units)} units, 12 options: {exact} of" in head
    assert "loss 0.131 nats per token, wer 4.76 % on dev.tsv" in head
    assert "kl proxy against loss: Spearman 0.94 (95 % interval 0.89 to 0.96" in head


def test_a_plan_stands_behind_the_names(found):
    chosen = {unit.name: "int4" for unit in found.units[1:]}
    text = render_sensitivity("table", found, chosen)
    section = text.split("most sensitive of")[1]
    worst = by_sensitivity(found.units, ranking_option(found))[:12]
    assert section.count(" = int4") >= len(worst) - 1
    markdown = render_sensitivity("markdown", found, chosen)
    assert markdown.count("**") == 2 * sum(unit.name in chosen for unit in worst)


@pytest.mark.parametrize("name", sorted(SENSITIVITY_FORMATS))
def test_no_format_has_nan_none_or_control_characters_of_a_record(name):
    found = read_sensitivity(hostile())
    text = render_sensitivity(name, found)
    assert text.endswith("\n")
    assert not re.search(r"\bnan\b|\binf\b|\bNone\b", text)
    if name not in ("json", "csv"):  # machine formats say what the record says
        assert "\x1b" not in text and "\u202e" not in text


def test_an_unknown_format_is_named(found):
    with pytest.raises(AsrCompressError, match="junit.*table, markdown"):
        render_sensitivity("junit", found)


def test_csv_has_every_cell_with_every_digit(found):
    rows = list(csv.DictReader(io.StringIO(render_sensitivity("csv", found, {found.units[0].name: "int4"}))))
    assert len(rows) == sum(len(unit.cells) for unit in found.units)
    for row in rows:
        (unit,) = [unit for unit in found.units if unit.name == row["unit"]]
        cell = unit.cells[row["option"]]
        assert float(row["cost"]) == cell.cost
        assert row["is_measured"] == str(cell.is_exact).lower() == str(row["loss_change"] != "").lower()
        assert (row["wer_change"] == "") == (cell.quality is None)
    assert [row["option"] for row in rows if row["is_chosen"] == "true"] == ["int4"]


def test_json_is_the_record():
    record = keyword_record()
    assert json.loads(render_sensitivity("json", read_sensitivity(record))) == record


def test_markdown_is_tables_that_no_string_breaks():
    text = render_sensitivity("markdown", read_sensitivity(hostile()))
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "<" not in text.replace("&lt;", "")
    assert "](" not in re.sub(r"\\.", "", text)


def test_a_record_with_one_option_and_no_quality_is_shown():
    record = keyword_record(bits=(4,), patterns=())
    del record["metrics"]["au_fa_fr"]
    found = read_sensitivity(record)
    for name in SENSITIVITY_FORMATS:
        assert "int4" in render_sensitivity(name, found)
    assert "wer" not in render(found).split("proxy")[0]
