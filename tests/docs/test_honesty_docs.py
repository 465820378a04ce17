"""docs/honesty.md quotes lines that the tests of the audit assert, and commands that run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "honesty.md").read_text(encoding="utf-8")
TESTS = [
    *Path(ROOT / "tests" / "metrics").glob("test_honesty*.py"),
    *(ROOT / "tests" / "ops" / name for name in ("test_audit.py", "test_audit_sparse.py")),
]
TABLE = PAGE.split("## What it prints", 1)[1].split("\n## ", 1)[0]
QUOTED = [
    line for row in TABLE.splitlines() if row.startswith("|") for line in re.findall(r"`([^`]+)`", row.split("|")[2])
]


@pytest.mark.parametrize("line", QUOTED)
def test_every_quoted_line_is_asserted_by_a_test(line: str) -> None:
    assert any(line in re.sub(r'"\s+f?"', "", path.read_text(encoding="utf-8")) for path in TESTS), line


def test_the_table_has_a_line_for_every_dishonesty() -> None:
    rows = [row for row in TABLE.splitlines() if row.startswith("|")][2:]
    assert len(rows) >= 15 and all("`" in row.split("|")[2] for row in rows)
