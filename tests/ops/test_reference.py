"""analyze --reference: logits against those of the model that an artifact was made from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.noise import sqnr_db
from asrcompress.ops.analyze import AnalyzeConfig, analyze
from asrcompress.ops.calibrate import read_calibration
from asrcompress.ops.load import load_model
from asrcompress.ops.quantize import QuantizeConfig, quantize
from asrcompress.sidecar import read


@pytest.fixture(scope="module")
def artifacts(tiny_kws: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("reference")
    for bits in (8, 2):
        quantize(tiny_kws, folder / f"{bits}.safetensors", QuantizeConfig(num_bits=bits))
    return {bits: folder / f"{bits}.safetensors" for bits in (8, 2)}


def measured(path: Path, reference: Path, data: Path, output: Path) -> dict:
    config = AnalyzeConfig(reference=reference, reference_data=data, reference_split="test")
    return analyze(path, config, output=output)[1]


def test_it_is_the_ratio_of_the_logits_on_that_speech(artifacts, tiny_kws, samples_dir, tmp_path) -> None:
    manifest = samples_dir / "kws" / "manifest.tsv"
    record = measured(artifacts[8], tiny_kws, manifest, tmp_path / "8.json")
    whole, packed = load_model(tiny_kws), load_model(artifacts[8])
    heard = read_calibration(whole.source.family, whole.source.spec, manifest, 16, split="test")
    batch = torch.stack(heard.features)
    with torch.inference_mode():
        noise = sqnr_db(whole.module(batch), packed.module(batch))
    assert record["reference"]["sqnr_db"] == record["metrics"]["sqnr_db"] == pytest.approx(noise, abs=1e-3)
    assert record["reference"]["num_logits"] == 2 * 16
    assert record["reference"]["data"] == heard.describe()
    assert read(tmp_path / "8.json").record["reference"] == record["reference"]


def test_fewer_bits_are_further_away(artifacts, tiny_kws, samples_dir, tmp_path) -> None:
    manifest = samples_dir / "kws" / "manifest.tsv"
    found = [measured(artifacts[bits], tiny_kws, manifest, tmp_path / f"{bits}.json") for bits in (8, 2)]
    assert found[0]["metrics"]["sqnr_db"] > found[1]["metrics"]["sqnr_db"] + 20


def test_without_a_reference_nothing_is_measured(artifacts, tmp_path) -> None:
    record = analyze(artifacts[8], AnalyzeConfig(), output=tmp_path / "x.json")[1]
    assert record["reference"] is None
    assert record["metrics"]["sqnr_db"] is None


def test_another_model_is_refused(artifacts, tiny_s2t, samples_dir, tmp_path) -> None:
    with pytest.raises(AsrCompressError, match="give the model that it was made from"):
        measured(artifacts[8], tiny_s2t, samples_dir / "kws" / "manifest.tsv", tmp_path / "x.json")
    with pytest.raises(AsrCompressError, match="equal to the bit"):
        measured(artifacts[8], artifacts[8], samples_dir / "kws" / "manifest.tsv", tmp_path / "x.json")
    with pytest.raises(AsrCompressError, match="go together"):
        AnalyzeConfig(reference=Path("float.pt"))
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(("scale", "expected"), [(0.1, 20.0), (0.01, 40.0), (1.0, 0.0)])
def test_a_known_ratio(scale: float, expected: float) -> None:
    signal = torch.tensor([3.0, -4.0])
    assert sqnr_db(signal, signal * (1 + scale)) == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_compared() -> None:
    assert sqnr_db(torch.ones(2), torch.ones(2)) == float("inf")
    assert sqnr_db(torch.zeros(2), torch.ones(2)) == -float("inf")
    with pytest.raises(ValueError, match="not finite"):
        sqnr_db(torch.ones(2), torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match="cannot be compared"):
        sqnr_db(torch.ones(2), torch.ones(3))
