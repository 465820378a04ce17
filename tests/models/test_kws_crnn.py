"""The keyword family: front-end facts, and the trained model's published figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.models import kws_crnn
from asrcompress.models.crnn import CRNN
from asrcompress.ops.evaluate import EvalConfig, evaluate
from asrcompress.ops.load import load_model


def test_clips_are_padded_and_cut_to_one_second(tiny_kws: Path) -> None:
    spec = load_model(tiny_kws).source.spec
    clip = np.random.default_rng(0).standard_normal(20_000).astype(np.float32) * 0.1
    cut = kws_crnn.features(spec, clip)
    assert cut.shape == (40, 101)
    torch.testing.assert_close(cut, kws_crnn.features(spec, clip[:16_000]), rtol=0, atol=0)
    short = kws_crnn.features(spec, clip[:8_000])
    torch.testing.assert_close(short, kws_crnn.features(spec, np.pad(clip[:8_000], (0, 8_000))), rtol=0, atol=0)


def test_silence_is_the_clamp_of_the_front_end(tiny_kws: Path) -> None:
    features = kws_crnn.features(load_model(tiny_kws).source.spec, np.zeros(16_000, dtype=np.float32))
    torch.testing.assert_close(features, torch.full((40, 101), float(np.log(1e-9))))


def test_the_trained_model_has_its_published_area(kws_dir: Path, tmp_path: Path) -> None:
    """../shared/data/README.md: AU FA-FR 5.85e-4 on val."""
    config = EvalConfig(data=kws_dir / "manifest.tsv", keyword="happy", split="val")
    _, record = evaluate(kws_dir / "crnn_happy.pt", config, output=tmp_path / "e.json")
    assert f"{record['metrics']['au_fa_fr']:.2e}" == "5.85e-04"
    assert record["metrics"]["num_scored"] == 651 and record["metrics"]["num_positives"] == 223


@pytest.mark.parametrize("num_classes", [1, 12])
def test_other_numbers_of_classes_are_refused(tmp_path: Path, num_classes: int) -> None:
    """Class 1 of twelve is not the keyword that a user names."""
    torch.save(CRNN(2, 12, num_classes=num_classes).state_dict(), tmp_path / "m.pt")
    with pytest.raises(AsrCompressError, match=f"tells {num_classes} classes apart"):
        load_model(tmp_path / "m.pt")
