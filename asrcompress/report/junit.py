"""The gates as JUnit XML: a test suite per model, a test case per requirement.

A requirement that is not kept is a <failure>; one that could not be measured or compared is an <error>.
"""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from asrcompress.errors import AsrCompressError
from asrcompress.gate import Result
from asrcompress.report.rows import COLUMNS, Report, Row, printable

ELEMENTS = {"failed": ("failure", "GateFailed"), "error": ("error", "NotMeasured")}


def render(report: Report) -> str:
    """XML text.

    Raises:
        AsrCompressError: nothing was required: a suite without a test would look like a pass.
    """
    if not report.results:
        raise AsrCompressError("--junit: nothing was required, so there is no test to write; add --require 'wer<=0.05'")
    suites = [line for row in report.rows if not row.is_baseline for line in _suite(row, report)]
    counts = _counts(report.results)
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', f'<testsuites name="asrcompress" {counts}>', *suites,
                      "</testsuites>", ""])  # fmt: skip


def _suite(row: Row, report: Report) -> list[str]:
    results = [result for result in report.results if result.label == row.label]
    lines = [f" <testsuite name={_quoted(row.label)} {_counts(results)}>", "  <properties>"]
    lines.append(f'   <property name="sha256" value={_quoted(row.measured.sha256)}/>')
    lines += [f'   <property name="{n}" value={_quoted(row.values[n])}/>' for n in COLUMNS if n in row.values]
    lines.append("  </properties>")
    for result in results:
        case = f"  <testcase classname={_quoted(row.label)} name={_quoted(result.requirement)}"
        if result.passed:
            lines.append(f"{case}><system-out>{_text(result.message)}</system-out></testcase>")
        else:
            element, kind = ELEMENTS[result.status]
            inner = (
                f"<{element} type={_quoted(kind)} message={_quoted(result.message)}>{_text(result.message)}</{element}>"
            )
            lines.append(f"{case}>{inner}</testcase>")
    return [*lines, " </testsuite>"]


def _counts(results: list[Result] | tuple[Result, ...]) -> str:
    statuses = [result.status for result in results]
    return (
        f'tests="{len(statuses)}" failures="{statuses.count("failed")}" errors="{statuses.count("error")}" skipped="0"'
    )


def _quoted(text: object) -> str:
    return quoteattr(printable(text))


def _text(text: str) -> str:
    return printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
