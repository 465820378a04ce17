"""The history of trainings as CSV, read back as a spreadsheet would."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from asrcompress.report.rows import build_report
from asrcompress.report.training_csv import history_csv, render
from asrcompress.sidecar import Sidecar
from tests.fixtures.sidecars import load
from tests.fixtures.training_records import LINES, training, tuned, tuned_record


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_line_per_evaluation_holds_what_was_measured():
    rows = read(history_csv(tuned_record()))
    assert [(int(r["update"]), float(r["metric"]), float(r["loss"])) for r in rows] == [line[:3] for line in LINES]
    assert [r["training_loss"] for r in rows] == ["", "0.9", "0.5", "0.3"]  # not measured is empty, not 0
    assert [r["is_best"] for r in rows] == ["false", "false", "true", "false"]
    assert {r["metric_name"] for r in rows} == {"wer"}
    assert {r["learning_rate"] for r in rows} == {"0.0001"}


def test_several_trainings_are_told_apart_by_file_and_those_without_are_left_out():
    records = [tuned_record(file="a.safetensors"), load("crnn_happy.pt.eval.json"), tuned_record(file="b.safetensors")]
    assert [r["model"] for r in read(history_csv(*records))] == ["a.safetensors"] * 4 + ["b.safetensors"] * 4
    assert history_csv(load("crnn_happy.pt.eval.json")).count("\n") == 1


def test_a_model_that_was_evaluated_twice_has_its_history_once():
    evaluations = []
    for number in (1, 2):
        record = load("checkpoint_best.int8.safetensors.eval.json")
        record["model"] = tuned_record()["model"]
        record["data"] = record["data"] | {"file": f"{number}.tsv", "sha256": f"{number}" * 64}
        evaluations.append(Sidecar(Path(f"{number}.json"), record))
    report = build_report([tuned(), *evaluations])
    assert len(report.rows) == 2
    assert len(read(render(report))) == len(LINES)


def test_the_parts_of_a_loss_have_columns_of_their_own():
    block = training()
    block["history"][0]["parts"] = None  # before the first update
    block["history"][1]["parts"] = {"attention": 0.25, "hidden": None}
    rows = read(history_csv(tuned_record(block)))
    assert [r["parts.attention"] for r in rows] == ["", "0.25", "", ""]
    assert rows[1]["parts.hidden"] == ""
    assert "parts" not in rows[0]


def test_names_with_commas_and_quotes_stay_one_field():
    name = 'a "b", c.safetensors'
    assert {r["model"] for r in read(history_csv(tuned_record(file=name)))} == {name}
