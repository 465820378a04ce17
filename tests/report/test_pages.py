"""Markdown and the HTML page: complete, self-contained, and safe with any string."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from asrcompress.gate import parse
from asrcompress.report import render
from asrcompress.report.rows import columns

HOSTILE = "<script>alert(1)</script>\"'&amp;|x](http://evil) <img src=x onerror=y>\n# a `b` *c*"
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Tags, attributes and text; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def count(self, tag: str, style: str = "") -> int:
        return sum(name == tag and style in ["", *(attrs.get("class") or "").split()] for name, attrs in self.tags)


def test_page_shows_the_table_the_gates_and_the_plot(digits):
    page = Page(render("html", digits))
    for column in columns(digits):
        for cell in (column.heading, *column.cells):
            assert cell in page.text
    for result in digits.results:
        assert result.requirement in page.text
        assert result.message in page.text
    assert [page.count("span", style) for style in ("passed", "failed", "error")] == [4, 1, 2]  # verdict: the worst
    assert "4 of 6 gates passed" in page.text
    assert page.count("svg") == 2  # against bytes, and against MACs, which nobody counted for int4
    assert page.count("circle", "passed") == 2  # int8 keeps to all
    assert page.count("circle", "error") == 1
    assert page.count("path", "band") + page.count("rect", "band") == 2
    assert page.count("path", "whisker") == 3 + 2


def test_page_has_a_plot_per_quality_metric(digits, keywords, example):
    from asrcompress.report.rows import build_report

    both = build_report([example("checkpoint_best.int8.safetensors.eval.json"), example("crnn_happy.pt.eval.json")])
    assert Page(render("html", both)).count("svg") == 2
    only_sizes = build_report([example("checkpoint_best.int8.safetensors.json")])
    assert Page(render("html", only_sizes)).count("svg") == 0


def test_page_needs_nothing_else(digits):
    text = render("html", digits)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link|<img|<iframe|\bsrc=|\bhref=", text)


def test_page_follows_the_readers_light_or_dark(digits):
    text = render("html", digits)
    assert "prefers-color-scheme: dark" in text
    style = text[text.index("<style>") : text.index("</style>")]
    rules = style[style.index("body {") :]
    assert not re.search(r"#[0-9a-f]{3,6}\b", rules)  # every colour is a variable with two values
    assert set(re.findall(r"var\((--[a-z-]+)\)", rules)) <= set(re.findall(r"(--[a-z-]+):", style))


@pytest.mark.parametrize("count", [1, 3, 8])
def test_strings_of_a_sidecar_are_text_and_never_markup(named, count):
    files = [HOSTILE, *(f"m{i}.safetensors" for i in range(count - 1))]
    text = render("html", named(*files, requirements=[parse("wer<=0.05")]))
    page = Page(text)
    assert page.count("script") == page.count("img") == 0
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "<script>alert(1)</script>" in page.text


def test_markdown_is_a_table_that_no_string_breaks(named):
    text = render("markdown", named(HOSTILE, "m.safetensors", requirements=[parse("wer<=0.031")]))
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "<" not in text.replace("&lt;", "")
    assert "](" not in re.sub(r"\\.", "", text)
    assert "✅ passed" in text
    assert "❌ failed" in text


def test_markdown_says_the_verdict_first(digits, keywords):
    assert render("markdown", digits).startswith("## asrcompress report: gates not passed\n")
    assert render("markdown", keywords).startswith("## asrcompress report\n")
