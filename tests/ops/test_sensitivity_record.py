"""The record from a table and results that are made up: nothing that was not measured has a figure, and figures are recomputed here."""

from __future__ import annotations

import json
import math
import random
import statistics
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from scipy.stats import spearmanr

from asrcompress.ops.gradients import Effect
from asrcompress.ops.load import Source, open_source
from asrcompress.ops.probe import Measurement
from asrcompress.ops.probe_data import ProbeData, read_probe_data
from asrcompress.ops.sensitivity_config import SensitivityConfig
from asrcompress.ops.sensitivity_record import correlations, group_records, make_record, proxy_scale, unit_records
from asrcompress.ops.sensitivity_table import Table, cell_key, group_key
from asrcompress.ops.units import Option, Unit, group_units
from tests.conftest import ROOT

CONFIG = SensitivityConfig(bits=(8, 3, 2), patterns=("1:4",), top=2, sample=3)
BASELINE = Measurement(0.5, 0.0, 6, 100)


def made_up(baseline: Measurement = BASELINE) -> tuple[Table, dict[str, Measurement]]:
    """Eight weights and three activations; a third of the cells and some groups are measured."""
    rng = random.Random(4)
    units = [
        Unit(f"w{i}", ("GRU", "attention")[i % 2], f"b{i // 4}", "weight", (2, 6 if i == 7 else 8)) for i in range(8)
    ]
    units += [Unit(f"a{i}:softmax", "softmax", f"b{i}", "activations", (), (f"a{i}:s",)) for i in range(3)]
    effects, sizes, results = {}, {}, {}

    def measured(effect: Effect) -> Measurement:
        found = replace(baseline, loss=baseline.loss + effect.loss * rng.uniform(0.5, 2), kl=abs(effect.kl) * 1.5)
        if baseline.au_fa_fr is not None:
            return replace(found, au_fa_fr=baseline.au_fa_fr + rng.uniform(-0.001, 0.01))
        return replace(found, num_errors=baseline.num_errors + rng.randrange(-1, 9))

    for unit in units:
        for option in CONFIG.options():
            if unit.allows(option):
                effect = Effect(rng.uniform(-0.01, 0.2), rng.uniform(0, 0.1))
                effects[unit.name, option] = effect
                if unit.target == "weight":
                    sizes[unit.name, option] = 10 * option.num_bits + len(unit.name)
                if rng.random() < 0.35:
                    results[cell_key(unit.name, option)] = measured(effect)
    for name in ("GRU", "softmax"):
        results[group_key("kind", name, Option(2))] = measured(Effect(0.3, 0.2))
    block = replace(measured(Effect(0.3, 0.2)), num_errors=None, num_reference=None, au_fa_fr=None)
    results[group_key("block", "b1", Option(8))] = block
    return Table(tuple(units), effects, sizes), results


def cells(records: list[dict]) -> list[dict]:
    return [option for unit in records for option in unit["options"]]


def test_every_unit_and_option_is_there_once_and_has_figures_only_where_it_was_measured():
    table, results = made_up()
    records = unit_records(table, BASELINE, results, 2.0)
    assert [record["name"] for record in records] == [unit.name for unit in table.units]
    for unit, record in zip(table.units, records, strict=True):
        allowed = [option for option in CONFIG.options() if unit.allows(option)]
        assert [cell["option"] for cell in record["options"]] == [str(option) for option in allowed]
        assert record["size_bytes_float"] == (4 * unit.num_params if unit.target == "weight" else None)
        assert (record["kind"], record["block"], record["target"]) == (unit.kind, unit.block, unit.target)
        for option, cell in zip(allowed, record["options"], strict=True):
            effect, found = table.effects[unit.name, option], results.get(cell_key(unit.name, option))
            assert (cell["fisher"], cell["kl_proxy"]) == (effect.loss, effect.kl)
            assert cell["size_bytes"] == table.sizes.get((unit.name, option))
            assert (cell["num_bits"], cell["pattern"]) == (option.num_bits, "1:4" if option.pattern else None)
            if found is None:
                assert (cell["loss_change"], cell["kl"], cell["wer_change"]) == (None, None, None)
                assert cell["cost"] == 2.0 * effect.loss
            else:
                assert cell["cost"] == cell["loss_change"] == found.loss - 0.5
                assert cell["kl"] == found.kl
                assert cell["wer_change"] == pytest.approx((found.num_errors - 6) / 100)
            assert "au_fa_fr_change" not in cell


def test_a_group_is_the_sum_of_its_estimates_and_what_was_measured_at_once():
    table, results = made_up()
    groups = group_records(table, BASELINE, results, CONFIG.options())
    assert list(groups) == ["kind", "block"]
    for by, records in groups.items():
        members = group_units(table.units, by)
        assert [record["name"] for record in records] == list(members)
        for record in records:
            assert record["num_units"] == len(members[record["name"]])
            for cell in record["options"]:
                option = next(option for option in CONFIG.options() if str(option) == cell["option"])
                each = [table.effects.get((unit.name, option)) for unit in members[record["name"]]]
                assert cell["fisher"] == pytest.approx(sum(effect.loss for effect in each if effect))
                assert cell["kl_proxy"] == pytest.approx(sum(effect.kl for effect in each if effect))
                found = results.get(group_key(by, record["name"], option))
                assert cell["loss_change"] == (found and found.loss - 0.5)
                assert (cell["wer_change"] is None) == (found is None or by == "block")
    (softmax,) = [record for record in groups["kind"] if record["name"] == "softmax"]
    assert [cell["option"] for cell in softmax["options"]] == ["int8", "int3", "int2"]


