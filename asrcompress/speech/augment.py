"""Changes to training speech: shifted, louder or softer, in noise, beside other speech, with parts of the features masked.

Pure functions of samples, features and draws; what is drawn depends on (seed, position, update) alone. Reads no files, and never
touches speech that a model is judged on. No change of speed or pitch, and no echo.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asrcompress.errors import AsrCompressError

Samples = NDArray[np.float32]

SNR_SPAN_DB = 25.0  # signal-to-noise ratios are drawn from the least to this much above it
NOISE_SAMPLES = 1 << 19  # of each colour: 33 s at 16 kHz
_DEFAULTS = {"shift": "100", "gain": "8", "noise": "5", "babble": "5", "specaugment": "6x12", "variants": "24"}
_RANGES = {"shift": (1, 1000, "ms"), "gain": (0.1, 40, "dB"), "noise": (-20, 60, "dB"), "babble": (-20, 60, "dB")}
_LARGEST_MASK = 1000
_MOST_VARIANTS = 10_000


@dataclass(frozen=True)
class Augmentation:
    """What is done to training speech; None: not this.

    shift_ms: to both sides at most, of a clip of fixed length; zeros come in. gain_db: up or down at most. noise_snr_db,
    babble_snr_db: the least signal-to-noise ratio of noise (white or pink), and of other speech; each for half the clips.
    mask: the widest masks, (bins, frames), one of each (SpecAugment, arXiv 1904.08779, without its warp); a mask covers half of the bins or frames
    at most, and holds the mean of the features. variants: so many different changes of each utterance, which come again and again
    and need to be made only once; a new one in every update where None.
    """

    shift_ms: float | None = None
    gain_db: float | None = None
    noise_snr_db: float | None = None
    babble_snr_db: float | None = None
    mask: tuple[int, int] | None = None
    variants: int | None = None

    def __bool__(self) -> bool:
        """Whether it does anything."""
        return self != Augmentation(variants=self.variants)

    def __str__(self) -> str:
        """The same for the same augmentation; `parse_augment` reads it."""
        values = {name: _number(value) for name, value in self._numbers().items() if value is not None}
        if self.mask:
            values["specaugment"] = "{}x{}".format(*self.mask)
        if self.variants and values:
            values["variants"] = str(self.variants)
        return ",".join(f"{name}={value}" for name, value in values.items())

    def _numbers(self) -> dict[str, float | None]:
        return {
            "shift": self.shift_ms,
            "gain": self.gain_db,
            "noise": self.noise_snr_db,
            "babble": self.babble_snr_db,
        }

    def change_audio(
        self, audio: Samples, draws: Draws, *, sample_rate_hz: int, other: Callable[[float], Samples]
    ) -> Samples:
        """Shift, mix, then set the level: (samples,) -> as many, which may be beyond [-1, 1].

        Args:
            audio: (samples,); left as it is.
            draws: of this utterance in this update.
            sample_rate_hz: of it.
            other: other speech by a number in [0, 1); asked for only where it is mixed in.
        """
        audio = audio.copy()
        if self.shift_ms:
            most = round(self.shift_ms * sample_rate_hz / 1000)
            audio = shift(audio, math.floor(draws.shift * (2 * most + 1)) - most)
        if self.babble_snr_db is not None and draws.has_babble < 0.5:
            speech = cut(other(draws.babble), draws.babble_start, len(audio))
            mix(audio, speech, self.babble_snr_db + SNR_SPAN_DB * draws.babble_snr)
        if self.noise_snr_db is not None and draws.has_noise < 0.5:
            noise = cut(noises()[int(draws.noise_colour * 2)], draws.noise_start, len(audio))
            mix(audio, noise, self.noise_snr_db + SNR_SPAN_DB * draws.noise_snr)
        if self.gain_db:
            audio *= np.float32(10 ** (self.gain_db * (2 * draws.gain - 1) / 20))
        return audio

    def change_features(self, features: NDArray[np.float32], draws: Draws, *, frames_axis: int) -> None:
        """Mask (frames, bins), or (bins, frames) where `frames_axis` is 1, in place."""
        if not self.mask or not features.size:
            return
        frames = features.T if frames_axis else features
        mean = features.mean()
        first, last = _span(self.mask[0], frames.shape[1], draws.bins_width, draws.bins_start)
        frames[:, first:last] = mean
        first, last = _span(self.mask[1], frames.shape[0], draws.frames_width, draws.frames_start)
        frames[first:last] = mean


class Draws(NamedTuple):
    """Numbers in [0, 1), each for one purpose, so that what one change draws does not depend on the others."""

    shift: float
    gain: float
    has_noise: float
    noise_snr: float
    noise_colour: float
    noise_start: float
    has_babble: float
    babble_snr: float
    babble: float
    babble_start: float
    bins_width: float
    bins_start: float
    frames_width: float
    frames_start: float


def draw(seed: int, position: int, update: int) -> Draws:
    """What is drawn for an utterance in an update: the same on every rank, and where a stopped training goes on."""
    return Draws(*np.random.default_rng((seed, position, update)).random(len(Draws._fields)).tolist())


def variant(seed: int, position: int, update: int, num_variants: int) -> int:
    """Which of its variants an utterance has in an update."""
    return int(np.random.default_rng((seed, position, update)).integers(num_variants))


def parse_augment(text: str) -> Augmentation:
    """Read `shift=100,gain=8,noise=5,babble=5,specaugment=6x12`; a name alone takes the value it has here, "" is nothing.

    Raises:
        AsrCompressError: a name is unknown or given twice, or a value is out of range.
    """
    given: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in _DEFAULTS:
            raise AsrCompressError(f"--augment {part}: is unknown; there are {', '.join(_DEFAULTS)}")
        if name in given:
            raise AsrCompressError(f"--augment {part}: {name} is given twice; leave one out")
        given[name] = value if equals else _DEFAULTS[name]
    numbers = {name: _parse(name, value) for name, value in given.items() if name in _RANGES}
    return Augmentation(
        shift_ms=numbers.get("shift"),
        gain_db=numbers.get("gain"),
        noise_snr_db=numbers.get("noise"),
        babble_snr_db=numbers.get("babble"),
        mask=_parse_mask(given["specaugment"]) if "specaugment" in given else None,
        variants=_parse_variants(given["variants"]) if "variants" in given else None,
    )


def _parse_variants(value: str) -> int:
    if not (value.isascii() and value.isdecimal() and 1 <= int(value[:9]) <= _MOST_VARIANTS):
        raise AsrCompressError(f"--augment variants={value}: use a whole number from 1 to {_MOST_VARIANTS}")
    return int(value)


def shift(audio: Samples, by: int) -> Samples:
    """Move samples `by` places later (earlier where negative); zeros come in, what leaves is lost."""
    moved = np.zeros_like(audio)
    if abs(by) < len(audio):
        moved[max(by, 0) : len(audio) + min(by, 0)] = audio[max(-by, 0) : len(audio) - max(by, 0)]
    return moved


def cut(samples: Samples, start: float, length: int) -> Samples:
    """`length` samples from `start`, a share of all; from the beginning again after the end."""
    first = int(start * len(samples))
    found = samples[first : first + length]
    return found if len(found) == length else np.concatenate([found, np.resize(samples, length - len(found))])


def mix(audio: Samples, noise: Samples, snr_db: float) -> None:
    """Add noise to (samples,) in place, at this ratio of mean powers; nothing where either is silent."""
    power, noise_power = float(np.dot(audio, audio)), float(np.dot(noise, noise))
    if power and noise_power:
        audio += noise * np.float32(math.sqrt(power / noise_power / 10 ** (snr_db / 10)))


@cache
def noises() -> NDArray[np.float32]:
    """White and pink Gaussian noise, (2, NOISE_SAMPLES), from which pieces are cut: drawing it anew takes longer than features."""
    white = np.random.default_rng(0).standard_normal(NOISE_SAMPLES)
    spectrum = np.fft.rfft(white)
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))  # power falls as 1 / frequency
    pink = np.fft.irfft(spectrum, NOISE_SAMPLES)
    return np.stack([white, pink]).astype(np.float32)


def _span(widest: int, size: int, width: float, start: float) -> tuple[int, int]:
    """Where a mask begins and ends: any width up to the widest, anywhere."""
    width = math.floor(width * (min(widest, size // 2) + 1))
    first = math.floor(start * (size - width + 1))
    return first, first + width


def _parse(name: str, value: str) -> float:
    low, high, unit = _RANGES[name]
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise AsrCompressError(f"--augment {name}={value}: use {low:g} to {high:g} {unit}, such as {_DEFAULTS[name]}")
    return number


def _parse_mask(value: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", value)
    bins, frames = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (0 < max(bins, frames) <= _LARGEST_MASK):
        raise AsrCompressError(
            f"--augment specaugment={value}: use BINSxFRAMES, the widest masks, such as {_DEFAULTS['specaugment']}"
        )
    return bins, frames


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
