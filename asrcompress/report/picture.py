"""A picture of a report with its title and what to know to read it; on a page, or as an SVG file of its own."""

from __future__ import annotations

from dataclasses import dataclass

from asrcompress.report.colours import without_variables
from asrcompress.report.svg import STYLE


@dataclass(frozen=True)
class Picture:
    """`name` is for a file, `title`, the sentence `said` and `caption` for a page.

    svg: one <svg viewBox="0 0 WIDTH HEIGHT" ...> element that needs svg.STYLE and `style`.
    """

    name: str
    title: str
    caption: str
    svg: str
    said: str = ""
    style: str = ""

    def file(self) -> str:
        """The text of an SVG file: no page, no script and no CSS variables needed, light or dark as the reader's screen is."""
        first, rest = self.svg.split("\n", 1)
        wide, high = first.split('viewBox="0 0 ')[1].split('"')[0].split()
        size = f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" '
        rules = without_variables(f"{STYLE}{self.style} .page {{ fill: var(--page); }}")
        page = f'<rect class="page" width="{wide}" height="{high}"/>'
        return f"{first.replace('<svg ', size, 1)}\n<style>{rules}</style>\n{page}\n{rest}\n"
