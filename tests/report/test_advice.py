"""What is said to leave alone follows from the figures, and a proxy that was checked badly is said to be so."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest

from asrcompress.report.advice import begins_to_hurt, give_advice, give_warnings
from asrcompress.report.sensitivity_rows import hurts_from, read_sensitivity
from tests.fixtures.sensitivity_records import example, keyword_record, transformer_record

EXAMPLE = Path(__file__).parents[1] / "examples" / "crnn_happy.pt.sensitivity.json"


def flat(record: dict, costs: dict[str, dict[str, float]], default: float = 0.0) -> dict:
    """The record with these measured costs by kind and option, of units and of groups, and `default` elsewhere."""
    changed = copy.deepcopy(record)
    quality = "wer_change" if "wer" in record["metrics"] else "au_fa_fr_change"
    for unit in changed["units"]:
        for option in unit["options"]:
            cost = costs.get(unit["kind"], {}).get(option["option"], default)
            option.update({"loss_change": cost, "cost": cost, "kl": None, quality: None})
    changed["groups"] = {"kind": [], "block": []}
    return changed


def test_the_example_holds_the_words_of_today():
    said = json.loads(EXAMPLE.read_text())
    assert said == example(), "run python -m tests.fixtures.sensitivity_records"


def test_a_unit_begins_to_hurt_at_the_most_bits_that_raise_the_loss_too_much():
    found = read_sensitivity(transformer_record(4))
    for row in found.rows:
        start = begins_to_hurt(found, row)
        for option in found.dense:
            hurts = row.cost(option) > hurts_from(found)
            if start is None or option.num_bits > start.num_bits:
                assert not hurts
            elif option == start:
                assert hurts


def test_what_hurts_is_named_with_its_figures_and_where_to_leave_it():
    record = flat(transformer_record(2), {"embedding": {"int4": 0.05, "int3": 0.2, "int2": 0.9}}, 0.0001)
    words = give_advice(read_sensitivity(record))
    assert words[0].endswith("more than 0.00655 nats per token, 5 % of the float model's 0.131.")
    (embedding,) = [line for line in words if line.startswith("decoder.embed_tokens.weight")]
    assert "hurts from int4 down (loss +0.0500 nats per token, +38 %, measured)" in embedding
    assert "leave at int8 (loss +0.000100 nats per token, +0.1 %, measured)" in embedding
    assert re.search(r"embedding, \d\.\d % of the weights", embedding)
    assert not any("fc1" in line for line in words)


def test_what_hurts_at_every_option_is_left_in_float():
    costs = {"convolution": dict.fromkeys(("int8", "int4", "int3", "int2"), 0.5)}
    words = give_advice(read_sensitivity(flat(transformer_record(2), costs)))
    (line,) = [line for line in words if line.startswith("encoder.subsample.conv_layers.0.weight")]
    assert line.endswith("; leave in float.")


def test_a_model_that_nothing_hurts_gets_that_said():
    words = give_advice(read_sensitivity(flat(transformer_record(2), {}, 0.00001)))
    assert "No single unit hurts even at int2." in words
    assert any(line.startswith("No kind of units hurts") for line in words)
    (safe,) = [line for line in words if line.startswith("At int2, ")]
    units = len(transformer_record(2)["units"])
    assert f"{units} of {units} units raise the loss by at most 0.00131 nats per token each (1 % of the loss)" in safe


@pytest.mark.parametrize(
    ("own", "others", "verdict"),
    [
        (0.006, 0.001, "is more sensitive than most here: at int3 the median of its 4 units costs 6 times"),
        (0.001, 0.006, "is less sensitive than most here: at int3 the median of its 4 units costs 0.17 times"),
        (0.001, 0.0015, "is about as sensitive as the rest here"),
        (-0.001, 0.0015, "is less sensitive than most here"),
        (0.001, -0.0015, "is more sensitive than most here"),
    ],
)
def test_embedding_and_softmax_are_compared_with_the_rest(own, others, verdict):
    costs = {"softmax": {"int3": own, "int2": 1.0}}
    record = flat(transformer_record(2), costs, others)
    for unit in record["units"]:
        for option in unit["options"]:
            if option["option"] == "int2":
                option["loss_change"] = option["cost"] = 1.0
    words = give_advice(read_sensitivity(record))
    (softmax,) = [line for line in words if line.startswith("Softmax is")]
    assert f"Softmax {verdict}" in softmax
    assert "all 4 at once" in softmax
    (embedding,) = [line for line in words if line.startswith("Embedding is")]
    assert "rank" in embedding


def test_a_model_without_an_embedding_gets_that_said():
    assert "Embedding: this table has no unit of that kind." in give_advice(read_sensitivity(keyword_record()))


@pytest.mark.parametrize(
    ("fisher", "kl", "proxy", "warned"),
    [
        ((0.9, 0.8), (0.7, 0.5), None, ""),  # the better one is taken where the record does not say
        ((0.79, 0.7), (0.7, 0.5), None, "rank correlation is below 0.8"),
        ((0.85, 0.59), (0.7, 0.5), None, "interval of its rank correlation begins below 0.6"),
        ((0.85, 0.6), (0.7, 0.5), None, ""),
        ((0.9, 0.8), (0.7, 0.5), "kl", "The kl proxy agrees too little"),
        ((0.9, 0.8), (0.7, 0.5), "fisher", ""),
        ((None, None), (None, None), None, "could not be checked against the measured loss"),
        ((0.9, None), (0.7, None), None, "not checked well enough"),
    ],
)
def test_a_low_rank_correlation_is_a_warning_with_a_way_out(fisher, kl, proxy, warned):
    record = keyword_record()
    for correlation in record["correlation"]:
        if correlation["against"] == "loss":
            spearman, low = fisher if correlation["proxy"] == "fisher" else kl
            correlation |= {"spearman": spearman, "low": low, "high": None if low is None else 0.99}
        else:
            correlation |= {"spearman": 0.1, "low": -0.2, "high": 0.3}  # of the quality: no ground for a warning
    if proxy:
        record["options"]["proxy"] = proxy
    warnings = give_warnings(read_sensitivity(record))
    if not warned:
        assert warnings == []
        return
    (warning,) = warnings
    assert warned in warning
    assert "--top" in warning and "--sample" in warning


def test_a_record_without_a_check_is_a_warning():
    (warning,) = give_warnings(read_sensitivity(keyword_record() | {"correlation": []}))
    assert warning.startswith("No proxy was checked")


def test_words_have_no_exponents_and_no_empty_brackets():
    for record in (keyword_record(), transformer_record(4), example()):
        for sentence in give_advice(read_sensitivity(record)):
            assert sentence.endswith(".")
            assert not re.search(r"\de-?\d|\(\)|  |nan|None", sentence), sentence
