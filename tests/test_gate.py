"""Requirements: the grammar, worked examples of every comparison, and what is never a pass."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.gate import Clause, evaluate, parse, size_note
from asrcompress.sidecar import MeasuredModel, Sidecar, merge, read

EXAMPLES = Path(__file__).parent / "examples"
FLOAT = ("checkpoint_best.pt.eval.json", "checkpoint_best.pt.analyze.json")
INT8 = ("checkpoint_best.int8.safetensors.eval.json", "checkpoint_best.int8.safetensors.analyze.json")
INT4 = ("checkpoint_best.int4.safetensors.eval.json",)


def models(*names: str) -> list[MeasuredModel]:
    return merge([read(EXAMPLES / name) for name in names])


def edited(name: str, changes: dict) -> list[MeasuredModel]:
    """An example with some fields changed: {"data.sha256": ...}."""
    record = copy.deepcopy(json.loads((EXAMPLES / name).read_text()))
    for path, value in changes.items():
        *folders, last = path.split(".")
        target = record
        for folder in folders:
            target = target[folder]
        target[last] = value
    return merge([Sidecar(Path("edited.json"), record)])


def gate(text: str, candidate=INT8, baseline=FLOAT):
    candidate = models(*candidate) if isinstance(candidate, tuple) else candidate
    baseline = models(*baseline) if isinstance(baseline, tuple) else baseline
    return evaluate(parse(text), candidate[0], baseline)


# ---------------------------------------------------------------- the grammar


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("wer<=0.05", [("", "wer", "<=", 0.05)]),
        (" delta.wer  <  -1e-3 ", [("delta", "wer", "<", -0.001)]),
        ("ratio.size_bytes==.25", [("ratio", "size_bytes", "==", 0.25)]),
        ("relative.wer<=0.01 or excess.wer<=0", [("relative", "wer", "<=", 0.01), ("excess", "wer", "<=", 0.0)]),
        ("num_scored>=300", [("", "num_scored", ">=", 300.0)]),
        ("au_fa_fr > 2.", [("", "au_fa_fr", ">", 2.0)]),
        ("floor<=1", [("", "floor", "<=", 1.0)]),  # an "or" inside a word
    ],
)
def test_grammar(text, clauses):
    assert [(c.prefix, c.name, c.op, c.limit) for c in parse(text).clauses] == clauses


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "wer<=0.05"),
        ("wer", "in quotes"),  # what a shell leaves of an unquoted wer<=0.05
        ("wer=0.05", "not a requirement"),
        ("wer<=27%", "fractions"),
        ("wer<=nan", "not a requirement"),
        ("wer<=inf", "not a requirement"),
        ("wer<=1e999", "finite"),
        ("WER<=0.05", "not a requirement"),
        ("0.05>=wer", "not a requirement"),
        ("change.wer<=0.05", "delta."),
        ("ratio.delta.wer<=0.05", "not a requirement"),
        ("wer<=0.05 or", "not a requirement"),
        ("or wer<=0.05", "not a requirement"),
        ("wer<=0.05 and cer<=0.02", "repeat --require"),
        ("wer<=0.05, cer<=0.02", "repeat --require"),
        ("wer<=0,05", "repeat --require"),
        ("wer<=1_000", "not a requirement"),
        ("wer<=0.05\nor x", "not a requirement"),
        ("wer<=\u0665", "not a requirement"),
    ],
)
def test_what_does_not_fit_the_grammar_is_refused(text, said):
    with pytest.raises(AsrCompressError, match=said):
        parse(text)


@given(st.text(max_size=30))
def test_any_text_is_a_requirement_or_a_one_line_error(text):
    try:
        assert parse(text).clauses
    except AsrCompressError as error:
        assert "\n" not in str(error)


@given(st.sampled_from(["<=", "<", ">=", ">", "=="]), st.floats())
def test_nan_never_passes(op, limit):
    assert not Clause("", "wer", op, limit).allows(math.nan)


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_operators_are_those_of_arithmetic(value, limit):
    passed = {op: Clause("", "x", op, limit).allows(value) for op in ("<=", "<", ">=", ">", "==")}
    assert passed["<="] == (passed["<"] or passed["=="])
    assert passed["<"] != passed[">="]
    assert passed[">"] != passed["<="]
    assert passed["=="] == (value == limit)


# ---------------------------------------------------------------- worked examples

# The int4 example has 58 errors in 1197 words, the float one 41, whose interval ends at 0.0452.
# Files: 1 571 840 bytes against 33 871 234, of which the model is 11 285 451.
WORKED = [
    ("wer", 58 / 1197),
    ("delta.wer", 17 / 1197),
    ("relative.wer", 17 / 41),
    ("ratio.wer", 58 / 41),
    ("excess.wer", 58 / 1197 - 0.0452),
    ("ratio.size_bytes", 1571840 / 33871234),
    ("ratio.model_size_bytes", 1571840 / 11285451),
    ("delta.size_bytes", 1571840 - 33871234),
    ("num_params", 2803456),
]


@pytest.mark.parametrize(("metric", "value"), WORKED)
def test_worked_examples(metric, value):
    step = abs(value) * 1e-9
    assert gate(f"{metric}<={value + step!r}", INT4).status == "passed"
    assert gate(f"{metric}>={value - step!r}", INT4).status == "passed"
    failed = gate(f"{metric}<={value - step!r}", INT4)
    assert failed.status == "failed"
    assert metric in failed.message
    assert failed.clauses[0].compared.value == pytest.approx(value, rel=1e-12)


def test_excess_is_zero_inside_and_below_the_interval():
    assert gate("excess.wer==0", INT8).passed
    assert gate("excess.wer==0", edited(INT8[0], {"metrics.wer": 0.0})).passed


def test_or_asks_for_one_clause():
    assert gate("wer<=0.001 or ratio.macs<=1").status == "passed"
    failed = gate("wer<=0.001 or cer<=0.001")
    assert failed.status == "failed"
    assert "wer is 0.03" in failed.message
    assert "cer is 0.01" in failed.message


def test_numbers_that_round_alike_are_told_apart():
    result = gate("wer<=0.0342522", edited(INT8[0], {"metrics.wer": 0.03425220001}))
    assert result.status == "failed"
    assert "0.03425220001" in result.message


# ---------------------------------------------------------------- what cannot be judged


@pytest.mark.parametrize(
    ("text", "candidate", "baseline", "said"),
    [
        ("werr<=1", INT8, FLOAT, "did you mean wer"),
        ("macs<=1e12", INT4, FLOAT, "not measured"),
        ("ratio.macs<=1", INT8, FLOAT[:1], "baseline checkpoint_best.pt: macs was not measured"),
        ("bops<=1", INT8, FLOAT, "measured are"),
        ("delta.wer<=1", INT8, (), "--baseline"),
        ("excess.cer<=1", INT8, FLOAT, "no confidence interval"),
        ("relative.num_empty_references<=1", INT8, FLOAT, "is 0"),
        ("ratio.num_empty_references<=1", INT8, FLOAT, "is 0"),
        ("wer<=1 or werr<=1", INT8, FLOAT, "did you mean wer"),  # a passing clause hides no misspelt one
        ("au_fa_fr<=1", INT8, FLOAT, "measured are"),
    ],
)
def test_not_measured_is_an_error_not_a_verdict(text, candidate, baseline, said):
    result = gate(text, candidate, baseline)
    assert result.status == "error"
    assert not result.passed
    assert said in result.message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.sha256": "0" * 64}, "the test data"),
        ({"normalizer.sha256": "0" * 64}, "the normaliser"),
        ({"normalizer": None}, "the normaliser"),
        ({"decoding.beam": 1}, "the decoding"),
        ({"metrics.num_scored": 293}, "scored utterances"),
    ],
)
@pytest.mark.parametrize("metric", ["delta.wer", "relative.cer", "excess.wer", "ratio.substitutions"])
def test_runs_under_other_conditions_are_not_compared(changes, said, metric):
    result = gate(f"{metric}<=1e9", edited(INT8[0], changes))
    assert result.status == "error"
    assert "not comparable" in result.message
    assert said in result.message
    assert gate("wer<=1", edited(INT8[0], changes)).passed  # its own value stands
    assert gate("ratio.size_bytes<=1", edited(INT8[0], changes)).passed  # a file is as large whatever it hears


@pytest.mark.parametrize("changes", [{"input.duration_s": 5.0}, {"macs_convention": "thop"}])
def test_macs_for_another_input_or_convention_are_not_compared(changes):
    result = gate("ratio.macs<=1", edited(INT8[1], changes))
    assert result.status == "error"
    assert "not comparable" in result.message


def test_speed_is_compared_on_one_kind_of_machine_only():
    assert gate("ratio.real_time_factor<=10").passed
    assert gate("ratio.real_time_factor<=10", edited(INT8[0], {"environment.device": "cuda"})).status == "error"


def test_area_under_the_curve_does_not_depend_on_the_threshold_but_rates_do():
    other = edited("crnn_happy.int8.safetensors.eval.json", {"decoding.threshold": 0.9})
    baseline = ("crnn_happy.pt.eval.json",)
    assert gate("relative.au_fa_fr<=0.05", other, baseline).passed
    assert gate("delta.false_accept_rate<=1", other, baseline).status == "error"


def test_a_baseline_with_two_test_sets_is_matched_by_the_data():
    name = FLOAT[0]
    dev = {"data.sha256": "0" * 64, "data.file": "dev.tsv", "metrics.wer": 0.9}
    both = [*edited(name, dev), *models(name)]
    assert gate("delta.wer==0", INT8, both).passed
    again = [*models(name), *edited(name, {"metrics.wer": 0.9})]
    assert "different values" in gate("delta.wer==0", INT8, again).message


def test_optimizer_bytes_in_the_baseline_are_pointed_out():
    note = size_note([parse("ratio.size_bytes<=0.3")], models(*FLOAT))
    assert "22,570,902" in note
    assert "ratio.model_size_bytes" in note
    assert size_note([parse("ratio.model_size_bytes<=0.3")], models(*FLOAT)) is None
    assert size_note([parse("ratio.size_bytes<=0.3")], models("crnn_happy.pt.eval.json")) is None
