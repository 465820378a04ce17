"""Streaming equals offline: 20 random chunkings of real speech, float within 1e-5, integers exactly; bounded state, no floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from asrcompress.errors import AsrCompressError
from asrcompress.models import ModelSpec, kws_crnn
from asrcompress.models.crnn import CRNN
from asrcompress.models.kws_stream import KeywordStream, Step, offline, timing, window_steps
from asrcompress.ops.load import LoadedModel, load_model
from asrcompress.ops.quantize import Calibrate, QuantizeConfig, quantize
from asrcompress.speech.audio import read_audio
from asrcompress.speech.keyword_datasets import read_keyword_clips

SHORTEST, LONGEST = 160, 8000  # 10 to 500 ms
NUM_CHUNKINGS = {
    "float": 20,
    "stored": 3,
    "computed": 3,
    "integer-only 8": 3,
    "integer-only 4": 20,
    "integer-only 2": 3,
}
Make = Callable[[str], LoadedModel]


@pytest.fixture(scope="module", params=["samples", "recordings"])
def source(request: pytest.FixtureRequest) -> tuple[Path, Path, str]:
    """Checkpoint, data set, keyword: synthesised, and real where they are."""
    if request.param == "samples":
        folder = request.getfixturevalue("samples_dir") / "kws"
        return folder / "crnn_computer.pt", folder / "manifest.tsv", "computer"
    folder = request.getfixturevalue("kws_dir")
    return folder / "crnn_happy.pt", folder / "manifest.tsv", "happy"


@pytest.fixture(scope="module")
def audio(source: tuple[Path, Path, str]) -> np.ndarray:
    """Keywords and other words, three of each, one behind the other."""
    _, data, keyword = source
    clips = read_keyword_clips(data, keyword=keyword, split="test").clips
    chosen = [[clip for clip in clips if clip.is_keyword == wanted][:3] for wanted in (True, False)]
    pairs = [clip for pair in zip(*chosen, strict=True) for clip in pair]
    assert len(pairs) == 6
    return np.concatenate([read_audio(clip.audio, sample_rate_hz=16_000) for clip in pairs])


@pytest.fixture(scope="module")
def make(source: tuple[Path, Path, str], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The model at a level, each made once."""
    checkpoint, data, _ = source
    folder = tmp_path_factory.mktemp("levels")

    @cache
    def load(level: str) -> LoadedModel:
        if level == "float":
            return load_model(checkpoint)
        name, _, bits = level.partition(" ")
        config = QuantizeConfig(num_bits=int(bits or 4), level=name, calibration_limit=16)
        path = folder / f"{level}.safetensors"
        quantize(checkpoint, path, config, calibrate=Calibrate(data) if bits else None)
        return load_model(path)

    return load


def play(stream: KeywordStream, audio: np.ndarray, lengths: list[int]) -> list[Step]:
    """In pieces of these lengths, what is left of it at once."""
    steps = [step for piece in np.split(audio, np.cumsum(lengths)) for step in stream.feed(piece)]
    return steps + stream.finish()


