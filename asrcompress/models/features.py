"""Front-ends: waveforms to features. Kaldi filter banks with CMVN, and log-mel spectrograms.

Both come from torchaudio. Reading audio files is speech/audio.py's work.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

KALDI_SCALE = 2**15  # Kaldi works on 16-bit sample values
EPSILON = 1e-8
FBANK_WINDOW_S, FBANK_HOP_S = 0.025, 0.010


def fbank(audio: np.ndarray, *, sample_rate_hz: int, num_mel_bins: int) -> Tensor:
    """Kaldi log filter banks: (samples,) float in [-1, 1] -> (frames, num_mel_bins).

    25 ms windows every 10 ms, no dither; audio shorter than a window gives 0 frames.
    """
    from torchaudio.compliance import kaldi

    if len(audio) < FBANK_WINDOW_S * sample_rate_hz:
        return torch.zeros(0, num_mel_bins)
    waveform = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32)).unsqueeze(0) * KALDI_SCALE
    return kaldi.fbank(waveform, num_mel_bins=num_mel_bins, sample_frequency=float(sample_rate_hz))


def num_fbank_frames(duration_s: float) -> int:
    """Frames that `fbank` gives for audio of this length."""
    return max(0, 1 + math.floor((duration_s - FBANK_WINDOW_S) / FBANK_HOP_S + 1e-6))


def normalize(features: Tensor, transform: dict[str, Any]) -> Tensor:
    """Cepstral mean and variance normalisation of (frames, bins), as Fairseq does it.

    `transform` is {"name": "utterance_cmvn", "norm_means", "norm_vars"},
    {"name": "global_cmvn", "mean": [...], "std": [...]} or {"name": "utterance_mean_variance"}, which
    is the unbiased variance of Fairseq's examples/speech_recognition; it leaves a single frame as it is.
    """
    if transform["name"] == "utterance_mean_variance":
        if len(features) < 2:
            return features
        variance = features.var(dim=0)
        deviation = variance.sqrt() + (EPSILON if (variance < EPSILON).any() else 0.0)
        return (features - features.mean(dim=0)) * (1.0 / deviation)
    if transform["name"] == "global_cmvn":
        return (features - torch.tensor(transform["mean"])) / torch.tensor(transform["std"])
    # In numpy and step by step as there: bins that hardly vary lose all digits in the difference, and
    # what is left has to be what the model was trained on.
    frames = features.numpy()
    mean, square_sums = frames.mean(axis=0), (frames**2).sum(axis=0)
    if transform["norm_means"]:
        frames = np.subtract(frames, mean)
    if transform["norm_vars"]:
        variance = square_sums / frames.shape[0] - mean**2
        frames = np.divide(frames, np.sqrt(np.maximum(variance, 1e-10)))
    return torch.from_numpy(frames)


@cache
def _mel_spectrogram(sample_rate_hz: int, num_mels: int, window: int, hop: int) -> torch.nn.Module:
    from torchaudio.transforms import MelSpectrogram

    return MelSpectrogram(sample_rate=sample_rate_hz, n_fft=window, win_length=window, hop_length=hop, n_mels=num_mels)


def log_mel(audio: np.ndarray, *, sample_rate_hz: int, num_mels: int, window: int, hop: int) -> Tensor:
    """log(clamp(mel, 1e-9, 1e9)): (samples,) -> (num_mels, frames), frames = samples // hop + 1."""
    waveform = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
    return _mel_spectrogram(sample_rate_hz, num_mels, window, hop)(waveform).clamp(1e-9, 1e9).log()


@cache
def _window_and_filters(sample_rate_hz: int, num_mels: int, window: int, hop: int) -> tuple[Tensor, Tensor]:
    """(window,), and (2 x bins, num_mels) that adds up squares of real and imaginary parts, which lie side by side."""
    buffers = dict(_mel_spectrogram(sample_rate_hz, num_mels, window, hop).named_buffers())
    return buffers["spectrogram.window"], buffers["mel_scale.fb"].repeat_interleave(2, dim=0)


@torch.no_grad()
def quick_log_mel(audio: np.ndarray, *, sample_rate_hz: int, num_mels: int, window: int, hop: int) -> Tensor:
    """`log_mel` in half the time, up to rounding: the filters add up squares, without a root and a square in between.

    For speech that is changed before every update; what is measured takes `log_mel`.
    """
    shape, filters = _window_and_filters(sample_rate_hz, num_mels, window, hop)
    waveform = torch.from_numpy(np.ascontiguousarray(audio, dtype=np.float32))
    spectrum = torch.stft(waveform, window, hop, window=shape, return_complex=True)
    squares = torch.view_as_real(spectrum.T).square_().flatten(1)
    return (squares @ filters).clamp_(1e-9, 1e9).log_().T


def same_length(features: list[Tensor]) -> list[list[int]]:
    """Positions of the utterances of each length, in order of the first of them."""
    groups: dict[int, list[int]] = {}
    for position, frames in enumerate(features):
        groups.setdefault(len(frames), []).append(position)
    return list(groups.values())
