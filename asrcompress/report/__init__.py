"""Sidecars -> something to read: one file per format, and the table that finds them.

A format is a module with `render(report: Report) -> str`; adding one is a file and a line here. A sensitivity table is not
compared with models, so it has formats of its own. Nothing in this package imports torch, prints, or touches a file.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from asrcompress.errors import AsrCompressError

if TYPE_CHECKING:
    from asrcompress.report.rows import Report
    from asrcompress.report.sensitivity_rows import Sensitivity

FORMATS = {
    "table": "asrcompress.report.table",
    "markdown": "asrcompress.report.markdown",
    "json": "asrcompress.report.json",
    "csv": "asrcompress.report.csv",
    "html": "asrcompress.report.html",
    "junit": "asrcompress.report.junit",
    "history_csv": "asrcompress.report.training_csv",
}
# Of a sensitivity table: `render(found: Sensitivity, chosen: Mapping[str, str | None] | None) -> str`.
SENSITIVITY_FORMATS = {
    "table": "asrcompress.report.sensitivity_table",
    "markdown": "asrcompress.report.sensitivity_markdown",
    "json": "asrcompress.report.sensitivity_json",
    "csv": "asrcompress.report.sensitivity_csv",
    "html": "asrcompress.report.sensitivity_html",
    "svg": "asrcompress.report.heat_map",
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


def render_sensitivity(name: str, found: Sensitivity, chosen: Mapping[str, str | None] | None = None) -> str:
    """A sensitivity table as text in the format `name`.

    Args:
        name: of SENSITIVITY_FORMATS.
        found: what `sensitivity_rows.read_sensitivity` makes of a record.
        chosen: a plan's options by unit name (None: in float), for the formats that mark them.

    Raises:
        AsrCompressError: there is no such format, or `chosen` is of another table.
    """
    if name not in SENSITIVITY_FORMATS:
        raise AsrCompressError(
            f"format '{name}' is not one of a sensitivity table; use {', '.join(SENSITIVITY_FORMATS)}"
        )
    if chosen is not None:
        from asrcompress.report.sensitivity_rows import check_choice

        check_choice(found, chosen)
    text: str = importlib.import_module(SENSITIVITY_FORMATS[name]).render(found, chosen)
    return text
