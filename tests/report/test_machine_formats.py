"""CSV, JSON and JUnit XML, read back by the standard library's own readers."""

from __future__ import annotations

import csv
import io
import json
from xml.etree import ElementTree

import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.gate import parse
from asrcompress.report import render

HOSTILE = 'a,"b"\n<c>&]]>\x00=1|`*_\u202e.safetensors'


def test_csv_keeps_every_digit_and_leaves_the_unmeasured_empty(digits):
    rows = list(csv.DictReader(io.StringIO(render("csv", digits))))
    assert [row["model"] for row in rows] == [row.label for row in digits.rows]
    for row, source in zip(rows, digits.rows, strict=True):
        assert row["sha256"] == source.measured.sha256
        for name, value in source.values.items():
            assert float(row[name]) == value
    assert rows[1]["macs"] == ""
    assert rows[0]["wer_interval_high"] == "0.0452"
    assert [row["is_baseline"] for row in rows] == ["true", "false", "false"]
    assert rows[2]["num_bits"] == "8"


def test_csv_survives_any_file_name(named):
    rows = list(csv.reader(io.StringIO(render("csv", named(HOSTILE, "b")))))
    assert len({len(row) for row in rows}) == 1
    assert len(rows) == 3


def test_json_says_null_for_what_was_not_measured(digits):
    record = json.loads(render("json", digits), parse_constant=lambda name: pytest.fail(name))
    assert record["passed"] is False
    assert record["rows"][1]["values"]["macs"] is None
    assert record["rows"][2]["values"]["delta.wer"] == 0
    assert [r["status"] for r in record["requirements"]].count("error") == 1
    first = record["requirements"][0]
    assert first["passed"] is True
    assert first["clauses"][0]["compared"] == {"value": 1571840 / 11285451, "candidate": 1571840, "baseline": 11285451}


def test_json_without_requirements_claims_no_pass(keywords):
    assert json.loads(render("json", keywords))["passed"] is None


def test_junit_has_a_case_per_requirement_and_tells_failures_from_errors(digits):
    root = ElementTree.fromstring(render("junit", digits))
    assert root.attrib == {"name": "asrcompress", "tests": "6", "failures": "1", "errors": "1", "skipped": "0"}
    suites = root.findall("testsuite")
    assert [suite.get("name") for suite in suites] == [row.label for row in digits.rows[1:]]
    assert [[suite.get(k) for k in ("tests", "failures", "errors")] for suite in suites] == [
        ["3", "1", "1"],
        ["3", "0", "0"],
    ]
    cases = root.findall(".//testcase")
    assert len(cases) == 6
    failed = [case for case in cases if case.find("failure") is not None]
    errors = [case for case in cases if case.find("error") is not None]
    assert [case.get("name") for case in failed] == ["relative.wer<=0.01 or excess.wer<=0"]
    assert [case.get("name") for case in errors] == ["ratio.macs<=1"]
    assert "0.414634" in failed[0].find("failure").get("message")
    assert "not measured" in errors[0].find("error").get("message")


def test_junit_survives_any_file_name(named):
    root = ElementTree.fromstring(render("junit", named(HOSTILE, requirements=[parse("wer<=0.05")])))
    assert root.find("testsuite").get("name").startswith('a,"b"\ufffd<c>&]]>\ufffd=1')


def test_junit_without_a_test_would_look_like_a_pass(keywords):
    with pytest.raises(AsrCompressError, match="--require"):
        render("junit", keywords)
