"""Codes of every option: what `quantize` finds for the same options, whatever is asked for in which order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity, QuantizedWeight
from asrcompress.ops import candidates as module
from asrcompress.ops.candidates import Candidates, calibration_positions, find_candidates, input_statistics
from asrcompress.ops.compress import pack_weight
from asrcompress.ops.load import Source, build_model, open_source
from asrcompress.ops.probe_data import ProbeData, read_probe_data
from asrcompress.ops.recipe import QuantizeConfig
from asrcompress.ops.sensitivity_config import SensitivityConfig
from asrcompress.ops.units import Option, Unit, weight_units
from asrcompress.patterns import pattern_name
from asrcompress.quantizers.statistics import InputStatistics, output_error

NAMES = ("conv.0.weight", "gru.weight_hh_l0", "attention.energy.0.weight")


@pytest.fixture(scope="module")
def kws(samples_dir: Path) -> tuple[Source, ProbeData, dict[str, Unit]]:
    source = open_source(samples_dir / "kws" / "crnn_computer.pt")
    data = read_probe_data(source, samples_dir / "kws" / "manifest.tsv", keyword="computer", split="dev", limit=12)
    return source, data, {unit.name: unit for unit in weight_units(build_model(source).module)}


def quiet(label: str):
    return lambda done, total: None


def find(kws: tuple, **options: object) -> Candidates:
    return find_candidates(kws[0], kws[1], SensitivityConfig(**options), quiet)


def same(one: QuantizedWeight, other: QuantizedWeight) -> bool:
    zero_points = (one.zero_point is None, other.zero_point is None)
    return (
        torch.equal(one.codes, other.codes)
        and torch.equal(one.scale, other.scale)
        and zero_points[0] == zero_points[1]
        and (zero_points[0] or torch.equal(one.zero_point, other.zero_point))
        and (one.num_bits, one.pattern, one.granularity) == (other.num_bits, other.pattern, other.granularity)
    )


@pytest.mark.parametrize(
    ("method", "sparsifier", "granularity"),
    [
        ("rtn", "magnitude", "per_channel"), ("mse", "wanda", "per_tensor"), ("gptq", "sparsegpt", "per_group:4"),
        ("gptq_ls", "sparsegpt", "per_channel"), ("gptq_ls", "wanda", "per_channel"), ("gptq_ls", "magnitude", "per_group:4"),
    ],
)  # fmt: skip
def test_codes_are_those_that_quantize_finds(kws: tuple, method: str, sparsifier: str, granularity: str):
    """gptq_ls walks all options of a weight at once, whose sums have another order: a few codes may round the other way."""
    found = find(kws, bits=(8, 3, 1), method=method, sparsifier=sparsifier, granularity=granularity)
    for name in NAMES:
        unit = kws[2][name]
        made = found.of(unit)
        assert list(made) == [option for option in found.config.options() if unit.allows(option)]
        for option, weight in made.items():
            config = QuantizeConfig(
                num_bits=option.num_bits, granularity=granularity, method=method if option.num_bits > 1 else "binary",
                pattern=option.pattern and pattern_name(option.pattern), sparsifier=sparsifier if option.pattern else None,
            )  # fmt: skip
            statistics = found.statistics.get(name)
            alone = pack_weight(name, found.weights[name], config, statistics)
            assert (weight.num_bits, weight.pattern) == (option.num_bits, option.pattern)
            if method != "gptq_ls" or option.num_bits == 1:
                assert same(weight, alone), (name, option)
                continue
            assert (weight.codes != alone.codes).float().mean() < 0.02, (name, option)
            rows = found.weights[name].reshape(len(alone.codes), -1)
            ours, theirs = (
                output_error(rows, each.dequantize().reshape(rows.shape), statistics) for each in (weight, alone)
            )
            assert ours == pytest.approx(theirs, rel=0.03, abs=1e-9), (name, option)


def test_codes_do_not_depend_on_what_was_kept(kws: tuple, monkeypatch: pytest.MonkeyPatch):
    options = [Option(8), Option(2, (2, 4))]
    asked = [(name, option) for option in options for name in (*NAMES, *NAMES[::-1])]
    roomy = find(kws, bits=(8, 2), patterns=("2:4",))
    whole = {key: roomy(kws[2][key[0]], key[1]) for key in asked}
    assert len(roomy._kept) == len(NAMES)
    monkeypatch.setattr(module, "MAX_BYTES", 1)
    tight = find(kws, bits=(8, 2), patterns=("2:4",))
    for name, option in asked:
        assert same(tight(kws[2][name], option), whole[name, option])
        assert list(tight._kept) == [name]


def test_inputs_are_looked_at_once_and_only_where_something_asks(kws: tuple):
    calls = []

    def statistics() -> dict[str, InputStatistics]:
        calls.append(1)
        return {name: InputStatistics.unknown(unit.num_params // unit.shape[0]) for name, unit in kws[2].items()}

    found = Candidates(find(kws).weights, SensitivityConfig(), statistics)
    for name in NAMES:
        found.of(kws[2][name])
    found.prepare()
    assert calls == [1]
    for config, looks in (
        (SensitivityConfig(method="rtn", patterns=()), False),
        (SensitivityConfig(method="rtn", sparsifier="magnitude"), False),
        (SensitivityConfig(method="rtn", sparsifier="wanda"), True),
        (SensitivityConfig(method="rtn", patterns=(), sparsifier="wanda"), False),
        (SensitivityConfig(patterns=()), True),
    ):
        assert config.looks_at_inputs is looks
        assert bool(input_statistics(kws[0], kws[1], config)) is looks


def test_statistics_are_of_inputs_without_padding(tiny_s2t: Path, tiny_speech: Path):
    """Against hooks on the float model, one utterance at a time."""
    source = open_source(tiny_s2t)
    data = read_probe_data(source, tiny_speech)
    model = build_model(source).module
    names = ["encoder.transformer_layers.1.fc1", "decoder.layers.1.fc2"]
    totals = {name: [torch.zeros(()), 0] for name in names}

    def hook(name: str):
        def add(module, inputs) -> None:
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            totals[name] = [totals[name][0] + x.T @ x, totals[name][1] + len(x)]

        return add

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in names]
    config = SensitivityConfig(calibration_limit=3)
    positions = calibration_positions(data, config)
    with torch.no_grad():
        for position in positions:
            source.family.log_probs(source.spec, model, [data.features[position]], [data.targets[position]])
    for handle in handles:
        handle.remove()
    found = input_statistics(source, data, config)
    for name, (second_moment, count) in totals.items():
        assert found[f"{name}.weight"].count == count > 0
        torch.testing.assert_close(found[f"{name}.weight"].second_moment[0], second_moment, rtol=1e-3, atol=1e-3)


def test_calibration_is_spread_over_utterances_with_frames(kws: tuple):
    frames = [torch.zeros(length, 4) for length in (3, 0, 5, 2, 0, 9, 1)]
    data = replace(kws[1], features=tuple(frames))
    for limit, expected in ((64, (0, 2, 3, 5, 6)), (5, (0, 2, 3, 5, 6)), (2, (0, 3)), (1, (0,))):
        assert calibration_positions(data, SensitivityConfig(calibration_limit=limit)) == expected


def test_groups_that_do_not_divide_are_named_with_what_leaves_them_out(kws: tuple):
    found = find(kws, bits=(4,), patterns=(), granularity="per_group:16")
    assert found.of(kws[2]["gru.weight_hh_l0"])[Option(4)].granularity == Granularity.parse("per_group:16")
    with pytest.raises(AsrCompressError, match=r"conv.0.weight: .* do not divide .*--exclude 'conv.0.weight'"):
        found.of(kws[2]["conv.0.weight"])
