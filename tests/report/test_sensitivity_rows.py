"""Reading a sensitivity record: order, groups, what is exact, and what is refused."""

from __future__ import annotations

import copy
import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.report.figures import nats, percent, plain, quality_text, short_names, thousandths
from asrcompress.report.sensitivity_rows import (
    by_sensitivity,
    check_choice,
    hurts_from,
    ranking_option,
    read_sensitivity,
)
from tests.fixtures.sensitivity_records import example, keyword_record, transformer_record


@pytest.fixture(scope="module")
def record() -> dict:
    return transformer_record(2)


def test_options_come_dense_first_and_with_falling_bits_whatever_order_the_record_has(record):
    shuffled = copy.deepcopy(record)
    for unit in shuffled["units"]:
        random.Random(unit["name"]).shuffle(unit["options"])
    names = [option.name for option in read_sensitivity(record).options]
    assert names == [f"int{b}{p}" for p in ("", "+2:4", "+1:4") for b in (8, 4, 3, 2)]
    found = [option.name for option in read_sensitivity(shuffled).options]
    assert set(found) == set(names)
    assert found[:4] == names[:4]
    for start in (4, 8):
        assert [name[:4] for name in found[start : start + 4]] == ["int8", "int4", "int3", "int2"]


def test_units_of_a_block_stand_together_in_the_order_of_the_record(record):
    found = read_sensitivity(record)
    blocks = [unit.block for unit in found.units]
    assert [block for i, block in enumerate(blocks) if block not in blocks[:i]] == [row.name for row in found.blocks]
    assert sum(a != b for a, b in itertools.pairwise(blocks)) == len(found.blocks) - 1
    own = {unit["name"]: number for number, unit in enumerate(record["units"])}
    for block in found.blocks:
        numbers = [own[unit.name] for unit in found.units if unit.block == block.name]
        assert numbers == sorted(numbers)


def test_measured_and_estimated_cells_are_told_apart(record):
    found = read_sensitivity(record)
    cells = {(u["name"], o["option"]): o for u in record["units"] for o in u["options"]}
    seen = 0
    for unit in found.units:
        for name, cell in unit.cells.items():
            said = cells[unit.name, name]
            assert cell.is_exact == (said["loss_change"] is not None)
            assert cell.cost == (said["cost"] if said["loss_change"] is None else said["loss_change"])
            assert cell.quality == said["wer_change"]
            seen += 1
    assert seen == len(cells)


def test_a_group_that_was_not_measured_is_the_sum_of_its_units(record):
    unmeasured = copy.deepcopy(record)
    for group in unmeasured["groups"]["kind"]:
        for option in group["options"]:
            option["loss_change"] = option["kl"] = option["wer_change"] = None
    measured, summed = read_sensitivity(record), read_sensitivity(unmeasured)
    for before, after in zip(measured.kinds, summed.kinds, strict=True):
        for name, cell in after.cells.items():
            parts = [unit.cells[name].cost for unit in summed.units if unit.kind == after.name and name in unit.cells]
            assert cell.cost == pytest.approx(math.fsum(parts)) and not cell.is_exact
            assert before.cells[name].is_exact
    assert {kind.num_units for kind in summed.kinds if kind.name == "embedding"} == {1}


