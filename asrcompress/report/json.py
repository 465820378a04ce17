"""The report as one JSON object: all rows with every metric and comparison, and the gates. Lays nothing out."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from asrcompress.report.rows import Report, Row
from asrcompress.sidecar import SCHEMA_VERSION


def render(report: Report) -> str:
    """JSON text with a final newline; null = not measured, and `passed` is null when nothing was required."""
    record = {
        "schema_version": SCHEMA_VERSION,
        "kind": "report",
        "passed": report.passed,
        "rows": [_row(row) for row in report.rows],
        "requirements": [dataclasses.asdict(result) | {"passed": result.passed} for result in report.results],
        "notes": list(report.notes),
    }
    return json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _row(row: Row) -> dict[str, Any]:
    measured = row.measured
    evaluation = measured.evaluation.record if measured.evaluation else {}
    return {
        "label": row.label,
        "file": measured.file,
        "sha256": measured.sha256,
        "is_baseline": row.is_baseline,
        "sidecars": [str(sidecar.path) for sidecar in measured.sidecars],
        "compression": measured.compression or None,
        "training": next((s.record["training"] for s in measured.sidecars if s.record.get("training")), None),
        "values": dict.fromkeys(sorted(measured.unmeasured)) | row.values,
        "intervals": evaluation.get("intervals") or {},
        "paired": evaluation.get("paired"),
        "data": evaluation.get("data"),
    }
