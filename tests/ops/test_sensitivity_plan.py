"""From a table to a plan: what options cost, what is in reach, and what is written of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.ops.candidates import find_candidates
from asrcompress.ops.load import describe, open_source
from asrcompress.ops.plan import Infeasible, Plan, UnitChoices
from asrcompress.ops.plan_file import TOLERANCE, read_plan, write_plan
from asrcompress.ops.probe import Measurement, Probe
from asrcompress.ops.probe_data import read_probe_data
from asrcompress.ops.quantize import Calibrate, quantize
from asrcompress.ops.recipe import QuantizeConfig
from asrcompress.ops.sensitivity_config import SensitivityConfig
from asrcompress.ops.sensitivity_plan import (
    Planned,
    Target,
    choices,
    divergence_of,
    file_sizes,
    float_size_bytes,
    make_plan,
    plan_facts,
    read_option,
    read_target,
    relative_change,
    require_reachable,
    write_down,
)
from asrcompress.ops.sensitivity_table import table_units
from asrcompress.ops.units import Option


def cell(option: str, size: int, **figures: float | None) -> dict:
    bits, _, pattern = option.removeprefix("int").partition("+")
    empty = {"loss_change": None, "kl": None, "cost": 0.0, "fisher": 0.0, "kl_proxy": 0.0}
    return empty | {"num_bits": int(bits), "pattern": pattern or None, "size_bytes": size} | figures


RECORD = {
    "options": {"kl_scale": 3.0},
    "units": [
        {"name": "w", "target": "weight", "options": [
            cell("int8", 80, cost=0.01, kl_proxy=0.02),
            cell("int2+1:4", 10, cost=-0.5, loss_change=-0.5, kl=0.1, kl_proxy=9.0),
        ]},
        {"name": "w:softmax", "target": "activations", "options": [cell("int8", 0, cost=5.0)]},
    ],
}  # fmt: skip


def test_an_option_costs_its_divergence_and_if_asked_its_loss_measured_before_estimated():
    (unit,) = choices(RECORD)
    assert unit.name == "w" and [each.option for each in unit.options] == [Option(8), Option(2, (1, 4))]
    assert [each.size_bytes for each in unit.options] == [80, 10]
    assert [each.cost for each in unit.options] == pytest.approx([0.02 * 3.0, 0.1])
    (unit,) = choices(RECORD, "loss")
    assert [each.cost for each in unit.options] == pytest.approx([0.01 + 0.02 * 3.0, 0.1])  # a fall counts for nothing
    assert divergence_of(cell("int4", 1, kl=0.0, kl_proxy=5.0), 2.0) == 0.0  # measured to be nothing
    assert read_option(cell("int3+2:4", 1)) == Option(3, (2, 4))


@pytest.mark.parametrize(
    ("ratio", "relative", "words"),
    [
        (0.0, None, "--target-size-ratio 0: use a fraction above 0, up to 1"),
        (1.01, None, "--target-size-ratio 1.01"),
        (-0.5, None, "--target-size-ratio -0.5"),
        (math.nan, None, "--target-size-ratio nan"),
        (None, -0.01, "--max-relative-wer -0.01"),
        (None, math.inf, "--max-relative-wer inf"),
        (None, math.nan, "--max-relative-wer nan"),
        (0.5, 0.1, "a plan has one target; leave one of them out"),
    ],
)
def test_a_target_makes_sense_and_is_alone(ratio: float | None, relative: float | None, words: str):
    with pytest.raises(AsrCompressError, match=words):
        read_target(ratio, relative)


def test_targets_that_make_sense():
    assert read_target(None, None) is None
    assert read_target(1.0, None) == Target(size_ratio=1.0)
    assert read_target(None, 0.0) == Target(max_relative=0.0)


def test_the_relative_change_is_to_the_float_models():
    baseline = Measurement(1.0, 0.0, 20, 100)
    assert relative_change(baseline, Measurement(1.0, 0.0, 25, 100)) == pytest.approx(0.25)
    assert relative_change(baseline, Measurement(1.0, 0.0, 20, 100)) == 0.0
    curve = Measurement(1.0, 0.0, au_fa_fr=0.01)
    assert relative_change(curve, Measurement(1.0, 0.0, au_fa_fr=0.005)) == pytest.approx(-0.5)
    perfect = Measurement(1.0, 0.0, 0, 100)
    assert relative_change(perfect, Measurement(1.0, 0.0, 0, 100)) == 0.0
    assert relative_change(perfect, Measurement(1.0, 0.0, 1, 100)) == math.inf
    with pytest.raises(ValueError, match="not decoded"):
        relative_change(baseline, Measurement(1.0, 0.0))


def test_a_perfect_float_model_has_no_relative_change_to_write_down(tiny_kws: Path):
    source = open_source(tiny_kws)
    planned = Planned(Plan({}, 90, 0.5), Measurement(1.5, 0.0, 3, 100), 100, [])
    facts = plan_facts(planned, source, Measurement(1.0, 0.0, 0, 100), "a" * 64)
    assert facts.predicted == {"cost": 0.5, "loss_change": 0.5}
    facts = plan_facts(planned, source, Measurement(1.0, 0.0, 2, 100), "a" * 64)
    assert facts.predicted["relative_wer"] == pytest.approx(0.5)
    assert (facts.size_bytes, facts.budget_bytes, facts.sensitivity_sha256) == (90, 100, "a" * 64)


def test_ratios_are_to_the_float_model_of_an_artifact_too(tiny_s2t: Path, tmp_path: Path):
    source = open_source(tiny_s2t)
    assert float_size_bytes(source) == describe(source, 0)["model_size_bytes"]
    for bits in (8, 2):
        quantize(tiny_s2t, tmp_path / f"{bits}.safetensors", QuantizeConfig(num_bits=bits))
    packed = [open_source(tmp_path / f"{bits}.safetensors") for bits in (8, 2)]
    # An artifact leaves out what is not computed with.
    assert [float_size_bytes(each) for each in packed] == pytest.approx([float_size_bytes(source)] * 2, rel=0.02)
    assert describe(packed[1], 0)["model_size_bytes"] < 0.5 * float_size_bytes(packed[1])


# ---------------------------------------------------------------- plans of a real model


@pytest.fixture(scope="module")
def given(samples_dir: Path):
    """(source, data, config, units, candidates, probe, choices) of the sample keyword model; costs follow from the bits."""
    source = open_source(samples_dir / "kws" / "crnn_computer.pt")
    data = read_probe_data(source, samples_dir / "kws" / "manifest.tsv", keyword="computer", split="dev")
    config = SensitivityConfig(bits=(8, 4, 2), patterns=("1:4",), activations=False, exclude=("conv.*",))
    units = table_units(source, data, config)
    candidates = find_candidates(source, data, config, lambda label: lambda done, total: None)
    sizes = file_sizes(source, data, config, candidates, units)
    offered = [
        {"name": unit.name, "target": "weight", "options": [
            cell(str(option), sizes.option(unit.name, option), kl_proxy=1.0 / option.num_bits + (0.5 if option.pattern else 0.0))
            for option in config.options() if unit.allows(option)
        ]} for unit in units
    ]  # fmt: skip
    probe = Probe(source, units, candidates, data)
    return source, data, config, units, sizes, probe, choices({"options": {"kl_scale": 1.0}, "units": offered})


@pytest.mark.parametrize("ratio", [0.1, 0.16, 1.0])
def test_a_plan_fits_its_budget_and_quantize_meets_its_size(given: tuple, ratio: float, tmp_path: Path):
    source, _, config, _, sizes, probe, offered = given
    told: list[tuple[int, int]] = []
    full = float_size_bytes(source)
    planned = make_plan(
        offered, sizes, probe, Target(size_ratio=ratio), full, lambda done, total: told.append((done, total))
    )
    assert planned.plan.size_bytes <= planned.budget_bytes == int(ratio * full)
    assert told[-1][0] == told[-1][1]
    changes = {name: option for name, option in planned.plan.choice.items() if option}
    assert planned.measured == probe.measure(changes, decode=True)
    facts = plan_facts(planned, source, probe.baseline, "b" * 64)
    write_plan(tmp_path / "p.toml", write_down(planned, config, facts, {}))
    plan = read_plan(tmp_path / "p.toml")
    assert plan.facts == facts and plan.options["exclude"] == ("conv.*",)
    result = quantize(
        source.path, tmp_path / "q.safetensors", QuantizeConfig(**plan.options), plan=plan,
        calibrate=Calibrate(Path(source.path).parent / "manifest.tsv", "dev"),
    )  # fmt: skip
    size = result.path.stat().st_size
    assert size <= planned.budget_bytes and abs(size - facts.size_bytes) <= TOLERANCE * facts.size_bytes
    packed = result.record["ledger"]["entries"]
    assert packed and not any(name["name"].startswith("conv.0.weight_packed") for name in packed)


def test_the_smallest_plan_within_a_limit_was_measured_to_be(given: tuple):
    source, _, _, _, sizes, probe, offered = given
    limit = 0.5
    told: list[tuple[int, int]] = []
    planned = make_plan(
        offered, sizes, probe, Target(max_relative=limit), float_size_bytes(source),
        lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert relative_change(probe.baseline, planned.measured) <= limit
    assert planned.plan.size_bytes <= planned.budget_bytes <= planned.plan.size_bytes * (1 + TOLERANCE)
    within = [plan.size_bytes for plan, found in planned.points if relative_change(probe.baseline, found) <= limit]
    assert planned.plan.size_bytes == min(within) < max(plan.size_bytes for plan, _ in planned.points)
    assert told[-1][0] == told[-1][1] and len({total for _, total in told}) == 1


def test_a_limit_that_no_plan_keeps_says_what_was_measured(given: tuple):
    source, _, _, _, sizes, probe, offered = given
    worst = [UnitChoices(unit.name, unit.options[-1:]) for unit in offered]
    with pytest.raises(
        AsrCompressError, match=r"AU FA-FR \+0 is out of reach: the best plan, of \d+ bytes, is measured"
    ):
        make_plan(worst, sizes, probe, Target(max_relative=0.0), float_size_bytes(source))


def test_where_the_float_model_makes_no_error_any_is_too_many(given: tuple):
    class Perfect:
        baseline = Measurement(0.1, 0.0, 0, 50)

        def measure(self, changes: dict, *, decode: bool) -> Measurement:
            return Measurement(0.2, 0.1, 1, 50)

    words = (
        r"relative change of WER, which is 0 in float on this data, \+0.02 is out of reach: .* measured at \+inf; add"
    )
    with pytest.raises(AsrCompressError, match=words):
        make_plan(given[6], given[4], Perfect(), Target(max_relative=0.02), 281_772)


def test_a_budget_out_of_reach_is_found_from_sizes_alone(given: tuple, monkeypatch: pytest.MonkeyPatch):
    source, _, config, units, sizes, _, _ = given
    bytes_of = {
        (unit.name, option): sizes.option(unit.name, option)
        for unit in units
        for option in config.options()
        if unit.allows(option)
    }
    smallest = sizes.total(
        {
            unit.name: min((key for key in bytes_of if key[0] == unit.name), key=bytes_of.__getitem__)[1]
            for unit in units
        }
    )
    full = float_size_bytes(source)
    require_reachable(units, bytes_of, sizes, Target(size_ratio=(smallest + 1) / full), full)
    require_reachable(units, bytes_of, sizes, Target(max_relative=0.0), full)
    with pytest.raises(
        Infeasible, match=f"below the smallest possible file, {smallest} bytes .ratio 0.*--bits 1"
    ) as caught:
        require_reachable(units, bytes_of, sizes, Target(size_ratio=(smallest - 20) / full), full)
    assert caught.value.smallest_bytes == smallest


def test_sizes_are_of_the_level_that_is_planned(given: tuple):
    source, data, config, units, sizes, probe, _ = given
    choice = {unit.name: Option(8) for unit in units}
    config = replace(config, level="integer-only", exclude=())
    candidates = find_candidates(source, data, config, lambda label: lambda done, total: None)
    static = file_sizes(source, data, config, candidates, units, lambda: probe)
    assert static.total(choice) > sizes.total(choice) + 200  # the grids' texts
