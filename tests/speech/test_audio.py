"""Audio is decoded as it was recorded, or refused with the way out."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.speech.audio import audio_file, read_audio, read_audio_bytes

RATE = 16000
WAVE = (0.5 * np.sin(np.arange(1600) / 10)).astype(np.float32)


def encode(samples: np.ndarray, kind: str = "WAV", subtype: str = "PCM_16", rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def write(folder: Path, content: bytes, name: str = "a.wav") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("kind", "subtype", "step"),
    [
        ("WAV", "PCM_16", 2**-15),
        ("WAV", "PCM_24", 2**-23),
        ("WAV", "PCM_32", 2**-23),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("WAVEX", "PCM_16", 2**-15),
        ("RF64", "PCM_16", 2**-15),
        ("FLAC", "PCM_16", 2**-15),
        ("FLAC", "PCM_24", 2**-23),
    ],
)
def test_every_encoding_gives_the_recorded_samples(tmp_path, kind, subtype, step):
    samples = read_audio(write(tmp_path, encode(WAVE, kind, subtype)), sample_rate_hz=RATE)
    assert samples.dtype == np.float32
    assert samples.shape == WAVE.shape
    assert np.abs(samples - WAVE).max() <= step


def test_no_interrupt_is_lost(tmp_path):
    """What is raised in Python that soundfile calls is printed and forgotten, Ctrl-C too: it calls none."""
    path, called = write(tmp_path, encode(WAVE, "FLAC")), []
    sys.setprofile(lambda frame, event, argument: called.append(frame.f_code.co_name))
    try:
        read_audio(path, sample_rate_hz=RATE)
    finally:
        sys.setprofile(None)
    assert "read_audio" in called and not [name for name in called if name.startswith("vio_")]


def test_16_bit_codes_are_divided_by_32768(tmp_path):
    codes = [-32768, -1, 0, 1, 32767]
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 46, b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16, b"data", 10
    )
    path = write(tmp_path, head + struct.pack("<5h", *codes))
    assert read_audio(path, sample_rate_hz=RATE).tolist() == [code / 32768 for code in codes]


def test_the_files_name_does_not_decide_the_format(tmp_path):
    assert len(read_audio(write(tmp_path, encode(WAVE, "FLAC"), "a.raw"), sample_rate_hz=RATE)) == len(WAVE)


@pytest.mark.parametrize("cut", [1, 2, 101, 1600, 3199, 3200])
def test_wav_cut_at_the_end_is_torn(tmp_path, cut):
    path = write(tmp_path, encode(WAVE)[:-cut])
    with pytest.raises(AsrCompressError, match=rf"a\.wav: is torn, {cut} bytes"):
        read_audio(path, sample_rate_hz=RATE)


def test_wav_with_other_chunks_before_the_samples_is_torn_too(tmp_path):
    content = encode(WAVE, subtype="FLOAT")  # has fact and PEAK chunks
    assert content.index(b"data") > 36
    assert len(read_audio(write(tmp_path, content), sample_rate_hz=RATE)) == len(WAVE)
    with pytest.raises(AsrCompressError, match="is torn"):
        read_audio(write(tmp_path, content[:-4]), sample_rate_hz=RATE)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFDB])
def test_wav_written_into_a_pipe_is_whole(tmp_path, size):
    content = bytearray(encode(WAVE))
    start = content.index(b"data") + 4
    content[start : start + 4] = struct.pack("<I", size)
    assert len(read_audio(write(tmp_path, bytes(content)), sample_rate_hz=RATE)) == len(WAVE)


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_flac_cut_anywhere_is_an_error(tmp_path_factory, data):
    content = encode(np.tile(WAVE, 8), "FLAC")
    cut = data.draw(st.integers(0, len(content) - 1))
    path = write(tmp_path_factory.mktemp("cut"), content[:cut])
    with pytest.raises(AsrCompressError):
        read_audio(path, sample_rate_hz=RATE)


def test_flac_that_does_not_say_its_length(tmp_path):
    content = bytearray(encode(WAVE, "FLAC"))
    content[21] &= 0xF0  # the 36 bits of STREAMINFO's total samples
    content[22:26] = bytes(4)
    with pytest.raises(AsrCompressError, match=r"does not say how long it is.*sox \S*a\.wav out\.flac"):
        read_audio(write(tmp_path, bytes(content)), sample_rate_hz=RATE)


def test_flac_that_claims_more_than_it_holds(tmp_path):
    content = bytearray(encode(WAVE, "FLAC"))
    content[21] |= 0x0F  # claims 2**36 samples, 256 GiB
    with pytest.raises(AsrCompressError):
        read_audio(write(tmp_path, bytes(content)), sample_rate_hz=RATE)


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"RIFF\4\0\0\0WAVE", b"fLaC", b"hello\n", b"\x80\x02}q\0", bytes(99)]
)
def test_what_is_no_audio_is_refused_with_the_files_name(tmp_path, content):
    with pytest.raises(AsrCompressError, match=r"a\.wav: is (empty|damaged)"):
        read_audio(write(tmp_path, content), sample_rate_hz=RATE)


@given(where=st.integers(0, 3243), value=st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_never_raises_another_type(tmp_path_factory, where, value):
    content = bytearray(encode(WAVE))
    content[where] = value
    path = write(tmp_path_factory.mktemp("changed"), bytes(content))
    try:
        samples = read_audio(path, sample_rate_hz=RATE)
    except AsrCompressError as error:
        assert "\n" not in str(error)
        assert str(path) in str(error)
    else:
        assert np.abs(samples).max() <= 1


def test_no_samples(tmp_path):
    with pytest.raises(AsrCompressError, match="holds no samples"):
        read_audio(write(tmp_path, encode(WAVE[:0])), sample_rate_hz=RATE)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path, bad):
    wave = WAVE.copy()
    wave[[7, 9]] = bad
    with pytest.raises(AsrCompressError, match="2 samples are NaN or infinite, the first at 7"):
        read_audio(write(tmp_path, encode(wave, subtype="FLOAT")), sample_rate_hz=RATE)


def test_float_samples_beyond_one_are_not_clipped_in_silence(tmp_path):
    with pytest.raises(AsrCompressError, match=r"reach 16384,.*sox --norm"):
        read_audio(write(tmp_path, encode(WAVE * 32768, subtype="FLOAT")), sample_rate_hz=RATE)


def test_another_sample_rate_names_both_and_the_command(tmp_path):
    path = write(tmp_path, encode(WAVE, rate=8000), "in.wav")
    with pytest.raises(AsrCompressError, match=r"8000 Hz.*16000 Hz.*sox \S*in\.wav -r 16000 out\.wav"):
        read_audio(path, sample_rate_hz=16000)


def test_two_channels_name_the_command(tmp_path):
    stereo = np.stack([WAVE, WAVE], axis=1)
    with pytest.raises(AsrCompressError, match=r"2 channels.*sox \S*in\.wav -c 1 out\.wav"):
        read_audio(write(tmp_path, encode(stereo), "in.wav"), sample_rate_hz=RATE)
    with pytest.raises(AsrCompressError, match=r"sox \S*in\.wav -r 16000 -c 1 out\.wav"):
        read_audio(write(tmp_path, encode(stereo, rate=44100), "in.wav"), sample_rate_hz=RATE)


def test_other_formats_are_named(tmp_path):
    with pytest.raises(AsrCompressError, match="is AIFF, not WAV or FLAC"):
        read_audio(write(tmp_path, encode(WAVE, "AIFF")), sample_rate_hz=RATE)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(AsrCompressError, match="gone.wav: no such audio file"):
        read_audio(tmp_path / "gone.wav", sample_rate_hz=RATE)
    with pytest.raises(AsrCompressError, match="could not be read: Is a directory"):
        read_audio(tmp_path, sample_rate_hz=RATE)


def test_a_slice_of_a_stored_zip(tmp_path):
    content = encode(WAVE)
    zipped = write(tmp_path, b"before" + content + b"after", "x.zip")
    audio = f"{zipped}:6:{len(content)}"
    assert audio_file(audio) == zipped
    assert read_audio_bytes(audio) == content
    assert len(read_audio(audio, sample_rate_hz=RATE)) == len(WAVE)
    with pytest.raises(AsrCompressError, match="zip ends before"):
        read_audio(f"{zipped}:6:999999999999", sample_rate_hz=RATE)
    with pytest.raises(AsrCompressError, match="gone.zip: no such"):
        read_audio(tmp_path / "gone.zip:0:1", sample_rate_hz=RATE)


def test_features_are_not_audio(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((4, 80), np.float32))
    zipped = write(tmp_path, buffer.getvalue(), "fbank80.zip")
    with pytest.raises(AsrCompressError, match="holds features .*give the corpus folder"):
        read_audio(f"{zipped}:0:{len(buffer.getvalue())}", sample_rate_hz=RATE)


def test_real_speech(digits_dir):
    path = next((digits_dir / "audio" / "test").glob("*.flac"))
    samples = read_audio(path, sample_rate_hz=RATE)
    assert len(samples) == soundfile.info(path).frames
    assert 0.01 < np.abs(samples).max() <= 1


@pytest.mark.skipif("MP3" not in soundfile.available_formats(), reason="this libsndfile writes no MP3")
@pytest.mark.parametrize("cut", [None, 300])
def test_mp3_is_to_be_converted(tmp_path, cut):
    soundfile.write(tmp_path / "whole.mp3", 0.1 * np.sin(np.arange(16_000)), 16_000, format="MP3")
    (tmp_path / "a b.mp3").write_bytes((tmp_path / "whole.mp3").read_bytes()[:cut])
    with pytest.raises(AsrCompressError, match=r"not WAV or FLAC.*convert it: ffmpeg -i '.*a b\.mp3' -ar 16000 -ac 1"):
        read_audio(tmp_path / "a b.mp3", sample_rate_hz=16_000)
