"""The log-mel front-end on running audio: the frames of features.log_mel, each as soon as its samples are there.

Frame t is centred at sample t * hop and needs half a window to both sides; where the audio begins and ends it is
mirrored, as torch.stft does. The mirror at the end is put there by `finish`, which alone knows that it is the end.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

# The matrix library adds up a few rows in another order than many. With this many frames at once every frame has the
# bits that it has among a thousand.
MIN_FRAMES = 16


class LogMelStream:
    """Buffers less than a window of samples between calls."""

    def __init__(self, *, sample_rate_hz: int, num_mels: int, window: int, hop: int) -> None:
        self.num_mels, self.window, self.hop = num_mels, window, hop
        self._transform = _uncentred(sample_rate_hz, num_mels, window, hop)
        self._start()

    def _start(self) -> None:
        self.samples = torch.zeros(0)
        self.mirrored = False  # whether the samples before the first one have been made up

    def feed(self, samples: np.ndarray) -> Tensor:
        """(samples,) in [-1, 1] -> (num_mels, frames) that are complete by now."""
        self.samples = torch.cat([self.samples, torch.tensor(samples, dtype=torch.float32)])
        reach = self.window // 2
        if not self.mirrored:
            if len(self.samples) <= reach:
                return torch.zeros(self.num_mels, 0)
            self.samples = torch.cat([self.samples[1 : reach + 1].flip(0), self.samples])
            self.mirrored = True
        return self._complete()

    def finish(self) -> Tensor:
        """The frames that reach over the end, (num_mels, frames); what is fed next is another recording.

        Audio of half a window or less cannot be mirrored and has no frames at all.
        """
        frames = torch.zeros(self.num_mels, 0)
        if self.mirrored:
            reach = self.window // 2
            self.samples = torch.cat([self.samples, self.samples[-reach - 1 : -1].flip(0)])
            frames = self._complete()
        self._start()
        return frames

    def _complete(self) -> Tensor:
        num_frames = max(0, (len(self.samples) - self.window) // self.hop + 1)
        if num_frames == 0:
            return torch.zeros(self.num_mels, 0)
        used = self.samples[: (num_frames - 1) * self.hop + self.window]
        padded = torch.nn.functional.pad(used, (0, max(0, MIN_FRAMES - num_frames) * self.hop))
        self.samples = self.samples[num_frames * self.hop :].clone()
        return self._transform(padded)[:, :num_frames].clamp(1e-9, 1e9).log()  # type: ignore[no-any-return]


@cache
def _uncentred(sample_rate_hz: int, num_mels: int, window: int, hop: int) -> torch.nn.Module:
    from torchaudio.transforms import MelSpectrogram

    return MelSpectrogram(
        sample_rate=sample_rate_hz, n_fft=window, win_length=window, hop_length=hop, n_mels=num_mels, center=False
    )
