"""Calibration: what is read, what weights are seen to multiply, and what quantize makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from asrcompress.artifact import load_artifact
from asrcompress.errors import AsrCompressError
from asrcompress.integers.sites import is_operand
from asrcompress.modules.swap import find_weights
from asrcompress.ops.calibrate import CalibrationData, RangeRecorder, read_calibration, runner, weight_statistics
from asrcompress.ops.load import load_model, open_source
from asrcompress.ops.quantize import Calibrate, QuantizeConfig, quantize
from asrcompress.speech.audio import read_audio
from asrcompress.speech.datasets import read_utterances


def test_utterances_are_spread_over_the_set_and_their_features_are_evals(tiny_s2t: Path, tiny_speech: Path) -> None:
    source = open_source(tiny_s2t)
    data = read_calibration(source.family, source.spec, tiny_speech, 2)
    utterances = read_utterances(tiny_speech).utterances
    expected = [
        source.family.features(source.spec, read_audio(utterances[index].audio, sample_rate_hz=16_000))
        for index in (0, 2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(data.features, expected, strict=True))
    assert data.describe() == {"file": "test.tsv", "sha256": read_utterances(tiny_speech).sha256, "num_utterances": 2}
    assert len(read_calibration(source.family, source.spec, tiny_speech, 100).features) == len(utterances)


def test_keyword_sets_give_their_training_split_or_the_one_named(
    tiny_kws: Path, tmp_path: Path, samples_dir: Path
) -> None:
    source = open_source(tiny_kws)
    clips = sorted((samples_dir / "kws" / "clips").glob("*.flac"))[:3]
    rows = [f"{clip}\tword\t{split}" for clip, split in zip(clips, ("test", "train", "train"), strict=True)]
    (tmp_path / "manifest.tsv").write_text("\n".join(["path\tword\tsplit", *rows]) + "\n")

    def read(split: str | None) -> int:
        return len(read_calibration(source.family, source.spec, tmp_path / "manifest.tsv", 9, split=split).features)

    assert (read(None), read("test"), read("all")) == (2, 1, 3)
    with pytest.raises(AsrCompressError, match="no split 'val'"):
        read("val")


def test_statistics_are_those_of_the_weights_own_inputs() -> None:
    """A linear layer, a grouped convolution and an embedding against sums over what they were given."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.conv = nn.Embedding(5, 4), nn.Conv1d(4, 6, 3, groups=2, padding=1)
            self.head, self.spare = nn.Linear(6, 3), nn.Linear(6, 2)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            self.between = self.conv(self.table(tokens).transpose(1, 2)).transpose(1, 2)
            return self.head(self.between)

    torch.manual_seed(0)
    model = Model().eval()
    tokens = torch.tensor([[0, 1, 2, 3], [4, 4, 2, 0]])
    with torch.no_grad():
        model(tokens)
        rows = model.between.reshape(-1, 6).double()
        padded = nn.functional.pad(model.table(tokens).transpose(1, 2), (1, 1))
        patches = torch.stack([padded[:, :, t : t + 3] for t in range(4)], dim=1).reshape(8, 2, 6).double()
    sites = find_weights(model)
    with torch.no_grad():
        found = weight_statistics(model, sites, lambda module, progress: module(tokens))
    torch.testing.assert_close(found["head.weight"].second_moment[0].double(), rows.T @ rows, rtol=1e-5, atol=1e-5)
    assert found["head.weight"].count == 8
    expected = torch.einsum("tgc,tgd->gcd", patches, patches)
    torch.testing.assert_close(found["conv.weight"].second_moment.double(), expected, rtol=1e-5, atol=1e-5)
    for name, columns in (("table.weight", 4), ("spare.weight", 6)):  # looked up; never reached
        assert torch.equal(found[name].second_moment[0], torch.eye(columns))


