"""Changes to training speech: what is drawn is repeatable, and each change does what its name and number say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.speech.augment import (
    SNR_SPAN_DB,
    Augmentation,
    Draws,
    cut,
    draw,
    mix,
    noises,
    parse_augment,
    shift,
)

RATE_HZ = 16_000
MIDDLE = Draws(*[0.5] * len(Draws._fields))


def voice(size: int = RATE_HZ, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


def changed(augmentation: Augmentation, draws: Draws, audio: np.ndarray | None = None) -> np.ndarray:
    """With one other voice there is to be mixed in."""
    return augmentation.change_audio(
        voice() if audio is None else audio, draws, sample_rate_hz=RATE_HZ, other=lambda number: voice(seed=1)
    )


def decibels(loud: np.ndarray, soft: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(loud.astype(np.float64) ** 2) / np.mean(soft.astype(np.float64) ** 2)))


@given(st.integers(0, 2**31 - 1), st.integers(0, 10**7), st.integers(0, 10**7))
def test_draws_depend_on_seed_position_and_update_alone(seed, position, update):
    draws = draw(seed, position, update)
    assert draws == draw(seed, position, update)
    assert all(0 <= number < 1 for number in draws)
    others = {draw(seed + 1, position, update), draw(seed, position + 1, update), draw(seed, position, update + 1)}
    assert len(others | {draws}) == 4


def test_draws_are_spread_evenly_over_updates_and_over_positions():
    for draws in (
        np.array([draw(1, 7, update) for update in range(2000)]),
        np.array([draw(1, p, 7) for p in range(2000)]),
    ):
        for column in draws.T:
            assert np.histogram(column, bins=4, range=(0, 1))[0] == pytest.approx(500, abs=100)  # 5 deviations
        assert np.abs(np.corrcoef(draws.T) - np.eye(draws.shape[1])).max() < 0.12


@given(st.integers(1, 60), st.integers(-80, 80))
def test_a_shift_moves_every_sample_and_brings_in_zeros(size, by):
    audio = np.arange(1, size + 1, dtype=np.float32)
    expected = [audio[index - by] if 0 <= index - by < size else 0 for index in range(size)]
    assert shift(audio, by).tolist() == expected


@given(st.integers(1, 50), st.floats(0, 1, exclude_max=True), st.integers(0, 200))
def test_a_cut_goes_on_from_the_beginning_after_the_end(size, start, length):
    samples = np.arange(size, dtype=np.float32)
    assert cut(samples, start, length).tolist() == [(int(start * size) + index) % size for index in range(length)]


@pytest.mark.parametrize("snr_db", (-10.0, 0.0, 5.0, 30.0))
def test_noise_is_mixed_in_at_the_ratio_of_powers(snr_db):
    audio = voice()
    mixed = audio.copy()
    mix(mixed, 7 * voice(seed=3), snr_db)
    assert decibels(audio, mixed - audio) == pytest.approx(snr_db, abs=1e-3)


def test_silence_stays_silent_and_silent_noise_changes_nothing():
    nothing, audio = np.zeros(100, np.float32), voice(100)
    for clip, noise in ((nothing, audio), (audio, nothing)):
        mixed = clip.copy()
        mix(mixed, noise, 0.0)
        assert np.array_equal(mixed, clip)


def test_shifts_reach_as_far_as_they_say_to_both_sides_and_no_further():
    click = np.zeros(1000, np.float32)
    click[500] = 1
    found = {
        int(changed(Augmentation(shift_ms=1), MIDDLE._replace(shift=number), click).argmax()) - 500
        for number in np.linspace(0, 1, 500, endpoint=False)
    }
    assert found == set(range(-16, 17))


def test_the_level_goes_up_and_down_by_as_much_as_it_says():
    levels = [
        decibels(changed(Augmentation(gain_db=8), MIDDLE._replace(gain=n)), voice()) for n in (0.0, 0.25, 0.5, 0.999999)
    ]
    assert levels == pytest.approx([-8, -4, 0, 8], abs=1e-4)


@pytest.mark.parametrize("kind", ("noise", "babble"))
def test_half_of_the_clips_are_mixed_at_ratios_from_the_least_upwards(kind):
    augmentation = Augmentation(**{f"{kind}_snr_db": 5.0})
    ratios = []
    for position in range(400):
        audio = changed(augmentation, draw(1, position, 0))
        if not np.array_equal(audio, voice()):
            ratios.append(decibels(voice(), audio - voice()))
    assert len(ratios) == pytest.approx(200, abs=50)  # 5 deviations
    assert min(ratios) == pytest.approx(5, abs=1)
    assert max(ratios) == pytest.approx(5 + SNR_SPAN_DB, abs=1)
    assert np.mean(ratios) == pytest.approx(5 + SNR_SPAN_DB / 2, abs=2.5)


def test_other_speech_is_asked_for_only_where_it_is_mixed_in():
    asked = []

    def other(number: float) -> np.ndarray:
        asked.append(number)
        return voice(seed=1)

    augmentation = Augmentation(babble_snr_db=0)
    for has_babble, count in ((0.7, 0), (0.2, 1)):
        augmentation.change_audio(
            voice(), MIDDLE._replace(has_babble=has_babble, babble=0.125), sample_rate_hz=RATE_HZ, other=other
        )
        assert asked == [0.125] * count


def test_noise_is_white_or_pink():
    white, pink = noises()
    for noise, slope in ((white, 0), (pink, -1)):
        power = np.abs(np.fft.rfft(noise)) ** 2
        octaves = [power[2**k : 2 ** (k + 1)].mean() for k in range(8, 18)]
        assert np.polyfit(np.arange(10), np.log2(octaves), 1)[0] == pytest.approx(slope, abs=0.05)
    spectra = [
        np.abs(np.fft.rfft(changed(Augmentation(noise_snr_db=-20), draws) - voice())) ** 2
        for draws in (MIDDLE._replace(has_noise=0, noise_colour=c, noise_snr=0) for c in (0.4, 0.6))
    ]
    flat, falling = (spectrum[100:1000].mean() / spectrum[4000:8000].mean() for spectrum in spectra)
    assert 0.5 < flat < 2 < 5 < falling


def test_what_one_change_draws_does_not_depend_on_the_others():
    draws = draw(1, 2, 3)._replace(has_noise=0.1, gain=0.9)
    alone = changed(Augmentation(noise_snr_db=5), draws)
    louder = changed(Augmentation(noise_snr_db=5, gain_db=8), draws)
    assert decibels(louder, alone) == pytest.approx(0.8 * 8, abs=1e-3)
    assert np.corrcoef(louder, alone)[0, 1] > 0.99999


def test_audio_that_is_given_is_left_as_it_is():
    audio = voice()
    for text in ("shift,gain,noise,babble", "gain", "noise", "babble"):
        for position in range(10):
            parse_augment(text).change_audio(
                audio, draw(1, position, 0), sample_rate_hz=RATE_HZ, other=lambda number: audio
            )
    assert np.array_equal(audio, voice())


def masked(mask: tuple[int, int], position: int, shape: tuple[int, int], axis: int = 0) -> np.ndarray:
    """(frames, bins): True where features changed."""
    features = np.random.default_rng(0).uniform(1, 2, shape).astype(np.float32)
    before = features.copy()
    Augmentation(mask=mask).change_features(features, draw(1, position, 0), frames_axis=axis)
    assert np.all((features == before) | (features == before.mean()))
    hit = features != before
    return hit.T if axis else hit


@pytest.mark.parametrize("axis", (0, 1))
def test_masks_are_one_band_of_bins_and_one_of_frames_no_wider_than_they_may_be(axis):
    widths, places = set(), set()
    for position in range(300):
        hit = masked((6, 12), position, (101, 40) if axis == 0 else (40, 101), axis)
        frames, bins = hit.all(axis=1), hit.all(axis=0)
        assert np.array_equal(hit, frames[:, None] | bins[None, :])
        for band in (frames, bins):
            assert np.count_nonzero(np.diff(band.astype(int), prepend=0, append=0)) in (0, 2)  # in one piece
        widths.add((int(bins.sum()), int(frames.sum())))
        places |= set(np.flatnonzero(frames))
    assert {bins for bins, _ in widths} == set(range(7))
    assert {frames for _, frames in widths} == set(range(13))
    assert places == set(range(101))


def test_a_mask_covers_half_at_most_and_nothing_is_no_error():
    widths = [masked((1000, 1000), position, (9, 5)).all(axis=1).sum() for position in range(100)]
    assert max(widths) == 4
    empty = np.zeros((0, 40), np.float32)
    Augmentation(mask=(6, 12)).change_features(empty, MIDDLE, frames_axis=0)


numbers = st.one_of(st.integers(1, 40), st.floats(0.5, 40)).map(float)


@given(
    st.builds(
        Augmentation,
        shift_ms=st.none() | numbers, gain_db=st.none() | numbers,
        noise_snr_db=st.none() | st.floats(-20, 60), babble_snr_db=st.none() | st.integers(-20, 60).map(float),
        mask=st.none() | st.tuples(st.integers(0, 99), st.integers(1, 99)),
    )
)  # fmt: skip
def test_an_augmentation_as_text_is_read_back(augmentation):
    if augmentation.shift_ms and augmentation.shift_ms < 1:
        with pytest.raises(AsrCompressError, match="use 1 to 1000 ms"):
            parse_augment(str(augmentation))
        return
    assert parse_augment(str(augmentation)) == augmentation
    assert bool(augmentation) == bool(str(augmentation))


def test_text_is_written_in_one_way():
    assert str(parse_augment("")) == ""
    assert str(parse_augment(" specaugment , gain = 8.0,shift=1e2,")) == "shift=100,gain=8,specaugment=6x12"
    assert str(parse_augment("shift,gain,noise,babble,specaugment")) == (
        "shift=100,gain=8,noise=5,babble=5,specaugment=6x12"
    )
    assert str(parse_augment("variants=7,gain")) == "gain=8,variants=7"
    assert str(parse_augment("variants=7")) == ""  # of nothing there are no variants
    assert str(parse_augment("noise=-2.5,specaugment=0x5")) == "noise=-2.5,specaugment=0x5"


@pytest.mark.parametrize(
    ("text", "says"),
    (
        ("echo=3", "echo=3: is unknown; there are shift, gain, noise, babble, specaugment, variants"),
        ("shift=100 gain=8", "shift=100 gain=8: use 1 to 1000 ms, such as 100"),
        ("gain=8,noise,gain=3", "gain=3: gain is given twice"),
        ("shift=", "shift=: use 1 to 1000 ms"),
        ("shift=0", "shift=0: use 1 to 1000 ms"),
        ("gain=loud", "gain=loud: use 0.1 to 40 dB, such as 8"),
        ("noise=nan", "noise=nan: use -20 to 60 dB"),
        ("babble=inf", "babble=inf: use -20 to 60 dB"),
        ("gain=-8", "gain=-8: use 0.1 to 40 dB"),
        ("specaugment=6", "specaugment=6: use BINSxFRAMES"),
        ("specaugment=0x0", "specaugment=0x0: use BINSxFRAMES"),
        ("specaugment=6x5000", "specaugment=6x5000: use BINSxFRAMES"),
        ("gain,variants=0", "variants=0: use a whole number from 1 to 10000"),
        ("gain,variants=few", "variants=few: use a whole number"),
        ("specaugment=6x-1", "specaugment=6x-1: use BINSxFRAMES"),
    ),
)
def test_what_makes_no_sense_is_an_error_of_one_line(text, says):
    with pytest.raises(AsrCompressError) as caught:
        parse_augment(text)
    assert str(caught.value).startswith(f"--augment {says}")
    assert "\n" not in str(caught.value)