def test_correlations_are_those_of_its_own_cells():
    table, results = made_up()
    records = unit_records(table, BASELINE, results, 1.0)
    found = correlations(records)
    assert [(each["proxy"], each["against"]) for each in found] == [
        ("fisher", "loss"), ("fisher", "wer"), ("kl", "loss"), ("kl", "wer"),
    ]  # fmt: skip
    measured = [cell for cell in cells(records) if cell["loss_change"] is not None]
    for each in found:
        proxy, against = {"fisher": "fisher", "kl": "kl_proxy"}[each["proxy"]], f"{each['against']}_change"
        expected = spearmanr([c[proxy] for c in measured], [c[against] for c in measured]).statistic
        assert each["spearman"] == pytest.approx(expected, abs=1e-12)
        assert each["low"] < each["spearman"] < each["high"]
        assert (each["num_pairs"], each["confidence"]) == (len(measured), 0.95)


def test_too_few_pairs_have_no_correlation():
    table, results = made_up()
    for few in ({}, dict(list(results.items())[:3])):
        for each in correlations(unit_records(table, BASELINE, few, 1.0)):
            assert (each["spearman"], each["low"], each["high"], each["num_pairs"]) == (None, None, None, len(few))


def test_estimates_are_scaled_by_the_median_ratio_of_what_was_measured():
    table, results = made_up()
    for quantity, of in (("loss", lambda m: m.loss - 0.5), ("kl", lambda m: m.kl)):
        ratios = []
        for (name, option), effect in table.effects.items():
            found = results.get(cell_key(name, option))
            if found and getattr(effect, quantity) > 0 and of(found) > 0:
                ratios.append(of(found) / getattr(effect, quantity))
        assert len(ratios) > 5
        assert proxy_scale(table, BASELINE, results, quantity) == pytest.approx(statistics.median(ratios))
        assert proxy_scale(table, BASELINE, {}, quantity) == 1.0


@pytest.fixture(scope="module")
def kws(samples_dir: Path) -> tuple[Source, ProbeData]:
    source = open_source(samples_dir / "kws" / "crnn_computer.pt")
    return source, read_probe_data(
        source, samples_dir / "kws" / "manifest.tsv", keyword="computer", split="dev", limit=9
    )


@pytest.mark.parametrize(
    "baseline", [Measurement(0.5, 0.0, 6, 100), Measurement(0.2, 0.0, au_fa_fr=0.01, num_left_out=2)]
)
def test_the_record_is_valid_and_says_what_it_is_of(kws: tuple, baseline: Measurement):
    source, data = kws
    table, results = made_up(baseline)
    record = make_record(source, data, CONFIG, table, baseline, results, batch_size=7)
    schema = json.loads((ROOT / "docs" / "sidecar.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(json.dumps(record, allow_nan=False)))
    quality = "wer" if baseline.num_errors else "au_fa_fr"
    metrics = record["metrics"]
    assert (metrics["loss"], metrics[quality], metrics["num_trials"]) == (
        baseline.loss,
        getattr(baseline, quality),
        len(results),
    )
    by_pair = {(each["proxy"], each["against"]): each["spearman"] for each in record["correlation"]}
    for proxy in ("fisher", "kl"):
        assert metrics[f"spearman_{proxy}"] == by_pair[proxy, "loss"]
        assert metrics[f"spearman_{proxy}_{quality}"] == by_pair[proxy, quality]
    assert record["data"] == {
        "file": "manifest.tsv", "sha256": data.sha256, "num_utterances": 9, "split": "val",
        "num_left_out": baseline.num_left_out, "num_calibration": 9,
    }  # fmt: skip
    options = record["options"]
    assert (options["bits"], options["patterns"], options["keyword"]) == ([8, 3, 2], ["1:4"], "computer")
    assert (options["batch_size"], options["proxy"]) == (7, "fisher")
    assert SensitivityConfig.from_json(json.loads(json.dumps(options))) == CONFIG
    assert all(math.isfinite(options[key]) for key in ("proxy_scale", "kl_scale"))
    said = [warning for warning in record["warnings"] if "have no part in the loss" in warning]
    assert len(said) == (1 if baseline.num_left_out else 0)
    assert all(warning.startswith("2 of 9 utterances") for warning in said)


def test_a_method_that_looks_at_no_input_has_no_calibration(kws: tuple):
    table, results = made_up()
    config = replace(CONFIG, method="rtn", sparsifier="magnitude")
    assert make_record(*kws, config, table, BASELINE, results, batch_size=1)["data"]["num_calibration"] == 0
    config = replace(CONFIG, calibration_limit=4)
    assert make_record(*kws, config, table, BASELINE, results, batch_size=1)["data"]["num_calibration"] == 4
