"""What docs/sidecar.schema.json takes and refuses, by sidecars that were written once."""

from __future__ import annotations

import json

import pytest

from asrcompress.sidecar import KINDS, read
from tests.fixtures.sidecars import ALL, load


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_examples_are_valid_by_schema_and_readable(path, validator):
    validator.validate(json.loads(path.read_text()))
    assert read(path).path == path


def test_every_kind_has_an_example():
    assert {json.loads(path.read_text())["kind"] for path in ALL} == set(KINDS)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("surprise",), 1),
        (("model", "surprise"), 1),
        (("model", "sha256"), "abc"),
        (("model", "file"), "/home/someone/x.pt"),
        (("metrics", "wer"), "0.03"),
        (("metrics", "Wer%"), 0.03),
        (("environment", "host"), "laptop"),
        (("intervals", "wer", "low"), None),
        (("layers",), []),  # belongs to analyze
        (("kind",), "report"),
        (("schema_version",), 2),
        (("created_at",), "yesterday"),
    ],
)
def test_schema_refuses(where, value, evaluation, validator):
    target = evaluation
    for key in where[:-1]:
        target = target[key]
    target[where[-1]] = value
    assert not validator.is_valid(evaluation)


@pytest.mark.parametrize(
    "key", ["data", "normalizer", "decoding", "intervals", "paired", "model", "metrics", "environment", "tool"]
)
def test_schema_wants_every_part_of_an_evaluation(key, evaluation, validator):
    del evaluation[key]
    assert not validator.is_valid(evaluation)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("surprise",), 1),
        (("data", "num_calibration"), None),
        (("options", "patterns"), ["2/4"]),
        (("units",), []),
        (("units", 0, "target"), "bias"),
        (("units", 0, "options", 0, "option"), "8"),
        (("units", 0, "options", 0, "cost"), "0.1"),
        (("units", 0, "options", 0, "size_bytes"), 1.5),
        (("units", 0, "options", 0, "wer_change"), 0.1),  # and au_fa_fr_change: a model has one of them
        (("groups", "layer"), []),
        (("groups", "kind", 0, "num_units"), 0),
        (("groups", "kind", 0, "options", 0, "cost"), 0.1),
        (("correlation", 0, "spearman"), 1.2),
        (("correlation", 0, "proxy"), "hessian"),
        (("metrics",), {}),
        (("ledger",), {}),
    ],
)
def test_schema_refuses_of_a_sensitivity_table(where, value, validator):
    record = load("crnn_happy.pt.sensitivity.json")
    validator.validate(record)
    target = record
    for key in where[:-1]:
        target = target[key]
    target[where[-1]] = value
    assert not validator.is_valid(record)


@pytest.mark.parametrize("key", ["data", "options", "units", "groups", "correlation", "advice", "warnings"])
def test_schema_wants_every_part_of_a_sensitivity_table(key, validator):
    record = load("crnn_happy.pt.sensitivity.json")
    del record[key]
    assert not validator.is_valid(record)


@pytest.mark.parametrize(
    ("key", "value", "fits"),
    [
        ("num_bits", None, True), ("granularity", None, True), ("bits", [2, 8], True), ("level", "partial", True),
        ("packed_params_share", 1.2, False), ("bits", ["8"], False), ("level", "complete", False),
    ],
)  # fmt: skip
def test_schema_of_compression(key, value, fits, evaluation, validator):
    evaluation["model"]["compression"][key] = value
    assert validator.is_valid(evaluation) is fits
