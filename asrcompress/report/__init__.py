"""Sidecars -> something to read: one file per format, and the table that finds them.

A format is a module with `render(report: Report) -> str`; adding one is a file and a line here. Nothing in
this package imports torch, prints, or touches a file.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from asrcompress.errors import AsrCompressError

if TYPE_CHECKING:
    from asrcompress.report.rows import Report

FORMATS = {
    "table": "asrcompress.report.table",
    "markdown": "asrcompress.report.markdown",
    "json": "asrcompress.report.json",
    "csv": "asrcompress.report.csv",
    "html": "asrcompress.report.html",
    "junit": "asrcompress.report.junit",
}


def render(name: str, report: Report) -> str:
    """The report as text in the format `name`.

    Raises:
        AsrCompressError: there is no such format, or it has nothing to say about this report.
    """
    if name not in FORMATS:
        raise AsrCompressError(f"format '{name}' is unknown; use {', '.join(FORMATS)}")
    text: str = importlib.import_module(FORMATS[name]).render(report)
    return text
