"""A sensitivity table as JSON: the record as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping

from asrcompress.report.sensitivity_rows import Sensitivity


def render(found: Sensitivity, chosen: Mapping[str, str | None] | None = None) -> str:
    """JSON text with a final newline; a plan stands in a file of its own and is not repeated."""
    return json.dumps(found.record, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
