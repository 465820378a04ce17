"""The report as one HTML file that needs nothing else: verdict, gates, its pictures, the table.

No script, no network, no fonts to fetch; it follows the reader's light or dark setting and prints. Every string
from a sidecar is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from asrcompress.report.colours import page_variables
from asrcompress.report.gallery import STYLE as PICTURE_STYLE
from asrcompress.report.gallery import gallery, sentence
from asrcompress.report.picture import Picture
from asrcompress.report.rows import Report, Row, columns, printable, spoken_note, spoken_text, training_note
from asrcompress.report.svg import STYLE as PLOT_STYLE

STATUS = {"passed": "✓ passed", "failed": "✗ failed", "error": "! not measured"}
PAGE_STYLE = (
    page_variables()
    + """\
body { margin: 0 auto; padding: 28px 24px 48px; max-width: 1040px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 32px 0 10px; }
.verdict, .badge { border-radius: 6px; padding: 2px 10px; font-weight: 600; white-space: nowrap; }
.verdict { font-size: 15px; vertical-align: 3px; margin-left: 10px; }
.badge { font-size: 13px; }
.badge.passed { background: var(--good-soft); color: var(--good); }
.badge.failed { background: var(--bad-soft); color: var(--bad); }
.badge.error { background: var(--warn-soft); color: var(--warn); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child > * { border-bottom: 0; } thead th { background: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; white-space: nowrap; } tbody th { font-weight: 500; }
td.label { overflow-wrap: anywhere; min-width: 180px; } .baseline-row > * { background: var(--soft); }
.numbers th:first-child, .numbers td { white-space: nowrap; }
code { font: 13px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
svg { width: 100%; height: auto; display: block; } figure { margin: 0; }
p.quiet, ul { color: var(--quiet); font-size: 14px; } ul { padding-left: 20px; }
@media print { .scroll { overflow: visible; border: 0; } body { max-width: none; } }
"""
)


def render(report: Report) -> str:
    """A whole HTML document."""
    gates, pictures = _gates(report), gallery(report)
    notes = _notes(report, pictures)
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>asrcompress report</title>\n<style>{PAGE_STYLE}{PLOT_STYLE}{PICTURE_STYLE}</style>\n</head>\n<body>",
            f"<h1>asrcompress report{_verdict(report)}</h1>",
            *gates,
            *_figures(pictures),
            *_numbers(report),
            *notes,
            "</body>\n</html>\n",
        ]
    )


def _verdict(report: Report) -> str:
    if report.passed is None:
        return ""
    statuses = [result.status for result in report.results]
    worst = "error" if "error" in statuses else "failed" if "failed" in statuses else "passed"
    kept = f"{statuses.count('passed')} of {len(statuses)} gates passed"
    return f' <span class="verdict badge {worst}">{kept}</span>'


def _gates(report: Report) -> list[str]:
    if not report.results:
        return []
    rows = [
        f'<tr><td><span class="badge {result.status}">{STATUS[result.status]}</span></td>'
        f'<td class="label">{_text(result.label)}</td><td><code>{_text(result.requirement)}</code></td>'
        f"<td>{_text(result.message)}</td></tr>"
        for result in report.results
    ]
    head = "<thead><tr><th>gate</th><th>model</th><th>requirement</th><th>found</th></tr></thead>"
    return ["<h2>Gates</h2>", f'<div class="scroll"><table>{head}<tbody>', *rows, "</tbody></table></div>"]


def _figures(pictures: Sequence[Picture]) -> list[str]:
    parts = []
    for picture in pictures:
        said = [f"<p>{_text(picture.said)}</p>"] if picture.said else []
        caption = f'<figcaption><p class="quiet">{_text(picture.caption)}</p></figcaption>'
        parts += [f"<h2>{_text(picture.title)}</h2>", *said, f"<figure>{picture.svg}{caption}</figure>"]
    return parts


def _numbers(report: Report) -> list[str]:
    """The table, turned round when there are few models: a line per metric then reads best."""
    shown = columns(report)
    if len(report.rows) > 5:
        head = "".join(f"<th{_number(c.is_number)}>{_text(c.heading)}</th>" for c in shown)
        body = [
            f"<tr{_row_class(row)}>"
            + "".join(f"<td{_number(c.is_number)}>{_text(c.cells[i]) or '–'}</td>" for c in shown)
            + "</tr>"
            for i, row in enumerate(report.rows)
        ]
    else:
        head = "".join(f"<th{_number(i > 0)}>{_text(text)}</th>" for i, text in enumerate(["", *shown[0].cells]))
        body = [
            f"<tr><th><code>{_text(c.heading)}</code></th>"
            + "".join(f'<td class="number">{_text(cell) or "–"}</td>' for cell in c.cells)
            + "</tr>"
            for c in shown[1:]
        ]
    table = f'<div class="scroll"><table class="numbers"><thead><tr>{head}</tr></thead><tbody>'
    return ["<h2>Numbers</h2>", table, *body, "</tbody></table></div>"]


def _notes(report: Report, pictures: Sequence[Picture]) -> list[str]:
    """Without what is said beside a picture."""
    shown = {picture.said for picture in pictures}
    told = {training_note(row) for row in report.rows}
    told |= {spoken_note(row) for row in report.rows if sentence(spoken_text(row)) in shown}
    notes = [note for note in report.notes if note not in told]
    return ["<h2>Notes</h2>", "<ul>", *(f"<li>{_text(note)}</li>" for note in notes), "</ul>"] if notes else []


def _row_class(row: Row) -> str:
    return ' class="baseline-row"' if row.is_baseline else ""


def _number(is_number: bool) -> str:
    return ' class="number"' if is_number else ""


def _text(text: object) -> str:
    return escape(printable(text))