def chunking(num_samples: int, seed: int) -> list[int]:
    """Random lengths that do not add up to more than there is."""
    lengths = np.random.default_rng(seed).integers(SHORTEST, LONGEST, size=num_samples // SHORTEST, endpoint=True)
    return [int(length) for length in lengths[np.cumsum(lengths) < num_samples]]


@pytest.mark.parametrize("level", NUM_CHUNKINGS)
def test_twenty_chunkings_give_the_steps_of_the_whole(make: Make, audio: np.ndarray, level: str) -> None:
    loaded = make(level)
    spec, module = loaded.source.spec, loaded.module
    expected = {window_s: offline(spec, module, audio, window_s) for window_s in (1.0, 0.4)}
    if level in ("float", "integer-only 4"):  # 2 bits without training hear nothing
        probabilities = [step.probability for step in expected[1.0]]
        assert max(probabilities) - min(probabilities) > 0.6
    for seed in range(NUM_CHUNKINGS[level]):
        window_s = 0.4 if seed % 5 == 1 else 1.0
        whole = expected[window_s]
        steps = play(KeywordStream(spec, module, window_s), audio, chunking(len(audio), seed))
        assert len(steps) == window_steps(spec, len(audio) / 16_000)
        assert [(step.index, step.time_s) for step in steps] == [(step.index, step.time_s) for step in whole]
        assert (
            max(abs(ours.probability - theirs.probability) for ours, theirs in zip(steps, whole, strict=True)) <= 1e-5
        )
        if level.startswith("integer-only"):
            assert [step.logits for step in steps] == [step.logits for step in whole]


@pytest.mark.parametrize("level", ["float", "integer-only 4"])
def test_the_last_step_of_a_clip_is_its_score(make: Make, audio: np.ndarray, level: str) -> None:
    loaded = make(level)
    spec, module = loaded.source.spec, loaded.module
    for length, start in ((16_000, 0), (16_000, 70_000), (12_345, 16_000)):
        part = audio[start : start + length]
        steps = play(KeywordStream(spec, module), kws_crnn.fit_clip(part), [1600] * 9)
        assert len(steps) == 11 and steps[-1].time_s == 1.0
        (score,) = kws_crnn.scores(module, [kws_crnn.features(spec, part)])
        assert abs(steps[-1].probability - score) <= (0 if level != "float" else 1e-5)


def test_on_integers_nothing_is_a_float_between_features_and_logits(make: Make, audio: np.ndarray) -> None:
    loaded = make("integer-only 4")
    stream = KeywordStream(loaded.source.spec, loaded.module)
    frames = stream.front_end.feed(audio).unsqueeze(0)
    floats: set[str] = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.is_floating_point():
                floats.add(func.overloadpacket.__name__)
            return out

    parts = frames[:, :, :200].split(50, dim=2)
    with torch.inference_mode(), Watch():
        logits = [loaded.module(part, stream.memory) for part in parts]
    assert sum(map(len, logits)) == 23
    assert floats == {"leave_integers"}
    assert len(stream.memory.tensors()) == 4
    assert not any(x.payload.is_floating_point() for x in stream.memory.tensors())  # type: ignore[attr-defined]


def test_the_state_is_bounded_and_smaller_on_integers(make: Make, audio: np.ndarray) -> None:
    """Samples below a window, frames below a kernel, 2 hidden states, 10 outputs with their energies."""
    most = {}
    for level in ("float", "integer-only 4"):
        loaded = make(level)
        hidden, stream = loaded.source.spec.config["hidden_size"], KeywordStream(loaded.source.spec, loaded.module)
        sizes = []
        for length in chunking(len(audio), 0) + [len(audio)] * 3 + [1] * 200:
            stream.feed(audio[:length])
            sizes.append(stream.state_bytes)
        numbers = 19 * 40 + 2 * hidden + 10 * hidden + 10
        most[level] = max(sizes)
        assert max(sizes) <= 4 * 399 + numbers * (4 if level == "float" else 2)
    assert most["integer-only 4"] < most["float"]


def test_a_reset_forgets_all_that_was_said(make: Make, audio: np.ndarray) -> None:
    """Steps go on where they were, and are those of a stream that began with the frames of the next one."""
    loaded = make("integer-only 4")
    spec, module = loaded.source.spec, loaded.module
    stream = KeywordStream(spec, module)
    before = stream.feed(audio[:32_000])  # frames 0 to 198 are there: 23 steps, the next begins at frame 184
    stream.reset()
    after = stream.feed(audio[32_000:48_000])
    assert [step.index for step in before + after] == list(range(35))
    whole = stream.front_end.__class__(sample_rate_hz=16_000, num_mels=40, window=400, hop=160).feed(audio[:48_000])
    with torch.inference_mode():
        expected = module(whole[None, :, 184:], KeywordStream(spec, module).memory)
    assert [step.logits for step in after] == [tuple(row) for row in expected.tolist()]


def test_streams_share_a_model_and_nothing_else(make: Make, audio: np.ndarray) -> None:
    loaded = make("float")
    spec, module = loaded.source.spec, loaded.module
    alone = play(KeywordStream(spec, module), audio, [16_000] * 4)
    first, second = KeywordStream(spec, module), KeywordStream(spec, module)
    steps = []
    for part in np.split(audio, np.cumsum([16_000] * 4)):
        steps += first.feed(part)
        second.feed(part[::-1].copy())
    assert steps + first.finish() == alone
    assert play(first, audio, [16_000] * 4) == alone  # after finish, a new recording


def test_when_steps_end() -> None:
    """Step k ends with frame 8 k + 19, which reaches to sample 160 (8 k + 19) + 200; none behind the recording."""
    spec = ModelSpec("kws_crnn", dict(CRNN(2, 12).sizes))
    module = kws_crnn.build(spec)
    steps = offline(spec, module, np.zeros(16_000, dtype=np.float32))
    assert [step.time_s for step in steps] == pytest.approx([0.2025 + 0.08 * k for k in range(10)] + [1.0])
    assert timing(spec) == {"step_ms": 80.0, "first_step_ms": 202.5, "algorithmic_latency_ms": 82.5}
    stream = KeywordStream(spec, module)
    for _ in range(2):  # a recording that follows on another has times of its own
        again = play(stream, np.zeros(16_000, dtype=np.float32), [])
        assert [step.time_s for step in again] == [step.time_s for step in steps]
    stream.feed(np.zeros(100, dtype=np.float32))
    assert stream.state_bytes == 400  # samples that wait for a frame
    stream.finish()
    assert [at for at in range(4999) if stream.feed(np.zeros(1, dtype=np.float32))] == [3239, 4519]  # 202.5, 282.5 ms


@pytest.mark.parametrize("num_samples", [0, 200, 201, 3039])
def test_too_short_for_a_step_has_none(num_samples: int) -> None:
    spec = ModelSpec("kws_crnn", dict(CRNN(2, 12).sizes))
    module, audio = kws_crnn.build(spec), np.zeros(num_samples, dtype=np.float32)
    assert offline(spec, module, audio) == play(KeywordStream(spec, module), audio, []) == []


def test_windows_are_counted_in_steps() -> None:
    spec = ModelSpec("kws_crnn", dict(CRNN(2, 12).sizes))
    assert [window_steps(spec, seconds) for seconds in (0.19, 0.2699, 0.27, 1.0, 2.0)] == [1, 1, 2, 11, 23]
    for seconds in (0.0, 0.18, -1.0, math.nan, 3600.0):
        with pytest.raises(AsrCompressError, match=r"use 0\.19 s, which is one step, to an hour"):
            KeywordStream(spec, kws_crnn.build(spec), seconds)


def test_what_cannot_be_streamed_is_refused() -> None:
    spec = ModelSpec("kws_crnn", dict(CRNN(2, 12).sizes))
    stream = KeywordStream(spec, kws_crnn.build(spec))
    for samples in (np.zeros((1, 400), dtype=np.float32), np.zeros(400, dtype=np.int16)):
        with pytest.raises(ValueError, match="float32 in"):
            stream.feed(samples)
    gaps = ModelSpec("kws_crnn", dict(CRNN(2, 12, kernel_size=(5, 4), stride=(2, 5)).sizes))
    with pytest.raises(AsrCompressError, match="a stride of 5 frames leaves out frames between kernels of 4"):
        KeywordStream(gaps, kws_crnn.build(gaps))
