"""The front-end on running audio gives the frames of the whole recording, to the bit, however it is cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.models import features
from asrcompress.models.log_mel_stream import LogMelStream

SIZES = {"sample_rate_hz": 16_000, "num_mels": 40, "window": 400, "hop": 160}


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(num_samples) * 0.1).astype(np.float32)


def streamed(stream: LogMelStream, audio: np.ndarray, lengths: list[int]) -> torch.Tensor:
    """The lengths again and again, until the audio is over."""
    frames, start, turn = [], 0, 0
    while start < len(audio):
        frames.append(stream.feed(audio[start : start + lengths[turn % len(lengths)]]))
        start, turn = start + lengths[turn % len(lengths)], turn + 1
    return torch.cat([*frames, stream.finish()], dim=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(201, 6000), st.lists(st.integers(1, 2000), min_size=1, max_size=6))
def test_every_cutting_gives_the_same_bits(num_samples: int, lengths: list[int]) -> None:
    audio = noise(num_samples)
    whole = features.log_mel(audio, **SIZES)
    found = streamed(LogMelStream(**SIZES), audio, lengths)
    assert found.shape == whole.shape == (40, num_samples // 160 + 1)
    torch.testing.assert_close(found, whole, rtol=0, atol=0)


def test_a_frame_comes_with_its_last_sample() -> None:
    """Frame t reaches to sample 160 t + 200; the first one is mirrored at sample 200."""
    stream, audio = LogMelStream(**SIZES), noise(1000)
    counts = [stream.feed(audio[at : at + 1]).shape[1] for at in range(1000)]
    assert [at + 1 for at, count in enumerate(counts) if count] == [201, 360, 520, 680, 840, 1000]
    assert set(counts) == {0, 1}


@pytest.mark.parametrize("num_samples", [0, 1, 200])
def test_too_short_to_be_mirrored_has_no_frames(num_samples: int) -> None:
    assert streamed(LogMelStream(**SIZES), noise(num_samples), [64]).shape == (40, 0)


def test_after_finish_another_recording_begins() -> None:
    stream = LogMelStream(**SIZES)
    for seed in (0, 1):
        audio = noise(1234, seed)
        torch.testing.assert_close(streamed(stream, audio, [100]), features.log_mel(audio, **SIZES), rtol=0, atol=0)


def test_what_is_fed_may_be_read_only_and_is_not_kept() -> None:
    stream, audio = LogMelStream(**SIZES), noise(300)
    frozen, reused = np.frombuffer(audio.tobytes(), dtype=np.float32), audio.copy()
    first = LogMelStream(**SIZES)
    first.feed(frozen)
    stream.feed(reused)
    reused[:] = 0
    torch.testing.assert_close(stream.finish(), first.finish(), rtol=0, atol=0)


def test_less_than_a_window_is_kept() -> None:
    stream = LogMelStream(**SIZES)
    for _ in range(20):
        stream.feed(noise(16_000))
        assert stream.samples.untyped_storage().nbytes() < 4 * 400
