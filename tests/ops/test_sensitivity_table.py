"""Which rows a table has, that every cell is estimated, and what is measured."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.ops.candidates import find_candidates
from asrcompress.ops.gradients import Effect
from asrcompress.ops.load import Source, build_model, open_source
from asrcompress.ops.probe_data import ProbeData, read_probe_data
from asrcompress.ops.sensitivity_config import SensitivityConfig
from asrcompress.ops.sensitivity_table import cell_key, choose_trials, estimate, find_units, table_units
from asrcompress.ops.units import Option, Unit, weight_units

Given = tuple[Source, ProbeData]


@pytest.fixture(scope="module")
def kws(samples_dir: Path) -> Given:
    source = open_source(samples_dir / "kws" / "crnn_computer.pt")
    return source, read_probe_data(
        source, samples_dir / "kws" / "manifest.tsv", keyword="computer", split="dev", limit=12
    )


@pytest.fixture(scope="module")
def s2t(tiny_s2t: Path, tiny_speech: Path) -> Given:
    source = open_source(tiny_s2t)
    return source, read_probe_data(source, tiny_speech)


def estimated(given: Given, **options: object):
    config = SensitivityConfig(**options)
    units = table_units(*given, config)
    candidates = find_candidates(*given, config, lambda label: lambda done, total: None)
    return units, estimate(*given, units, candidates, config), config


# ---------------------------------------------------------------- rows


def test_rows_are_weights_then_activations_of_every_module_that_normalises_or_attends(s2t: Given):
    units = find_units(*s2t, activations=True)
    model = build_model(s2t[0]).module
    weights = weight_units(model)
    assert units[: len(weights)] == weights
    others = units[len(weights) :]
    norms = {name for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    attentions = {
        name for name, module in model.named_modules() if name.endswith("_attn") and hasattr(module, "q_proj")
    }
    expected = {f"{name}:layer norm" for name in norms}
    expected |= {f"{name}:{kind}" for name in attentions for kind in ("softmax", "attention products")}
    assert norms and attentions and {unit.name for unit in others} == expected
    assert len({unit.name for unit in units}) == len(units)


def test_what_is_excluded_or_has_no_option_is_no_row(s2t: Given):
    names = {unit.name for unit in find_units(*s2t, activations=False)}
    left = {unit.name for unit in table_units(*s2t, SensitivityConfig(activations=False, exclude=("decoder.*",)))}
    assert left == {name for name in names if not name.startswith("decoder.")} < names
    assert {unit.target for unit in table_units(*s2t, SensitivityConfig(bits=(1,)))} == {"weight"}
    assert {unit.target for unit in table_units(*s2t, SensitivityConfig(bits=(2, 1)))} == {"weight", "activations"}
    with pytest.raises(AsrCompressError, match="--exclude 'nothing' fits no weight"):
        table_units(*s2t, SensitivityConfig(exclude=("nothing",)))
    with pytest.raises(AsrCompressError, match="no weight is left"):
        table_units(*s2t, SensitivityConfig(exclude=("*",)))


def test_what_is_packed_whole_is_excluded_whole(kws: Given):
    with pytest.raises(
        AsrCompressError, match="gru: a GRU is packed whole or not at all, and weight_hh_l0 is left out"
    ):
        table_units(*kws, SensitivityConfig(exclude=("gru.weight_hh*",)))
    units, effects, _ = estimated(kws, bits=(8,), patterns=(), exclude=("gru.*", "conv.*"))
    everything, whole, _ = estimated(kws, bits=(8,), patterns=())
    assert {unit.name for unit in everything} - {unit.name for unit in units} >= {"gru.weight_hh_l0", "conv.0.weight"}
    assert len(effects) == len(units)
    for cell, effect in effects.items():
        assert (effect.loss, effect.kl) == pytest.approx((whole[cell].loss, whole[cell].kl), rel=1e-3, abs=1e-9), cell


# ---------------------------------------------------------------- estimates


@pytest.mark.parametrize("fixture", ["kws", "s2t"])
def test_every_cell_that_is_allowed_is_estimated_and_no_other(fixture: str, request: pytest.FixtureRequest):
    units, effects, config = estimated(request.getfixturevalue(fixture), bits=(8, 2, 1), patterns=("1:4",))
    assert set(effects) == {(u.name, option) for u in units for option in config.options() if u.allows(option)}
    assert {option.num_bits for _, option in effects} == {8, 2, 1}
    assert all(effect.kl >= 0 for effect in effects.values())


def test_few_utterances_have_a_curvature(s2t: Given):
    """Five utterances would all be in one batch, whose gradients have no spread."""
    units, effects, _ = estimated(s2t, bits=(2,), patterns=())
    reached = [effects[unit.name, Option(2)].kl for unit in units if unit.target == "weight" and "ctc" not in unit.name]
    assert min(reached) > 0
    assert len(set(reached)) == len(reached)


@pytest.mark.parametrize(
    ("fixture", "stages"),
    [
        ("kws", ["gradients", "inputs of weights", "codes of weights"]),
        ("s2t", ["gradients of weights", "inputs of weights", "codes of weights", "gradients of activations"]),
    ],
)
def test_stages_are_named_in_order_and_end(fixture: str, stages: list[str], request: pytest.FixtureRequest):
    given = request.getfixturevalue(fixture)
    seen: list[tuple[str, int, int]] = []

    def stage(label: str):
        return lambda done, total: seen.append((label, done, total))

    config = SensitivityConfig(bits=(8,), patterns=())
    estimate(*given, table_units(*given, config), find_candidates(*given, config, stage), config, stage)
    assert list(dict.fromkeys(label for label, _, _ in seen)) == stages
    for label in stages:
        calls = [(done, total) for name, done, total in seen if name == label]
        assert calls == sorted(calls), label
        assert calls[-1][0] == calls[-1][1] and len({total for _, total in calls}) == 1, label


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_without_a_finite_loss_is_an_error(kws: Given, value: float):
    source, data = kws
    tensors = source.tensors | {"classifier.bias": torch.full_like(source.tensors["classifier.bias"], value)}
    with pytest.raises(
        AsrCompressError, match="crnn_computer.pt: gives a loss of (nan|inf) on manifest.tsv; the check"
    ):
        estimated((replace(source, tensors=tensors), data), activations=False)


def test_an_estimate_that_is_no_number_is_an_error(kws: Given, monkeypatch: pytest.MonkeyPatch):
    class Found:
        def effects(self, name: str, changes: torch.Tensor) -> list[Effect]:
            return [Effect(float("inf") if name == "classifier.weight" else 0.0, 0.0)] * len(changes)

    monkeypatch.setattr("asrcompress.ops.sensitivity_table.keyword_gradients", lambda *a, **k: Found())
    with pytest.raises(AsrCompressError, match="classifier.weight: what int8 does to it is beyond all numbers"):
        estimated(kws, bits=(8,), patterns=(), activations=False)


# ---------------------------------------------------------------- trials


def made_up() -> tuple[list[Unit], dict]:
    """Ten weights in three blocks and four activations; what each costs rises with its number."""
    units = [
        Unit(f"w{i}", "attention" if i % 2 else "GRU", f"block{i % 3}", "weight", (2, 6 if i == 9 else 8))
        for i in range(10)
    ]
    units += [Unit(f"a{i}", "softmax", f"block{i % 3}", "activations", (), (f"a{i}:softmax",)) for i in range(4)]
    config = SensitivityConfig(bits=(8, 2), patterns=("1:4",))
    effects = {
        (unit.name, option): Effect(-99.0 * index, 10.0 * index / option.num_bits)
        for index, unit in enumerate(units)
        for option in config.options()
        if unit.allows(option)
    }
    return units, effects


def test_the_units_that_seem_to_matter_most_are_measured_whole_weights_and_activations_apart():
    units, effects = made_up()
    config = SensitivityConfig(bits=(8, 2), patterns=("1:4",), top=2, sample=0)
    trials = choose_trials(units, effects, config)
    single = {trial.key for trial in trials if trial.key.startswith("unit ")}
    assert single == {cell_key(name, option) for name, option in effects if name in ("w8", "w9", "a2", "a3")}
    assert "unit w9 int2" in single and "unit w9 int2+1:4" not in single  # six inputs are no groups of four
    for trial in trials:
        if trial.key.startswith("unit "):
            ((name, option),) = trial.changes.items()
            assert trial.key == cell_key(name, option) and trial.decode


def test_the_sample_is_of_other_cells_drawn_by_its_seed():
    units, effects = made_up()

    def singles(**options: int) -> set[str]:
        config = SensitivityConfig(bits=(8, 2), patterns=("1:4",), **options)
        return {trial.key for trial in choose_trials(units, effects, config) if trial.key.startswith("unit ")}

    top = singles(top=2, sample=0)
    assert len(singles(top=2, sample=7)) == len(top) + 7 and singles(top=2, sample=7) > top
    assert singles(top=2, sample=7) == singles(top=2, sample=7, seed=0) != singles(top=2, sample=7, seed=1)
    assert singles(top=0, sample=10**6) == singles(top=10**6, sample=0)
    assert len(singles(top=0, sample=10**6)) == len(effects)
    assert singles(top=0, sample=0) == set()


def test_every_kind_is_measured_at_once_and_every_block_of_weights():
    units, effects = made_up()
    config = SensitivityConfig(bits=(8, 2), patterns=("1:4",), top=1, sample=1)
    trials = choose_trials(units, effects, config)
    assert max(Counter(trial.key for trial in trials).values()) == 1
    groups = {trial.key: trial for trial in trials if not trial.key.startswith("unit ")}
    kinds, blocks = ("attention", "GRU", "softmax"), ("block0", "block1", "block2")
    expected = {f"kind {name} int{bits}" for name in kinds for bits in (8, 2)}
    assert set(groups) == expected | {f"block {name} int{bits}" for name in blocks for bits in (8, 2)}
    for by, names in (("kind", kinds), ("block", blocks)):
        for name in names:
            trial = groups[f"{by} {name} int2"]
            members = [u.name for u in units if getattr(u, by) == name and (by == "kind" or u.target == "weight")]
            assert trial.changes == dict.fromkeys(members, Option(2))
            assert trial.decode == (by == "kind")
