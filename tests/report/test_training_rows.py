"""What a report says of a fine-tuning, and what it refuses to believe."""

from __future__ import annotations

import copy
import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.report import render
from asrcompress.report.rows import build_report, columns
from asrcompress.report.training_rows import describe, read_training
from asrcompress.sidecar import Sidecar
from tests.fixtures.sidecars import load
from tests.fixtures.training_records import LINES, training, tuned, tuned_record

TAIL = "; trained on 7,994 utterances of train.tsv, judged on 200 utterances of words.tsv (val); the file gives "


def said(block: dict) -> str:
    found = read_training({"training": block}, "x.json")
    assert found is not None
    return describe(found)


def test_the_sample_is_a_sidecar(validator):
    validator.validate(tuned_record())


def test_the_sentence_says_from_where_to_where_after_how_many_updates_on_what():
    assert said(training()) == f"from wer 6.35 % one-shot to 3.98 % after 470 updates of 600{TAIL}the same"
    assert said(training(LINES[:3])) == f"from wer 6.35 % one-shot to 3.98 % after 470 updates{TAIL}the same"
    keywords = training(((0, 0.018536, 0.6, None, None), (1, 0.00845, 0.5, 0.4, None)), metric="au_fa_fr")
    assert said(keywords) == f"from au_fa_fr 0.0185 one-shot to 0.00845 after 1 update{TAIL}the same"


def test_a_training_that_made_nothing_better_says_so():
    assert said(training(LINES[:2])) == f"from wer 6.35 % one-shot to no better after 235 updates{TAIL}the same"


def test_a_file_that_gives_something_else_is_not_said_to_give_the_same():
    assert said(training(written={"metric": 0.0401, "loss": 0.4})).endswith("the file gives 4.01 %")
    nearly = said(training(written={"metric": 0.03980001, "loss": 0.4}))
    assert nearly.endswith("the file gives wer 0.03980001 where training gave 0.0398")


def test_what_was_not_trained_has_nothing_to_say():
    assert read_training(load("checkpoint_best.int8.safetensors.json"), "x.json") is None


@pytest.mark.parametrize("name", ["metric", "before", "best", "history", "num_updates", "written", "train", "dev"])
@pytest.mark.parametrize("value", [None, [], {}, "<b>", True, -1, [{"update": 0}]])
def test_a_block_that_is_not_one_is_an_error_of_one_line(name, value):
    with pytest.raises(AsrCompressError, match=r"^x\.json: training .*; write the sidecar again$") as error:
        read_training({"training": training(**{name: value})}, "x.json")
    assert "\n" not in str(error.value)


def test_history_runs_forwards_and_holds_the_best():
    block = training()
    with pytest.raises(AsrCompressError, match="one after the other"):
        read_training({"training": block | {"history": block["history"][::-1]}}, "x.json")
    with pytest.raises(AsrCompressError, match="best is not in history"):
        read_training({"training": block | {"best": block["best"] | {"metric": 0.01}}}, "x.json")
    with pytest.raises(AsrCompressError, match="lacks 'written'"):
        read_training({"training": {k: v for k, v in block.items() if k != "written"}}, "x.json")


def test_every_format_marks_the_fine_tuned_model_and_no_other(example):
    report = build_report([tuned(), example("crnn_happy.pt.eval.json")])
    cells = {column.heading: column.cells for column in columns(report)}
    assert cells["finetune_updates"] == ("470", "")
    for name in ("table", "markdown"):
        text = render(name, report).replace("\\", "")
        assert "finetune_updates" in text
        assert "fine-tuned, from wer 6.35 % one-shot to 3.98 % after 470 updates of 600" in text
    rows = list(csv.DictReader(io.StringIO(render("csv", report))))
    assert [row["finetune_updates"] for row in rows] == ["470", ""]
    record = json.loads(render("json", report))
    assert record["rows"][0]["training"] == training()
    assert record["rows"][1]["training"] is None


def test_a_report_without_fine_tuning_has_no_column_for_it(digits):
    assert "finetune_updates" not in {column.heading for column in columns(digits)}
    assert "fine-tun" not in render("table", digits)


def test_a_fine_tuned_baseline_is_marked_too(example):
    report = build_report([example("crnn_happy.pt.eval.json")], [tuned()])
    assert [bool(row.training) for row in report.rows] == [True, False]


# ---------------------------------------------------------------- sparse and coded files


def sparse_sidecar(patterns: list[str], **honesty: list[dict]) -> Sidecar:
    record = copy.deepcopy(load("checkpoint_best.int8.safetensors.json"))
    record["model"]["compression"] |= {"patterns": patterns, "bits": [], "num_bits": None, "level": "float"}
    record["honesty"] = {**(record.get("honesty") or {}), "codes": [], "sparse": [], **honesty}
    return Sidecar(Path("sparse.json"), record)


def patterns_cell(sidecar: Sidecar) -> str:
    return next(c.cells[0] for c in columns(build_report([sidecar])) if c.heading == "patterns")


def test_unstructured_says_how_much_is_dropped_as_counted():
    floats = [{"num_kept": 30, "num_params": 100, "pattern": "unstructured"}, {"num_kept": 50, "num_params": 100, "pattern": "2:4"}]  # fmt: skip
    codes = [{"num_kept": 70, "histogram": [50, 230, 20], "pattern": "unstructured"}, {"num_kept": 9, "histogram": [9]}]
    assert patterns_cell(sparse_sidecar(["unstructured"], sparse=floats[:1])) == "unstructured 70 %"
    assert patterns_cell(sparse_sidecar(["2:4", "unstructured"], sparse=floats, codes=codes)) == "2:4+unstructured 75 %"
    assert patterns_cell(sparse_sidecar(["2:4"], sparse=floats[1:])) == "2:4"
    assert patterns_cell(sparse_sidecar(["unstructured"])) == "unstructured"  # nobody counted


NO_NUMBER = {"pattern": "unstructured", "num_kept": "a", "num_params": 2}


@pytest.mark.parametrize("sparse", [5, [5], [{"pattern": "unstructured"}], [NO_NUMBER]])
def test_counts_that_are_none_are_an_error(sparse):
    with pytest.raises(AsrCompressError, match=r"^sparse\.json: honesty"):
        patterns_cell(sparse_sidecar(["unstructured"], sparse=sparse))


def test_an_entropy_coded_file_has_its_size_before_beside_it(example):
    record = copy.deepcopy(load("checkpoint_best.int8.safetensors.json"))
    record["metrics"]["size_bytes_without_entropy_coding"] = 3_333_333
    shown = {c.heading: c.cells for c in columns(build_report([Sidecar(Path("z.json"), record)]))}
    assert shown["size_bytes_without_entropy_coding"] == ("3,333,333",)


# ---------------------------------------------------------------- as a shell sees it


def test_report_needs_no_torch_and_a_broken_block_ends_it_with_2(tmp_path):
    lines = ["import sys", *(f"sys.modules['{name}'] = None" for name in ("torch", "numpy", "scipy", "safetensors"))]
    program = "\n".join([*lines, "from asrcompress.cli.main import main", "main()"])
    good, bad, page = tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "r.html"
    good.write_text(json.dumps(tuned_record()))
    bad.write_text(json.dumps(tuned_record(training(history=5))))

    def run(*paths: Path) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", program, "report", *map(str, paths), "--html", str(page), "--force"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert run(bad).returncode == 2
    assert not page.exists()
    done = run(good)
    assert done.returncode == 0, done.stderr
    assert "fine-tuned, from wer 6.35 % one-shot" in done.stdout
    assert "Fine-tuning: small.safetensors" in page.read_text()
