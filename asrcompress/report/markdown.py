"""The report as GitHub-flavoured markdown, for a job's step summary or a pull request's comment."""

from __future__ import annotations

import re
from collections.abc import Sequence

from asrcompress.report.rows import Report, columns, printable

STATUS = {"passed": "✅ passed", "failed": "❌ failed", "error": "⚠️ not measured"}


def render(report: Report) -> str:
    """A heading with the verdict, the table, the gates, the notes."""
    verdict = {None: "", True: ": all gates passed", False: ": gates not passed"}[report.passed]
    lines = [f"## asrcompress report{verdict}", ""]
    shown = columns(report)
    lines += _table(
        [c.heading for c in shown], list(zip(*(c.cells for c in shown), strict=True)), [c.is_number for c in shown]
    )
    if report.results:
        rows = [(STATUS[r.status], r.label, r.requirement, r.message) for r in report.results]
        lines += ["", *_table(["gate", "model", "requirement", "found"], rows, [False] * 4)]
    lines += [""] * bool(report.notes) + [f"- {escape(note)}" for note in report.notes]
    return "\n".join(lines) + "\n"


def _table(headings: list[str], rows: Sequence[tuple[str, ...]], numbers: list[bool]) -> list[str]:
    lines = [" | ".join(escape(heading) for heading in headings), " | ".join("---:" if n else "---" for n in numbers)]
    lines += [" | ".join(escape(cell) for cell in row) for row in rows]
    return [f"| {line} |" for line in lines]


def escape(text: str) -> str:
    """Text that markdown shows as it is: no table bars, markup, HTML or links in it."""
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(
        r"([\\|`*_\[\]~#@!])", lambda match: f"&#{ord(match[1])};" if match[1] in "|@#" else "\\" + match[1], text
    )