def test_an_option_of_which_nothing_is_known_is_not_possible(record):
    changed = copy.deepcopy(record)
    option = changed["units"][0]["options"][0]
    option.update(loss_change=None, cost=None, fisher=None, kl_proxy=None)
    name = changed["units"][0]["name"]
    (unit,) = [unit for unit in read_sensitivity(changed).units if unit.name == name]
    assert option["option"] not in unit.cells
    option["fisher"] = 0.1  # possible, and no cost is known
    (unit,) = [unit for unit in read_sensitivity(changed).units if unit.name == name]
    assert unit.cells[option["option"]].cost is None


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("units",), {}, "units is not a list"),
        (("units",), [], "units is empty"),
        (("units",), [3], r"units\[0\] is not an object"),
        (("units", 0, "name"), None, r"units\[0\].name is not a string"),
        (("units", 0, "num_params"), -1, r"units\[0\].num_params"),
        (("units", 0, "options", 0, "option"), "int4+", r"units\[0\].options\[0\].option"),
        (("units", 0, "options", 0, "option"), "int4" * 100, r"options\[0\].option"),
        (("units", 0, "options", 0, "option"), "int4", "has int4 twice"),
        (("units", 0, "options", 0, "cost"), "1", r"options\[0\].cost is not a number"),
        (("units", 0, "options", 0, "cost"), math.nan, r"options\[0\].cost is not a number"),
        (("units", 0, "options", 0, "size_bytes"), 1.5, r"size_bytes is not a count"),
        (("units", 0, "name"), "encoder.subsample.conv_layers.1.weight", "twice"),
        (("groups",), None, "groups is not an object"),
        (("groups", "kind"), None, "groups.kind is not a list"),
        (("groups", "kind", 0, "name"), "poetry", "no unit is in 'poetry'"),
        (("correlation", 0, "confidence"), None, "confidence is not a number"),
        (("correlation", 0, "spearman"), "high", "spearman is not a number"),
        (("metrics", "loss"), True, "metrics.loss is not a number"),
        (("advice",), [1], "advice is not a list of strings"),
        (("warnings",), "none", "warnings is not a list of strings"),
        (("kind",), "eval", "is not a sensitivity table"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(record, place, value, said):
    changed = copy.deepcopy(record)
    target = changed
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    with pytest.raises(AsrCompressError, match=f"^x.json: .*{said}") as caught:
        read_sensitivity(changed, "x.json")
    assert "\n" not in str(caught.value)


def test_rows_are_ranked_where_at_most_half_of_the_units_hurt(record):
    found = read_sensitivity(record)
    option = ranking_option(found)
    hurt = {o.name: sum(u.cost(o) > hurts_from(found) for u in found.units) for o in found.dense}
    assert hurt[option.name] * 2 <= len(found.units)
    assert all(hurt[o.name] * 2 > len(found.units) for o in found.dense if o.num_bits < option.num_bits)
    costs = [row.cost(option) for row in by_sensitivity(found.units, option)]
    assert costs == sorted(costs, reverse=True)


def test_a_plan_of_another_table_is_refused():
    found = read_sensitivity(example())
    check_choice(found, {"conv.0.weight": "int4", "classifier.weight": None})
    with pytest.raises(AsrCompressError, match="'conv.9.weight'.*another model"):
        check_choice(found, {"conv.9.weight": "int4"})
    with pytest.raises(AsrCompressError, match="'conv.0.weight' int3"):
        check_choice(found, {"conv.0.weight": "int3"})


def test_a_keyword_model_loses_nats_per_clip():
    assert read_sensitivity(keyword_record()).unit_of_loss == "nats per clip"
    assert read_sensitivity(transformer_record(2)).unit_of_loss == "nats per token"


# ---------------------------------------------------------------- figures


@given(st.floats(-999, 999))
def test_figures_are_short_and_near(value):
    text = thousandths(value)
    assert len(text) <= 7
    assert float(text) == pytest.approx(value * 1000, rel=0.0051, abs=0.0051)
    for text in (plain(value), nats(value)):
        assert "e" not in text
        assert float(text) == pytest.approx(value, rel=0.0051, abs=6e-8)
    assert nats(value).startswith(("+", "-")) or nats(value) == "0"


def test_figures_by_example():
    assert [thousandths(v) for v in (0.0, 0.00001234, 0.01234, 0.1, 1.5, -0.0000001, 400)] == [
        "0.00", "0.01", "12.3", "100", "1500", "0.00", "400000",
    ]  # fmt: skip
    assert [percent(v) for v in (0.0001, 0.004, 0.05, 0.123, -2)] == ["0 %", "+0.4 %", "+5 %", "+12 %", "-200 %"]
    assert [nats(v) for v in (0.0153, 1.2e-6, -1.25, 1e-9)] == ["+0.0153", "+0.0000012", "-1.25", "0"]
    assert [quality_text("wer", v) for v in (0.0052, -0.00001, 1.05)] == ["+0.52", "+0.00", "+105.0"]
    assert [quality_text("au_fa_fr", v) for v in (0.000137, -0.002)] == ["+0.14", "-2.00"]


@given(st.lists(st.text("ab.", min_size=1, max_size=40), min_size=1, max_size=30), st.integers(8, 30))
def test_shortened_names_fit_and_stay_different(names, longest):
    short = short_names(names, longest)
    assert all(len(text) <= longest for text in short)
    assert len(set(short)) == len(set(names))
    for name, text in zip(names, short, strict=True):
        assert short[names.index(name)] == text  # the same name is shortened the same way


def test_a_name_loses_its_middle():
    names = [f"encoder.transformer_layers.{i}.self_attn.q_proj.weight" for i in range(12)]
    short = short_names(names, 40)
    assert all(text.startswith("encoder.") and text.endswith(".weight") and "…" in text for text in short)


def test_names_that_differ_where_they_are_cut_get_numbers():
    names = [f"{'a' * 20}.{i}.{'b' * 20}" for i in range(11)]
    short = short_names(names, 14)
    assert len(set(short)) == 11
    assert short[10].endswith("#11") and all(len(text) <= 14 for text in short)
    early = [f"encoder.{i}.{'b' * 40}" for i in range(3)]  # here keeping more of the beginning is enough
    assert short_names(early, 24)[2].startswith("encoder.2.")
