"""Rows, columns, labels and notes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from asrcompress import report as formats
from asrcompress.errors import AsrCompressError
from asrcompress.gate import parse
from asrcompress.report.rows import build_report, columns, number_text, printable
from asrcompress.sidecar import Sidecar

FLOAT, INT8 = "checkpoint_best.pt.eval.json", "checkpoint_best.int8.safetensors.eval.json"


def test_the_baseline_comes_first_and_is_not_gated(digits):
    assert [row.is_baseline for row in digits.rows] == [True, False, False]
    assert len(digits.results) == 6
    assert {result.label for result in digits.results} == {row.label for row in digits.rows[1:]}
    statuses = [result.status for result in digits.results]
    assert statuses == ["passed", "failed", "error", "passed", "passed", "passed"]
    assert digits.passed is False


def test_nothing_required_is_neither_passed_nor_failed(keywords):
    assert keywords.passed is None


def test_a_baseline_sidecar_among_the_arguments_joins_the_baseline(example):
    report = build_report([example("checkpoint_best.pt.analyze.json"), example(INT8)], [example(FLOAT)])
    assert [row.is_baseline for row in report.rows] == [True, False]
    assert report.rows[0].values["macs"] == 574193664


def test_gating_the_baseline_itself_is_an_error(example):
    with pytest.raises(AsrCompressError, match="the baseline itself"):
        build_report([example(FLOAT)], [example(FLOAT)], [parse("wer<=1")])


def test_two_models_are_no_baseline(example):
    with pytest.raises(AsrCompressError, match="different models"):
        build_report([example(INT8)], [example(FLOAT), example("crnn_happy.pt.eval.json")])


def test_values_are_the_comparisons_of_the_grammar(digits):
    int4, int8 = digits.rows[1].values, digits.rows[2].values
    assert int8["ratio.model_size_bytes"] == 2921344 / 11285451
    assert int8["ratio.macs"] == 1
    assert int8["delta.wer"] == 0
    assert int4["relative.wer"] == pytest.approx(17 / 41)
    assert "ratio.macs" not in int4  # not measured is not shown as anything


def test_columns_have_something_in_them(keywords):
    shown = columns(keywords)
    assert all(any(column.cells) for column in shown)
    headings = [column.heading for column in shown]
    assert "wer" not in headings
    assert "au_fa_fr" in headings
    assert "au_fa_fr 0.95 interval" in headings


def test_model_size_is_a_column_only_where_it_differs(example):
    alone = build_report([example(INT8)])
    assert "model_size_bytes" not in [column.heading for column in columns(alone)]


def test_labels_are_unique(named, example):
    report = named("m.safetensors", "m.safetensors", "n.safetensors")
    labels = [row.label for row in report.rows]
    assert len(set(labels)) == 3
    assert labels[2] == "n.safetensors"


def test_two_test_sets_of_one_model_are_labelled_by_the_set(example):
    first = example(INT8)
    record = copy.deepcopy(first.record)
    record["data"] |= {"file": "dev.tsv", "sha256": "0" * 64}
    record["metrics"]["num_scored"] = 293
    report = build_report([first, Sidecar(Path("dev.json"), record)], [example(FLOAT)])
    assert [row.label for row in report.rows[1:]] == [
        "checkpoint_best.int8.safetensors (test.tsv)",
        "checkpoint_best.int8.safetensors (dev.tsv)",
    ]
    assert "delta.wer" in report.rows[1].values
    assert "delta.wer" not in report.rows[2].values
    notes = "\n".join(report.notes)
    assert "not comparable" in notes
    assert "293 of 300 utterances were scored" in notes


def test_numbers_keep_their_units_and_signs():
    assert number_text("size_bytes", 11285451) == "11,285,451"
    assert number_text("wer", 41 / 1197) == "0.03425"
    assert number_text("delta.wer", 0.0142) == "+0.01420"
    assert number_text("au_fa_fr", 1.37e-4) == "0.000137"
    assert number_text("ratio.size_bytes", 0.27) == "0.2700"


def test_control_characters_do_not_reach_a_reader():
    assert printable("a\x1b[31mb\x00\n\u202ec") == "a\ufffd[31mb\ufffd\ufffd\ufffdc"
    assert printable("été 音") == "été 音"


def test_every_format_renders_and_an_unknown_one_is_named(digits):
    for name in formats.FORMATS:
        assert formats.render(name, digits).endswith("\n")
    with pytest.raises(AsrCompressError, match="table, markdown"):
        formats.render("pdf", digits)


def compressed(example, **changes: object) -> Sidecar:
    record = copy.deepcopy(example(INT8).record)
    record["model"]["compression"] |= changes
    return Sidecar(Path("x.eval.json"), record)


def test_bits_that_differ_and_the_share_that_is_packed_are_shown(example):
    mixed = compressed(example, num_bits=None, bits=[4, 8], level="partial", packed_params_share=0.41376)
    report = build_report([mixed], [example(FLOAT)])
    cells = {column.heading: column.cells for column in columns(report)}
    assert cells["bits"] == ("", "4+8")
    assert cells["level"] == ("", "partial")
    assert cells["packed_params_share"] == ("", "0.4138")
    for name in ("table", "markdown", "html"):
        assert "4+8" in formats.render(name, report) and "0.4138" in formats.render(name, report)
    line = formats.render("csv", report).splitlines()[-1]
    assert ",4+8," in line and ",0.41376," in line


def test_a_sidecar_without_the_newer_fields_is_shown(example):
    older = example(INT8)
    record = copy.deepcopy(older.record)
    for key in ("bits", "packed_params_share"):
        del record["model"]["compression"][key]
    cells = {column.heading: column.cells for column in columns(build_report([Sidecar(older.path, record)]))}
    assert cells["bits"] == ("8",) and "packed_params_share" not in cells


def test_keyword_models_have_the_columns_of_the_course():
    from tests.fixtures.keyword_records import keyword_sidecars

    sidecars = keyword_sidecars()
    shown = {c.heading: c.cells for c in columns(build_report(sidecars[2:], sidecars[:2]))}
    at = shown["model"].index("C2H12.safetensors")
    # 3 133 parameters and 23 569 bytes, as the course report prints them: 0.011951446533203125 and 0.022477149963378906
    assert shown["MiB as float32"][at] == "0.0119514"
    assert shown["MiB of the file"][at] == "0.0224771"
    assert shown["times smaller"][at] == f"{287669 / 23569:.6g}"
    assert shown["times fewer MACs"][at] == "12.6738"  # the report's 12.674, MACs counted as it did
    assert shown["times smaller"][0] == ""  # of the baseline itself
    assert float(shown["ratio.au_fa_fr"][at]) == pytest.approx(1.77 / 1.37, abs=1e-4)


def test_transcribers_have_no_columns_of_keyword_models(digits):
    assert not {"MiB of the file", "times smaller"} & {column.heading for column in columns(digits)}
