"""What the benches of tests/bench left: docs/benchmarks/NAME.json, {"name", "environment", "rows"}."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.results import ROOT

FOLDER = ROOT / "docs" / "benchmarks"
NAMES = ("encoder", "eval", "decoding", "c_export", "packing", "sizes", "big_model", "startup")
Record = dict[str, Any]
Row = dict[str, Any]


def read_records(folder: Path = FOLDER) -> dict[str, Record]:
    """Every record that is there, by name. A bare list of rows, as of a bench that says nothing else, counts too."""
    records = {}
    for name in NAMES:
        path = folder / f"{name}.json"
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            records[name] = found if isinstance(found, dict) else {"name": name, "environment": {}, "rows": found}
    return records


def conditions(record: Record) -> str:
    """The machine and versions of a record, in one paragraph."""
    found = record["environment"]
    if not found:
        return "The machine was not recorded."
    facts = [
        f"{found['cpu']} ({', '.join(found['flags'])})" if found.get("flags") else str(found["cpu"]),
        f"{found['processors']} processors, {found['num_threads']} thread{'s' * (found['num_threads'] > 1)} used",
        f"load {found['load_average']:g} at the end",
        ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items()),
        f"Python {found['python']}",
    ]
    return f"{'; '.join(fact for fact in facts if fact)}. Measured {found['date']}."
