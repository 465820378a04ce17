"""The observed twin: the float model's numbers, the grids that level integer-only has, and gradients that pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from asrcompress.artifact import load_artifact
from asrcompress.errors import AsrCompressError
from asrcompress.integers.grid import Grid
from asrcompress.integers.sites import Sites, is_operand, kind_of
from asrcompress.integers.softmax import LOWEST, coded_weights, softmax_sum
from asrcompress.ops.calibrate import CalibrationData, RangeRecorder, runner
from asrcompress.ops.load import build_model, open_source
from asrcompress.ops.observe import Alteration, Ranges, build_observed, float_source, require_alterable
from asrcompress.ops.probe_data import ProbeData, read_probe_data
from asrcompress.ops.quantize import QuantizeConfig, quantize
from asrcompress.ops.recipe import Rule


@pytest.fixture(scope="module", params=["asr", "kws"])
def given(request: pytest.FixtureRequest, samples_dir: Path):
    """(source, data, what computes its log-probabilities with a module) of a trained model."""
    if request.param == "asr":
        source = open_source(samples_dir / "asr" / "checkpoint_best.pt")
        data = read_probe_data(source, samples_dir / "asr" / "dev.tsv", limit=3)
    else:
        source = open_source(samples_dir / "kws" / "crnn_computer.pt")
        data = read_probe_data(source, samples_dir / "kws" / "manifest.tsv", keyword="computer", split="dev", limit=6)

    def run(module: nn.Module) -> Tensor:
        return torch.cat(source.family.log_probs(source.spec, module, list(data.features), list(data.targets)))

    return source, data, run


def test_the_twin_computes_the_float_models_numbers_with_its_very_weights(given: tuple) -> None:
    source, _, run = given
    model = build_model(source).module
    seen: list[str] = []
    twin = build_observed(source, Sites(alter=lambda site, values: (seen.append(site), values)[1]), share=model)
    with torch.no_grad():
        torch.testing.assert_close(run(twin), run(model), rtol=1e-4, atol=1e-4)
        weight = model.get_parameter(
            "encoder.transformer_layers.0.fc1.weight" if hasattr(model, "encoder") else "gru.weight_ih_l0"
        )
        weight.mul_(0.5)
        torch.testing.assert_close(run(twin), run(model), rtol=1e-4, atol=1e-4)
    assert any(kind_of(site) == "softmax" for site in seen)


def test_sites_and_grids_are_those_of_calibration(given: tuple, tmp_path: Path) -> None:
    """One utterance, the same for both; a keyword's search is the forward pass that its loss is."""
    source, data, _ = given
    one = ProbeData(data.features[:1], data.targets[:1], None, None, "", "")
    ranges, recorder = Ranges(), RangeRecorder()
    with torch.no_grad():
        twin = build_observed(source, Sites(alter=ranges))
        source.family.log_probs(source.spec, twin, list(one.features), list(one.targets))
    recorded = build_observed(source, Sites(record=recorder))
    runner(source.family, source.spec, CalibrationData(one.features, "", ""))(recorded, lambda done, total: None)
    config = QuantizeConfig(level="integer-only", rules=(Rule("*", activations="int5"),))
    expected = recorder.grids(config)
    assert set(ranges.observers) == set(expected) | {site for site in ranges.observers if kind_of(site) == "softmax"}
    if source.family.TASK == "keyword":
        assert {site: ranges.grid(site, 5) for site in expected} == expected
    encoder = {site: grid for site, grid in expected.items() if "encoder.transformer" in site}
    assert {site: ranges.grid(site, 5) for site in encoder} == encoder
    assert all(ranges.grid(site, 12).num_bits == (8 if is_operand(site) else 12) for site in expected)


def test_softmax_is_not_among_the_grids_of_an_artifact(samples_dir: Path, tmp_path: Path) -> None:
    from asrcompress.ops.quantize import Calibrate

    calibrate = Calibrate(samples_dir / "kws" / "manifest.tsv", split="dev")
    config = QuantizeConfig(level="integer-only", calibration_limit=2)
    quantize(samples_dir / "kws" / "crnn_computer.pt", tmp_path / "q.safetensors", config, calibrate=calibrate)
    grids = load_artifact(tmp_path / "q.safetensors").grids
    assert grids and not any("softmax" in site for site in grids)


