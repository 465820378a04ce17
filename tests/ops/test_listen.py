"""Playing to a real stream: the same as step by step, whatever is fed at once, with and without resets."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.events import Detector, detections
from asrcompress.models import ModelSpec, kws_crnn
from asrcompress.models.crnn import CRNN
from asrcompress.models.kws_stream import KeywordStream
from asrcompress.ops import listen as module
from asrcompress.ops.listen import Heard, Stopwatch, listen, listen_and_reset
from asrcompress.ops.load import build_model, load_model, open_source
from asrcompress.ops.quantize import Calibrate, QuantizeConfig, quantize
from asrcompress.speech.audio import read_audio
from asrcompress.speech.keyword_datasets import read_keyword_clips

RATE_HZ = 16_000
DEBOUNCE = 5


@pytest.fixture(scope="module")
def recording() -> list[np.ndarray]:
    """Nine seconds of noise that comes and goes, in uneven parts."""
    random = np.random.default_rng(5)
    samples = random.standard_normal(9 * RATE_HZ) * 0.2 * (1 + np.sin(np.arange(9 * RATE_HZ) / 4000)) / 2
    return np.split(samples.astype(np.float32), [40, 9000, 9001, 60_000, 100_003])


@pytest.fixture
def stream(tiny_kws: Path) -> Any:
    loaded = build_model(open_source(tiny_kws))
    with torch.no_grad():
        loaded.module.classifier.weight *= 30  # random weights say 0.5 to everything
    return loaded.source.family.stream(loaded.source.spec, loaded.module)


@pytest.fixture
def plain(stream: Any, recording: list[np.ndarray]) -> Heard:
    return listen(stream.copy(), recording, RATE_HZ, 2, Stopwatch())


def step_by_step(stream: Any, samples: np.ndarray, threshold: float) -> tuple[list[float], list[float], list[int]]:
    """Two-step average, threshold, debounce and reset, on one step's audio at a time: probabilities, averages, detections."""
    probabilities: list[float] = []
    averages: list[float] = []
    found: list[int] = []
    before = 0.0
    borders = [0, *range(19 * 160 + 200, len(samples), stream.step_samples), len(samples)]
    pieces = [samples[begin:end] for begin, end in pairwise(borders)]
    for piece in [*pieces, None]:
        new = stream.finish() if piece is None else stream.feed(piece)
        assert len(new) <= 1
        for step in new:
            probabilities.append(step.probability)
            averages.append((before + step.probability) / 2)
            before = step.probability
            if averages[-1] >= threshold and (not found or len(probabilities) - 1 - found[-1] >= DEBOUNCE):
                found.append(len(probabilities) - 1)
                stream.reset()
                before = 0.0
    return probabilities, averages, found


def test_without_a_reset_it_is_the_stream_as_it_is(stream: Any, plain: Heard, recording: list[np.ndarray]) -> None:
    steps = stream.feed(np.concatenate(recording)) + stream.finish()
    assert plain.times_s.tolist() == [step.time_s for step in steps]
    assert plain.probabilities == pytest.approx([step.probability for step in steps], abs=1e-5)
    assert np.ptp(plain.probabilities) > 0.05, "nothing happens in this recording"


@pytest.mark.parametrize("quantile", [0.5, 0.8, 0.97])
@pytest.mark.parametrize("block_s", [0.3, 2.0, 20.0])
def test_resets_fall_right_after_the_step_that_detected(
    stream: Any, plain: Heard, recording: list[np.ndarray], quantile: float, block_s: float, monkeypatch: Any
) -> None:
    monkeypatch.setattr(module, "BLOCK_S", block_s)
    threshold = float(np.quantile(plain.smoothed, quantile)) + 1e-4
    expected, averages, found = step_by_step(stream.copy(), np.concatenate(recording), threshold)
    heard = listen_and_reset(stream, recording, RATE_HZ, Detector(threshold, 2, DEBOUNCE))
    assert found and heard.detections.tolist() == found
    assert heard.probabilities == pytest.approx(expected, abs=1e-5)
    assert heard.smoothed == pytest.approx(averages, abs=1e-5)
    assert heard.times_s.tolist() == plain.times_s.tolist()
    assert np.abs(heard.probabilities - plain.probabilities).max() > 1e-3, "the reset changed nothing"


