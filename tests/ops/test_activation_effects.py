"""Slopes at the sites of activations against what the loss does when a little of the change is put in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.integers.sites import Sites
from asrcompress.models.criterion import negative_log_likelihood
from asrcompress.ops.activation_effects import Slopes, activation_effects
from asrcompress.ops.load import Source, open_source
from asrcompress.ops.observe import Alteration, Ranges, build_observed
from asrcompress.ops.probe_data import ProbeData, read_probe_data
from asrcompress.ops.sensitivity_table import find_units
from asrcompress.ops.units import Unit

STEP = 0.02  # of the change
Given = tuple[Source, ProbeData, list[Unit]]


@pytest.fixture(scope="module", params=["asr", "kws"])
def given(request: pytest.FixtureRequest, samples_dir: Path) -> Given:
    if request.param == "asr":
        source = open_source(samples_dir / "asr" / "checkpoint_best.pt")
        data = read_probe_data(source, samples_dir / "asr" / "dev.tsv", limit=6)
    else:
        source = open_source(samples_dir / "kws" / "crnn_computer.pt")
        data = read_probe_data(source, samples_dir / "kws" / "manifest.tsv", keyword="computer", split="dev", limit=12)
    return source, data, [unit for unit in find_units(source, data, activations=True) if unit.target == "activations"]


def losses(source: Source, data: ProbeData, sites: Sites) -> torch.Tensor:
    """(utterances,) float64: the loss of each, alone."""
    model = build_observed(source, sites)
    found = []
    with torch.no_grad():
        for features, target in zip(data.features, data.targets, strict=True):
            log_probs = source.family.log_probs(source.spec, model, [features], [target])
            found.append(negative_log_likelihood(source.family, source.spec, log_probs, [target])[0][0].double())
    return torch.stack(found)


def test_the_slope_is_what_a_little_of_the_change_does(given: Given):
    """Not the whole: to first order the estimate is exact, and what is left is the curvature's."""
    source, data, units = given
    chosen = units[:: max(1, len(units) // 6)]
    ranges = Ranges()
    losses(source, data, Sites(alter=ranges))
    effects = activation_effects(source, data, chosen, [3], batch_size=1)
    tokens = sum(len(target) for target in data.targets)
    for unit in chosen:
        change = Alteration(dict.fromkeys(unit.sites, 3), ranges)

        def a_little(site: str, values: torch.Tensor, *, share: float, change: Alteration = change) -> torch.Tensor:
            return values + share * (change(site, values) - values) if values.is_floating_point() else values

        after, before = (
            losses(source, data, Sites(alter=lambda site, values, share=share: a_little(site, values, share=share)))
            for share in (STEP, -STEP)
        )
        slopes = (after - before) / (2 * STEP)
        effect = effects[unit.name, 3]
        first = float(slopes.sum()) / tokens
        scale = float(slopes.abs().sum()) / tokens
        assert effect.loss - effect.kl == pytest.approx(first, abs=0.05 * scale + 1e-6), unit.name
        lengths = torch.tensor([len(target) for target in data.targets]).double()
        spread = slopes - slopes.sum() / tokens * lengths
        half = float(spread.square().sum() / tokens * len(slopes) / (len(slopes) - 1)) / 2
        assert effect.kl == pytest.approx(half, rel=0.15, abs=1e-9), unit.name


def test_the_change_is_the_grids_and_listening_changes_nothing(given: Given):
    source, data, units = given
    ranges = Ranges()
    plain = losses(source, data, Sites(alter=ranges))
    slopes = Slopes(units, [2], ranges, 1)
    torch.testing.assert_close(losses(source, data, Sites(alter=slopes)), plain, rtol=0, atol=0)
    site = units[0].sites[0]
    values = torch.linspace(-1, 1, 7, requires_grad=True)
    weights = torch.arange(7.0)
    (slopes(site, values) * weights).sum().backward()
    rounded = Alteration({site: 2}, ranges)(site, values.detach())
    expected = float(((rounded - values.detach()) * weights).sum())
    assert float(slopes.slopes[units[0].name, 2][0]) == pytest.approx(expected, rel=1e-5)


def test_every_unit_has_every_number_of_bits_and_fewer_bits_move_more(given: Given):
    source, data, units = given
    effects = activation_effects(source, data, units, [8, 4, 2], batch_size=2)
    assert set(effects) == {(unit.name, bits) for unit in units for bits in (8, 4, 2)}
    ordered = [
        effects[unit.name, 8].kl < effects[unit.name, 4].kl < effects[unit.name, 2].kl
        for unit in units
        if effects[unit.name, 2].kl > 1e-9
    ]
    assert sum(ordered) >= 0.8 * len(ordered) > 0


def test_batches_only_tell_utterances_apart(given: Given):
    source, data, units = given
    one, all_at_once = (activation_effects(source, data, units[:3], [4], batch_size=size) for size in (1, 12))
    for key in one:
        first = [found[key].loss - found[key].kl for found in (one, all_at_once)]
        assert first[0] == pytest.approx(first[1], rel=1e-2, abs=1e-6)
        assert all_at_once[key].kl == pytest.approx(0.0, abs=1e-12)  # one group has no spread


def test_a_site_that_is_no_number_and_a_set_without_a_loss_are_errors(given: Given, tiny_wav2vec_ctc: Path):
    source, data, units = given
    broken = replace(source, tensors={name: tensor * float("nan") for name, tensor in source.tensors.items()})
    with pytest.raises(AsrCompressError, match="NaN or infinity; the checkpoint or the audio is broken"):
        activation_effects(broken, data, units, [8])
    ctc = open_source(tiny_wav2vec_ctc)
    long = torch.full((500,), 4)
    short = ProbeData((torch.randn(4000),), (long,), ("e " * 250,), None, "speech.tsv", "0" * 64)
    with pytest.raises(AsrCompressError, match="speech.tsv: each reference is too long for the frames that checkpoint"):
        activation_effects(ctc, short, find_units(ctc, short, activations=True)[-1:], [8])
