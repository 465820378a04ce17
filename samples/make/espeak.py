"""Speech from espeak-ng: one phrase in one voice, resampled to 16 kHz, with coloured noise added.

Needs the espeak-ng program, numpy, scipy and soundfile. Knows nothing of data sets, labels or models.
"""

# ruff: noqa: SIM905 (word lists read best as text)
from __future__ import annotations

import io
import subprocess
from dataclasses import dataclass

import numpy as np
import soundfile
from scipy.signal import lfilter, resample_poly

SAMPLE_RATE_HZ = 16000
ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-us-nyc", "en-gb-x-gbclan", "en-029")
VARIANTS = (
    "m1 m2 m3 m4 m6 m8 f1 f2 f3 Alex Andy Annie Denis Diogo Gene Hugo Jacky Lee Marco Mario Michael adam anika "
    "antonio belinda benjamin boris david ed edward iven john max michel pablo paul pedro quincy rob robert shelby "
    "victor"
).split()
HELD_OUT_ACCENT = "en-gb-scotland"
HELD_OUT_VARIANTS = {"dev": ("m5", "f5", "sandro", "zac"), "test": ("m7", "f4", "caleb", "linda", "steph", "travis")}


@dataclass(frozen=True)
class Voice:
    """An accent, a voice variant, the speed in words a minute and the pitch (0 to 99)."""

    accent: str
    variant: str
    speed: int
    pitch: int

    @property
    def name(self) -> str:
        """The speaker's name: accent and variant."""
        return f"{self.accent}+{self.variant}"


def draw_voice(rng: np.random.Generator, split: str, *, held_out_share: float = 0.5) -> Voice:
    """Draw a voice; in dev and test, `held_out_share` of them are voices that no training utterance has."""
    accent, variant = rng.choice(ACCENTS), rng.choice(VARIANTS)
    if split in HELD_OUT_VARIANTS and rng.random() < held_out_share:
        variant = rng.choice(HELD_OUT_VARIANTS[split])
        if rng.random() < 0.3:
            accent = HELD_OUT_ACCENT
    return Voice(str(accent), str(variant), int(rng.integers(130, 211)), int(rng.integers(25, 76)))


def speak(text: str, voice: Voice) -> np.ndarray:
    """Synthesise `text`: float32 (samples,) at 16 kHz, silence at both ends cut, RMS of 1 over what is left."""
    command = ["espeak-ng", "-v", voice.name, "-s", str(voice.speed), "-p", str(voice.pitch), "--stdout", text]
    answer = subprocess.run(command, capture_output=True, check=True)
    samples, rate_hz = soundfile.read(io.BytesIO(answer.stdout), dtype="float64")
    samples = resample_poly(samples, SAMPLE_RATE_HZ, rate_hz)
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
    samples = samples[loud[0] : loud[-1] + 1]
    return (samples / np.sqrt(np.mean(samples**2))).astype(np.float32)


def coloured_noise(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Noise with an RMS of 1, from a hiss to a deep rumble: white noise through a random one-pole low-pass."""
    pole = rng.uniform(0.7, 0.98)
    noise = lfilter([1.0], [1.0, -pole], rng.standard_normal(num_samples))
    return (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)


def mix(
    rng: np.random.Generator, speech: np.ndarray, *, lead_s: float, tail_s: float, snr_db: float, rms: float
) -> np.ndarray:
    """Put silence around `speech`, add coloured noise at `snr_db` and scale the speech to `rms`; int16 (samples,)."""
    silences = [np.zeros(int(seconds * SAMPLE_RATE_HZ), np.float32) for seconds in (lead_s, tail_s)]
    samples = np.concatenate([silences[0], speech, silences[1]])
    samples = samples + coloured_noise(rng, len(samples)) * 10 ** (-snr_db / 20)
    return np.clip(np.round(samples * rms * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
