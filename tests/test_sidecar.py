"""The record beside a file: what is refused on reading, what is joined; what the schema says is in test_sidecar_schema.py."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.sidecar import (
    Sidecar,
    build,
    check,
    created_at,
    describe_environment,
    merge,
    read,
    sidecar_path,
)
from tests.fixtures.sidecars import EXAMPLES, load


def write(folder: Path, record: object, name: str = "x.eval.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(record))
    return path


# ---------------------------------------------------------------- writing


def test_build_gives_a_valid_record(evaluation, validator):
    parts = {
        key: evaluation[key]
        for key in ("data", "normalizer", "decoding", "intervals", "paired", "utterances_file", "curve")
    }
    environment = describe_environment(device="cpu", num_threads=1)
    record = build(
        "eval",
        model=evaluation["model"],
        metrics={**evaluation["metrics"], "wer": None},
        environment=environment,
        **parts,
    )
    validator.validate(record)
    assert record["metrics"]["wer"] is None


@pytest.mark.parametrize("value", [math.nan, math.inf, True, "0.1"])
def test_build_takes_no_number_that_was_not_measured(value, evaluation):
    with pytest.raises(ValueError, match="wer"):
        build("analyze", model=evaluation["model"], metrics={"wer": value}, environment={})


def test_source_date_epoch_is_the_time_of_every_record(evaluation, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert (
        build("analyze", model=evaluation["model"], metrics={}, environment={})["created_at"] == "2023-11-14T22:13:20Z"
    )
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "")
    assert abs(datetime.fromisoformat(created_at()) - datetime.now(UTC)) < timedelta(minutes=5)


@pytest.mark.parametrize("value", ["yesterday", "-1", "1.5", "1e9", " 5", "9" * 20, "9" * 5000, "\u0661"])
def test_a_wrong_source_date_epoch_is_one_line(value, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
    with pytest.raises(AsrCompressError, match="SOURCE_DATE_EPOCH=.*seconds since 1970") as caught:
        created_at()
    assert "\n" not in str(caught.value)


def test_environment_names_no_host_and_no_user():
    import getpass
    import socket

    text = json.dumps(describe_environment(device="cpu", num_threads=1))
    assert socket.gethostname() not in text
    assert f"/{getpass.getuser()}" not in text


def test_sidecars_lie_beside_the_model():
    assert sidecar_path("a/m.safetensors", "eval") == Path("a/m.safetensors.eval.json")
    assert sidecar_path("a/m.safetensors", "artifact") == Path("a/m.safetensors.json")
    assert sidecar_path("a/m.pt", "sensitivity") == Path("a/m.pt.sensitivity.json")


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["wer", "low", "duration_s"])
def test_numbers_that_json_does_not_have_are_refused(text, field, tmp_path, evaluation):
    lines = (EXAMPLES / "checkpoint_best.int8.safetensors.eval.json").read_text().splitlines()
    index = next(i for i, line in enumerate(lines) if f'"{field}":' in line and "{" not in line)
    comma = "," if lines[index].endswith(",") else ""
    lines[index] = f'"{field}": {text}{comma}'
    path = tmp_path / "x.eval.json"
    path.write_text("\n".join(lines))
    with pytest.raises(AsrCompressError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert field in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": 2}, "newer"),
        ({"schema_version": "1"}, "not a sidecar"),
        ({"schema_version": True}, "not a sidecar"),
        ({"kind": "sensible"}, "not a sidecar"),
        ({"kind": ["eval"]}, "not a sidecar"),
        ({"model": None}, "model is not an object"),
        ({"metrics": [1]}, "metrics is not an object"),
        ({"metrics": {"wer": True}}, "metrics.wer is not a number"),
        ({"metrics": {"wer": 10**400}}, "too large"),
        ({"metrics": {"we r": 1}}, "not a metric name"),
        ({"data": None}, "data is not an object"),
        ({"data": {"file": "t"}}, "data.sha256"),
        ({"intervals": {"wer": {"low": 0, "high": None, "confidence": 0.95}}}, "intervals.wer.high"),
        ({"intervals": {"wer": 3}}, "intervals.wer"),
        ({"curve": {"threshold": [0, 1], "false_accept_rate": [0], "false_reject_rate": [0, 1]}}, "curve"),
        ({"curve": {"threshold": 5}}, "curve"),
        ({"decoding": "beam"}, "decoding is not an object"),
        ({"tool": "\ud800"}, "half a character"),
    ],
)
def test_a_broken_field_is_named(change, said, tmp_path, evaluation):
    path = write(tmp_path, evaluation | change)
    with pytest.raises(AsrCompressError, match=said) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"sha256": "xyz"}, {"size_bytes": 0}, {"size_bytes": 1.5}, {"size_bytes": None}, {"num_params": "7"}]
)
def test_a_broken_model_block_is_named(change, tmp_path, evaluation):
    evaluation["model"] |= change
    with pytest.raises(AsrCompressError, match=f"model.{next(iter(change))}"):
        read(write(tmp_path, evaluation))


def test_a_model_given_for_its_sidecar_is_pointed_out(tmp_path):
    model = tmp_path / "m.safetensors"
    model.write_bytes(b"\0" * 9)
    with pytest.raises(AsrCompressError, match="asrcompress eval"):
        read(model)
    sidecar = tmp_path / "m.safetensors.eval.json"
    sidecar.write_text("{}")
    with pytest.raises(AsrCompressError, match=str(sidecar)):
        read(model)


def test_deep_nesting_is_refused(tmp_path, evaluation):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(evaluation)[:-1] + ', "deep": ' + "[" * 400 + "]" * 400 + "}")
    with pytest.raises(AsrCompressError, match=str(path)):
        read(path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
TOP_LEVEL = sorted(json.loads((EXAMPLES / "crnn_happy.pt.eval.json").read_text()))


@given(
    st.sampled_from(TOP_LEVEL),
    JSON_VALUES,
    st.sampled_from([None, "file", "sha256", "wer", "au_fa_fr", "threshold", "low"]),
)
def test_hostile_values_raise_no_other_error(key, value, inner):
    record = load("crnn_happy.pt.eval.json")
    if inner is not None and isinstance(record[key], dict):
        record[key][inner] = value
    else:
        record[key] = value
    try:
        check(record, "x.json")
    except AsrCompressError:
        return
    from asrcompress import report
    from asrcompress.report.rows import build_report

    built = build_report([Sidecar(Path("x.json"), record), read(EXAMPLES / "crnn_happy.int8.safetensors.eval.json")])
    for name in report.FORMATS:
        if name != "junit":
            report.render(name, built).encode()


# ---------------------------------------------------------------- joining


def test_a_sensitivity_table_is_not_joined_to_models():
    table, model = read(EXAMPLES / "crnn_happy.pt.sensitivity.json"), read(EXAMPLES / "crnn_happy.pt.eval.json")
    for sidecars in ([table], [model, table]):
        with pytest.raises(AsrCompressError, match=r"sensitivity.json: is a sensitivity table.*asrcompress report"):
            merge(sidecars)


def sidecars(*names: str) -> list[Sidecar]:
    return [read(EXAMPLES / name) for name in names]


INT8 = (
    "checkpoint_best.int8.safetensors.json",
    "checkpoint_best.int8.safetensors.analyze.json",
    "checkpoint_best.int8.safetensors.eval.json",
)


def test_sidecars_of_one_model_become_one_entry():
    models = merge(sidecars(*INT8, "crnn_happy.pt.eval.json"))
    assert [model.file for model in models] == ["checkpoint_best.int8.safetensors", "crnn_happy.pt"]
    joined = models[0]
    assert joined.metrics["wer"].source.kind == "eval"
    assert joined.metrics["macs"].source.kind == "analyze"  # null in the evaluation
    assert joined.metrics["size_ratio"].source.kind == "artifact"
    assert joined.unmeasured == {"thop_macs"}
    assert joined.compression["num_bits"] == 8


def test_the_order_of_arguments_changes_nothing_but_the_order_of_rows():
    one, other = merge(sidecars(*INT8)), merge(sidecars(*reversed(INT8)))
    assert {k: m.value for k, m in one[0].metrics.items()} == {k: m.value for k, m in other[0].metrics.items()}


def test_the_same_sidecar_twice_counts_once():
    assert len(merge(sidecars(INT8[2], INT8[2]))) == 1


def test_two_test_sets_are_two_entries(evaluation):
    other = copy.deepcopy(evaluation)
    other["data"] |= {"file": "dev.tsv", "sha256": "0" * 64}
    other["metrics"]["wer"] = 0.01
    models = merge([*sidecars(INT8[1], INT8[2]), Sidecar(Path("dev.json"), other)])
    assert [model.metrics["wer"].value for model in models] == [evaluation["metrics"]["wer"], 0.01]
    assert all(model.metrics["macs"].value == 574193664 for model in models)


def test_a_contradiction_about_one_file_is_an_error(evaluation):
    evaluation["model"]["size_bytes"] -= 1
    with pytest.raises(AsrCompressError, match=r"edited\.json: says size_bytes is"):
        merge([*sidecars(INT8[0]), Sidecar(Path("edited.json"), evaluation)])
    second = copy.deepcopy(load(INT8[1]))
    second["input"]["duration_s"], second["metrics"]["macs"] = 5.0, 1
    with pytest.raises(AsrCompressError, match="says macs is 1"):
        merge([*sidecars(INT8[1]), Sidecar(Path("short.json"), second)])


# ---------------------------------------------------------------- the model beside it


def beside(folder: Path, record: dict, data: bytes) -> Path:
    """A sidecar in `folder` and the model it describes, whose bytes are `data`."""
    record["model"] |= {"file": "m.pt", "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "m.pt").write_bytes(data)
    return write(folder, record, "m.pt.eval.json")


@pytest.mark.parametrize("now", [b"other", b"abcde" * 2, b""], ids=["same size", "longer", "empty"])
def test_a_model_replaced_since_is_not_what_the_sidecar_describes(evaluation, tmp_path, now):
    path = beside(tmp_path, evaluation, b"model")
    assert read(path).sha256 == hashlib.sha256(b"model").hexdigest()
    (tmp_path / "m.pt").write_bytes(now)
    with pytest.raises(AsrCompressError, match=rf"{path}: .*{tmp_path / 'm.pt'}"):
        read(path)


def test_a_sidecar_elsewhere_is_not_checked(evaluation, tmp_path):
    path = beside(tmp_path, evaluation, b"model")
    (tmp_path / "m.pt").write_bytes(b"other")
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / path.name)
    assert read(moved).kind == "eval"


@pytest.mark.parametrize("name", ["../m.pt", ".", "..", "", "a\0b", "x" * 5000])
def test_no_name_leads_out_of_the_folder(evaluation, tmp_path, name):
    (tmp_path / "m.pt").write_bytes(b"other")
    (tmp_path / "in").mkdir()
    evaluation["model"]["file"] = name
    assert read(write(tmp_path / "in", evaluation)).kind == "eval"
