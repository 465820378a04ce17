"""The table on a terminal and in a pipe."""

from __future__ import annotations

import re

import pytest

from asrcompress.report.rows import columns
from asrcompress.report.table import render, text_width


def test_in_a_pipe_a_model_is_one_line_however_long(digits):
    lines = render(digits).splitlines()
    assert len(lines[0]) > 140
    assert [line.split()[0] for line in lines[1:4]] == [row.label for row in digits.rows]
    assert all(len(re.split(r"  +", line)) == len(columns(digits)) for line in lines[1:4])


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_the_numbers_fit_the_terminal_and_none_is_left_out(digits, width):
    table = render(digits, width=width).split("\n\nPASS")[0]
    assert max(map(text_width, table.splitlines())) <= width
    for column in columns(digits)[1:]:
        assert column.heading in table
        for cell in column.cells:
            assert cell in table


def test_a_wide_terminal_shows_what_a_pipe_shows(digits):
    assert render(digits, width=400) == render(digits)


def test_brackets_are_text(named):
    report = named("model.[int8].safetensors", "[bold]x[/bold].safetensors")
    for width in (None, 80):
        text = render(report, width=width)
        assert "[int8]" in text
        assert "[bold]" in text


def test_color_only_when_asked_for(digits):
    assert "\x1b" not in render(digits, width=80)
    painted = render(digits, width=80, color=True)
    assert "\x1b[31mFAIL" in painted
    assert re.sub(r"\x1b\[\d+m", "", painted) == render(digits, width=80)


def test_columns_line_up_under_wide_characters(named):
    lines = render(named("音声モデル.safetensors", "a.safetensors")).splitlines()
    end = text_width(lines[0].split("size_bytes")[0])
    cells = [text_width(line[: line.index("000 ") + 3]) for line in lines[1:3]]
    assert cells[0] == cells[1] == end + len("size_bytes")


def test_not_measured_is_a_dash_and_not_a_zero(digits):
    table = render(digits, width=80)
    macs = next(line for line in table.splitlines() if line.startswith("macs "))
    assert macs.split() == ["macs", "574,193,664", "-", "574,193,664"]


def test_verdicts(digits):
    words = re.findall(r"^(PASS |FAIL |ERROR) ", render(digits), flags=re.MULTILINE)
    assert words == ["PASS ", "FAIL ", "ERROR", "PASS ", "PASS ", "PASS "]