@pytest.fixture(scope="module")
def static(tiny_s2t: Path, tiny_speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("static") / "q.safetensors"
    quantize(tiny_s2t, path, QuantizeConfig(level="integer-only"), calibrate=Calibrate(tiny_speech))
    return path


def test_the_same_data_and_options_give_the_same_bytes(
    static: Path, tiny_s2t: Path, tiny_speech: Path, tmp_path: Path
) -> None:
    quantize(
        tiny_s2t, tmp_path / "q.safetensors", QuantizeConfig(level="integer-only"), calibrate=Calibrate(tiny_speech)
    )
    assert (tmp_path / "q.safetensors").read_bytes() == static.read_bytes()


def test_operands_have_8_bits_and_what_flows_between_16(static: Path) -> None:
    content = load_artifact(static)
    assert {grid.num_bits for site, grid in content.grids.items() if is_operand(site)} == {8}
    assert {grid.num_bits for site, grid in content.grids.items() if not is_operand(site)} == {16}
    assert all(
        grid.zero_point == 0 for site, grid in content.grids.items() if not site.rpartition(":")[2].startswith("in")
    )
    assert content.recipe["calibration"]["num_utterances"] == 5


def test_no_calibration_value_is_cut_by_minmax(static: Path, tiny_speech: Path) -> None:
    """Every value that the calibration run passes lies within its site's grid."""
    from asrcompress.integers.sites import Sites
    from asrcompress.ops.load import build_model

    source = open_source(static)
    grids = source.content.grids
    beyond = []

    def record(site: str, values: torch.Tensor) -> None:
        codes = values / grids[site].scale + grids[site].zero_point
        if float(codes.min()) < grids[site].code_min - 0.51 or float(codes.max()) > grids[site].code_max + 0.51:
            beyond.append(site)

    observed = build_model(source, observe=Sites(record=record))
    data = read_calibration(source.family, source.spec, tiny_speech, 64)
    runner(source.family, source.spec, data)(observed.module, lambda done, total: None)
    assert beyond == []


def test_auto_says_what_it_picked_for_each_weight(tiny_kws: Path, samples_dir: Path, tmp_path: Path) -> None:
    config = QuantizeConfig(num_bits=3, method="auto", calibration_limit=8)
    result = quantize(
        tiny_kws, tmp_path / "q.safetensors", config, calibrate=Calibrate(samples_dir / "kws" / "manifest.tsv")
    )
    weights = load_artifact(tmp_path / "q.safetensors").quantized
    picked = [row["method"] for row in result.record["honesty"]["codes"]]
    assert picked == [weight.method for weight in weights.values()]
    assert all(picked)
    assert result.record["recipe"]["picked"] == {method: picked.count(method) for method in sorted(set(picked))}


def test_bias_correction_keeps_the_mean_output(tiny_kws: Path, samples_dir: Path, tmp_path: Path) -> None:
    manifest = samples_dir / "kws" / "manifest.tsv"
    whole = load_model(tiny_kws)
    data = read_calibration(whole.source.family, whole.source.spec, manifest, 64)
    batch = torch.stack(data.features)
    means = {}
    for corrected in (False, True):
        path = tmp_path / f"{corrected}.safetensors"
        quantize(
            tiny_kws,
            path,
            QuantizeConfig(num_bits=2, bias_correction=corrected),
            calibrate=Calibrate(manifest) if corrected else None,
        )
        with torch.no_grad():
            means[corrected] = load_model(path).module.conv[0](batch.unsqueeze(1)).mean(dim=(0, 2, 3))
    with torch.no_grad():
        expected = whole.module.conv[0](batch.unsqueeze(1)).mean(dim=(0, 2, 3))
    assert (means[True] - expected).norm() < 0.01 * (means[False] - expected).norm()


@pytest.mark.parametrize(
    ("config", "calibrate", "message"),
    [
        (
            QuantizeConfig(level="integer-only"),
            None,
            "--level integer-only needs speech to calibrate with; add --calibrate",
        ),
        (QuantizeConfig(method="gptq"), None, "--method gptq needs speech"),
        (QuantizeConfig(bias_correction=True), None, "--bias-correction needs speech"),
        (QuantizeConfig(), "data", "nothing is calibrated at level stored with --method rtn"),
        (QuantizeConfig(level="integer-only"), "nowhere", "no such file or folder; --calibrate names a data set"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_done(
    config, calibrate, message, tiny_kws, samples_dir, tmp_path
) -> None:
    data = {"data": samples_dir / "kws" / "manifest.tsv", "nowhere": tmp_path / "nowhere", None: None}[calibrate]
    with pytest.raises(AsrCompressError, match=message):
        quantize(tiny_kws, tmp_path / "q.safetensors", config, calibrate=Calibrate(data) if data else None)
    assert list(tmp_path.iterdir()) == []


def test_broken_audio_is_named_by_the_site_that_it_breaks() -> None:
    with pytest.raises(AsrCompressError, match="fc:in: NaN or infinity came up in calibration"):
        RangeRecorder()("fc:in", torch.tensor([1.0, float("nan")]))


def test_a_run_stops_at_nothing_heard(tiny_kws: Path) -> None:
    source = open_source(tiny_kws)
    data = CalibrationData((torch.zeros(40, 101),), "x", "0" * 64)
    calls = []
    runner(source.family, source.spec, replace(data))(
        load_model(tiny_kws).module, lambda done, total: calls.append((done, total))
    )
    assert calls == [(0, 1), (1, 1)]
