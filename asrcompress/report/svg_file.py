"""Pictures of a report as SVG files of their own, which need no page, no script and no variables of CSS."""

from __future__ import annotations

from asrcompress.report.colours import without_variables
from asrcompress.report.rows import Report
from asrcompress.report.svg import STYLE
from asrcompress.report.tradeoff import pictures


def svg_files(report: Report) -> dict[str, str]:
    """The text of each picture by the name of its file; empty where there is nothing to draw."""
    return {f"{picture.name}.svg": stand_alone(picture.svg) for picture in pictures(report)}


def stand_alone(svg: str, style: str = "") -> str:
    """An element that a page would style made a file, light or dark as the reader's screen is.

    Args:
        svg: one <svg viewBox="0 0 WIDTH HEIGHT" ...> element.
        style: rules besides svg.STYLE.
    """
    first, rest = svg.split("\n", 1)
    wide, high = first.split('viewBox="0 0 ')[1].split('"')[0].split()
    size = f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" '
    rules = without_variables(f"{STYLE}{style} .page {{ fill: var(--page); }}")
    page = f'<rect class="page" width="{wide}" height="{high}"/>'
    return f"{first.replace('<svg ', size, 1)}\n<style>{rules}</style>\n{page}\n{rest}\n"
