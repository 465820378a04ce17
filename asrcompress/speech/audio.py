"""Samples out of WAV and FLAC files, and out of Fairseq's stored zips.

Never changes what was recorded: no resampling, no mixing of channels, no clipping. Where the
samples do not fit, the error says which command makes them fit. Features are the models' work.
"""

from __future__ import annotations

import os
import re
import shlex
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from asrcompress.errors import AsrCompressError

AUDIO_SUFFIXES = (".wav", ".flac")
_FORMATS = ("WAV", "WAVEX", "RF64", "FLAC")
_ZIP_SLICE = re.compile(r"(?P<zip>.+\.zip):(?P<offset>\d+):(?P<length>\d+)", re.DOTALL)
_BLOCK_FRAMES = 1 << 20
_UNKNOWN_WAV_BYTES = 0x7FFFF000  # sizes from here up are what sox and ffmpeg write into a pipe
_UNKNOWN_FLAC_FRAMES = 1 << 62


def audio_file(path: str | Path) -> Path:
    """The file on disk that holds the audio: `a.wav` itself, or `x.zip` of `x.zip:OFFSET:LENGTH`."""
    match = _ZIP_SLICE.fullmatch(str(path))
    return Path(match["zip"]) if match else Path(path)


def read_audio_bytes(path: str | Path) -> bytes:
    """The encoded bytes of an audio file, or of the slice `x.zip:OFFSET:LENGTH` that Fairseq's tables name.

    Raises:
        AsrCompressError: the file is missing or unreadable, or the zip ends before the slice does.
    """
    match = _ZIP_SLICE.fullmatch(str(path))
    try:
        if not match:
            return Path(path).read_bytes()
        with open(match["zip"], "rb") as handle:
            handle.seek(int(match["offset"]))
            content = handle.read(min(int(match["length"]), Path(match["zip"]).stat().st_size))
    except FileNotFoundError:
        raise AsrCompressError(f"{audio_file(path)}: no such audio file") from None
    except (OSError, OverflowError) as error:
        raise AsrCompressError(f"{audio_file(path)}: could not be read: {_cause(error)}") from error
    if len(content) != int(match["length"]):
        raise AsrCompressError(f"{path}: the zip ends before this slice does; copy or build the zip again")
    return content


def _in_memory(content: bytes) -> BinaryIO:
    """A file of the system's. Out of one of Python's soundfile reads by calling back, and loses a Ctrl-C that falls in there."""
    file = os.fdopen(os.memfd_create("audio"), "w+b")
    file.write(content)
    file.seek(0)
    return file


def read_audio(path: str | Path, *, sample_rate_hz: int) -> NDArray[np.float32]:
    """Decode one mono WAV or FLAC file.

    Args:
        path: the file, or a slice `x.zip:OFFSET:LENGTH` of a stored zip.
        sample_rate_hz: the rate the caller's model was trained on.

    Returns:
        (num_samples,) float32 in [-1, 1], at least one sample.

    Raises:
        AsrCompressError: missing, torn, empty, not WAV or FLAC, more than one channel, another
            sample rate, or samples that are NaN, infinite or beyond [-1, 1].
    """
    import soundfile

    content = read_audio_bytes(path)
    _require_audio(path, content)
    try:
        with _in_memory(content) as file, soundfile.SoundFile(file.fileno(), closefd=False) as sound:
            if sound.format not in _FORMATS:
                raise AsrCompressError(f"{path}: is {sound.format}, not WAV or FLAC; {_convert(path, sample_rate_hz)}")
            _require_layout(path, sound.samplerate, sound.channels, sample_rate_hz)
            num_frames = sound.frames
            if num_frames >= _UNKNOWN_FLAC_FRAMES:
                raise AsrCompressError(
                    f"{path}: its header does not say how long it is (written into a pipe); "
                    f"write it again: sox {_name(path)} out.flac"
                )
            blocks = []
            while len(block := sound.read(_BLOCK_FRAMES, dtype="float32")):
                blocks.append(block)
    except soundfile.SoundFileError as error:
        raise AsrCompressError(
            f"{path}: is damaged, or is not WAV or FLAC ({_cause(error)}); copy or record it again, "
            f"or {_convert(path, sample_rate_hz)}"
        ) from error
    if not num_frames:
        raise AsrCompressError(f"{path}: holds no samples; record it again or take it out of the set")
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if len(samples) != num_frames:
        raise _torn(path, f"{len(samples)} of {num_frames} samples are there")
    _require_range(path, samples)
    return samples


def _require_audio(path: str | Path, content: bytes) -> None:
    """Tell apart what is often given by mistake, and find WAV files that end too early.

    libsndfile reads a WAV file whose end is cut off without a word: the header's size is what shows it.
    """
    if not content:
        raise AsrCompressError(f"{path}: is empty; copy or record it again")
    if content.startswith(b"\x93NUMPY"):
        raise AsrCompressError(
            f"{path}: holds features (.npy), not audio; give the corpus folder, or a table that names WAV or FLAC"
        )
    if content[:4] != b"RIFF":
        return
    position = 12
    while position + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, position)
        position += 8
        if name == b"data":
            missing = size - (len(content) - position)
            if missing > 0 and size < _UNKNOWN_WAV_BYTES:
                raise _torn(path, f"{missing} bytes of samples are missing at the end")
            return
        position += size + size % 2


def _require_layout(path: str | Path, found_hz: int, num_channels: int, sample_rate_hz: int) -> None:
    if found_hz != sample_rate_hz:
        mono = "" if num_channels == 1 else " -c 1"
        raise AsrCompressError(
            f"{path}: sample rate is {found_hz} Hz, the model needs {sample_rate_hz} Hz; "
            f"resample it: sox {_name(path)} -r {sample_rate_hz}{mono} out.wav"
        )
    if num_channels != 1:
        raise AsrCompressError(
            f"{path}: has {num_channels} channels, the model needs one; mix them: sox {_name(path)} -c 1 out.wav"
        )


def _require_range(path: str | Path, samples: NDArray[np.float32]) -> None:
    finite = np.isfinite(samples)
    if not finite.all():
        raise AsrCompressError(
            f"{path}: {int((~finite).sum())} samples are NaN or infinite, the first at {int(np.argmin(finite))}; "
            "record or export it again"
        )
    peak = float(np.abs(samples).max())
    if peak > 1.0:
        raise AsrCompressError(
            f"{path}: float samples reach {peak:g}, beyond the range [-1, 1]; scale them: "
            f"sox --norm=-0.1 {_name(path)} -b 16 out.wav"
        )


def _convert(path: str | Path, sample_rate_hz: int) -> str:
    """What to do about MP3, M4A, ...: ffmpeg reads what sox often cannot."""
    return f"convert it: ffmpeg -i {_name(path)} -ar {sample_rate_hz} -ac 1 out.wav"


def _torn(path: str | Path, what: str) -> AsrCompressError:
    return AsrCompressError(f"{path}: is torn, {what}; copy or record it again")


def _cause(error: Exception) -> object:
    """What a library says went wrong, without the handle's address."""
    return getattr(error, "strerror", None) or getattr(error, "error_string", None) or error


def _name(path: str | Path) -> str:
    return shlex.quote(str(audio_file(path)))