def test_on_integers_resets_are_exact(samples_dir: Path, tmp_path: Path, recording: list[np.ndarray]) -> None:
    config = QuantizeConfig(num_bits=4, level="integer-only", calibration_limit=8)
    data = samples_dir / "kws" / "manifest.tsv"
    quantize(samples_dir / "kws" / "crnn_computer.pt", tmp_path / "m.safetensors", config, calibrate=Calibrate(data))
    loaded = load_model(tmp_path / "m.safetensors")
    stream = loaded.source.family.stream(loaded.source.spec, loaded.module)
    clips = read_keyword_clips(data, keyword="computer", split="test").clips[:8]
    samples = np.concatenate([read_audio(clip.audio, sample_rate_hz=RATE_HZ) for clip in clips] + recording[:3])
    threshold = float(np.quantile(listen(stream.copy(), [samples], RATE_HZ, 2, Stopwatch()).smoothed, 0.7))
    expected, averages, found = step_by_step(stream.copy(), samples, threshold)
    heard = listen_and_reset(stream, [samples], RATE_HZ, Detector(threshold, 2, DEBOUNCE))
    assert len(found) > 2
    assert (heard.probabilities.tolist(), heard.smoothed.tolist()) == (expected, averages)
    assert heard.detections.tolist() == found


def test_without_a_detection_a_detector_changes_nothing(stream: Any, plain: Heard, recording: list[np.ndarray]) -> None:
    heard = listen_and_reset(stream, recording, RATE_HZ, Detector(1.1, 2, DEBOUNCE))
    assert (heard.probabilities == plain.probabilities).all() and (heard.smoothed == plain.smoothed).all()
    assert len(heard.detections) == 0


def test_another_threshold_needs_no_playing(plain: Heard) -> None:
    again = plain.detect(0.5, DEBOUNCE)
    assert again.detections.tolist() == detections(plain.smoothed, 0.5, DEBOUNCE).tolist()
    assert again.detections_s.tolist() == plain.times_s[again.detections].tolist()


def test_audio_and_time_are_counted(stream: Any, recording: list[np.ndarray], monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "BLOCK_S", 2.0)
    watch, finish = Stopwatch(), stream.finish

    def late() -> Any:
        time.sleep(0.5)  # takes half a second, and no processor
        return finish()

    monkeypatch.setattr(stream, "finish", late)
    listen(stream, recording, RATE_HZ, 1, watch)
    assert watch.audio_s == pytest.approx(9.0)
    assert 0 < watch.cpu_s < watch.compute_s - 0.4
    assert watch.compute_s < 60


def test_every_step_of_the_end_is_there_after_a_detection() -> None:
    """A stride of one frame: the end of a recording completes two steps at once."""
    spec = ModelSpec("kws_crnn", dict(CRNN(2, 12, stride=(8, 1)).sizes))
    samples = np.random.default_rng(3).standard_normal(RATE_HZ).astype(np.float32) / 10
    stream = KeywordStream(spec, kws_crnn.build(spec))
    other = stream.copy()
    assert len(other.feed(samples)) == 80 and len(other.finish()) == 2
    heard = listen_and_reset(stream, [samples], RATE_HZ, Detector(0.0, 1, 1))  # every step is a detection
    assert heard.detections.tolist() == list(range(82))
    assert len(heard.times_s) == len(heard.probabilities) == len(heard.smoothed) == 82


def test_a_broken_model_is_an_error(tiny_kws: Path, recording: list[np.ndarray]) -> None:
    loaded = build_model(open_source(tiny_kws))
    with torch.no_grad():
        loaded.module.classifier.bias[0] = float("nan")
    stream = loaded.source.family.stream(loaded.source.spec, loaded.module)
    with pytest.raises(AsrCompressError, match="NaN: the model's output is broken"):
        listen(stream, recording, RATE_HZ, 1, Stopwatch())
