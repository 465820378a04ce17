"""Make docs/benchmarks.md of docs/benchmarks/*.json and benchmarks.md.in, and of nothing else.

python -m benchmarks.page              writes it (from tools/)
python -m benchmarks.page --check      says whether it is up to date (exit 1 if not)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from experiments.results import ROOT

from benchmarks import encoder, evaluation, packing, processes
from benchmarks.records import NAMES, Record, conditions, read_records

PAGE, TEMPLATE = ROOT / "docs" / "benchmarks.md", Path(__file__).with_name("benchmarks.md.in")
SECTIONS: dict[str, Callable[[Record], str]] = {
    "encoder": encoder.section,
    "eval": evaluation.section,
    "decoding": evaluation.decoding,
    "c_export": evaluation.c_export,
    "packing": packing.section,
    "sizes": packing.sizes,
    "big_model": processes.big_model,
    "startup": processes.startup,
}


def render(records: Mapping[str, Record]) -> str:
    """The page; what was not measured says so."""
    parts = {}
    for name in NAMES:
        if name in records:
            parts[name] = f"{SECTIONS[name](records[name])}\n\n{conditions(records[name])}"
        else:
            parts[name] = f"Not measured yet: `bash tools/bench.sh {name}`."
    return TEMPLATE.read_text(encoding="utf-8").format(**parts)


def main(arguments: list[str]) -> int:
    """Write the page, or compare it with what is there."""
    text = render(read_records())
    if arguments == ["--check"]:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