def test_altered_values_are_the_grids_and_gradients_pass_as_if_nothing_had_happened() -> None:
    ranges = Ranges()
    values = torch.linspace(-1, 3, 9)
    for site in ("m:out", "m:in", "m:q2"):
        assert ranges(site, values) is values
    altered = Alteration({"m:out": 3, "m:in": 3, "m:q2": 12}, ranges)
    assert torch.equal(altered("m:out", values), torch.tensor([-1.0, 0, 0, 0, 1, 2, 2, 2, 3]))  # halves to even
    assert altered("m:in", values).unique().numel() == 8  # with a zero point all codes of 3 bits
    assert altered.grids["m:q2"].num_bits == 8
    x = values.clone().requires_grad_()
    y = altered("m:out", x)
    assert torch.equal(y, altered("m:out", values))
    (y * torch.arange(9.0)).sum().backward()
    assert torch.equal(x.grad, torch.arange(9.0))
    assert altered("m:other", x) is x


def test_gradients_reach_every_site_before_its_values_change(given: tuple) -> None:
    source, _, run = given
    ranges, sites = Ranges(), Sites()
    twin = build_observed(source, sites)
    with torch.no_grad():
        sites.alter = ranges
        run(twin)
    weights = {site: 4 for site in ranges.observers if kind_of(site) in ("softmax", "q", "v")}
    seen: dict[str, Tensor] = {}

    def hear(site: str, values: Tensor) -> None:
        if site in weights and values.requires_grad:
            values.retain_grad()
            seen[site] = values

    plain = Alteration(weights, ranges)
    sites.record, sites.alter = hear, lambda site, values: (hear(site, values), plain(site, values))[1]
    for module in twin.modules():
        for buffer in module.buffers(recurse=False):
            if buffer.is_floating_point():
                buffer.requires_grad_()
    run(twin).sum().backward()
    assert seen.keys() == weights.keys()
    assert all(values.grad is not None and torch.isfinite(values.grad).all() for values in seen.values())
    assert all(len(values.unique()) > 15 for site, values in seen.items() if kind_of(site) == "q")


@pytest.mark.parametrize("num_bits", [2, 3, 4, 8, 12])
def test_coded_weights_sum_values_as_attention_on_integers_does(num_bits: int) -> None:
    generator = torch.Generator().manual_seed(num_bits)
    scores = torch.randint(-3000, 3000, (2, 5, 7), generator=generator)
    scores[:, :, 5:] = LOWEST
    values = torch.randint(-127, 128, (2, 7, 3), generator=generator, dtype=torch.int8)
    scale, value_scale, grid = 2.0**-10, 0.01, Grid(2.0**-13, 0, 16)
    expected = softmax_sum(scores, scale, values, value_scale, grid, num_bits).float() * grid.scale
    weights = torch.softmax((scores.double() * scale).masked_fill(scores == LOWEST, -torch.inf), dim=-1)
    found = coded_weights(weights.float(), num_bits)
    assert torch.allclose(found.sum(dim=-1), torch.ones(2, 5))
    assert ((found @ (values.float() * value_scale)) - expected).abs().max() < 3 * grid.scale


def test_more_bits_than_8_are_8_for_attentions_weights() -> None:
    weights = torch.softmax(torch.randn(4, 9, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert torch.equal(coded_weights(weights, 16), coded_weights(weights, 8))


def test_packed_weights_are_what_they_stand_for(given: tuple, tmp_path: Path) -> None:
    source, _, run = given
    path = quantize(source.path, tmp_path / "q.safetensors", QuantizeConfig(num_bits=4)).path
    packed = open_source(path)
    floats = float_source(packed)
    assert float_source(source) is source and floats.content is None
    with torch.no_grad():
        torch.testing.assert_close(
            run(build_model(floats).module), run(build_model(packed).module), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    ("site", "message"),
    [("m:q1", "m:q1: is passed by no activation"), ("gru:gates_l0", "gru:gates_l0: is inside a loop over time")],
)
def test_sites_whose_values_do_not_go_on_are_refused(site: str, message: str) -> None:
    with pytest.raises(AsrCompressError, match=message):
        require_alterable([site], ["m:q", "gru:gates_l0"])


def test_what_is_no_number_is_named_by_its_site() -> None:
    with pytest.raises(AsrCompressError, match="m:q: NaN or infinity"):
        Ranges()("m:q", torch.tensor([1.0, float("inf")]))
