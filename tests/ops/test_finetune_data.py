"""Speech to train on: as recorded without an update; changed in one, the same way on every rank and after a stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.detection import detection_curve
from asrcompress.ops.finetune_config import FinetuneConfig
from asrcompress.ops.finetune_data import Cache, TrainingSet, read_training_set
from asrcompress.ops.finetune_job import FinetuneJob
from asrcompress.ops.load import build_model, open_source
from asrcompress.speech.audio import read_audio
from asrcompress.speech.augment import parse_augment
from asrcompress.training.batches import epoch_batches

KEYWORD_HZ, OTHERS_HZ = 500, (1500, 3000)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of the keyword, a low tone, and one each of two others; one is stored in 24 bits."""
    folder = tmp_path_factory.mktemp("tones")
    rows = ["path\tword"]
    for number, hertz in enumerate((KEYWORD_HZ, KEYWORD_HZ, *OTHERS_HZ)):
        seconds = np.arange(16_000 if number else 12_000) / 16_000
        path = folder / f"{number}.wav"
        soundfile.write(
            path, 0.3 * np.sin(2 * np.pi * hertz * seconds), 16_000, subtype="PCM_24" if number == 1 else "PCM_16"
        )
        rows.append(f"{path.name}\t{'yes' if hertz == KEYWORD_HZ else 'other'}")
    (folder / "clips.tsv").write_text("\n".join(rows) + "\n")
    return folder / "clips.tsv"


def read_set(model: Path, data: Path, augment: str = "", **options) -> TrainingSet:
    return read_training_set(open_source(model), data, augment=parse_augment(augment), **options)


def heard(features: torch.Tensor) -> set[int]:
    """The tones that are in a clip: each has a part of its energy."""
    power = features.exp().sum(dim=1)
    mel = [2595 * np.log10(1 + hertz / 700) for hertz in (KEYWORD_HZ, *OTHERS_HZ, 8000)]
    places = [round(place / mel[-1] * 41) - 1 for place in mel[:-1]]
    return {
        hertz
        for hertz, place in zip((KEYWORD_HZ, *OTHERS_HZ), places, strict=True)
        if power[place - 1 : place + 2].sum() > 0.02 * power.sum()
    }


def test_without_an_update_or_an_augmentation_features_are_as_recorded(tiny_kws: Path, tones: Path) -> None:
    source = open_source(tiny_kws)
    sets = [read_set(tiny_kws, tones, augment, keyword="yes") for augment in ("", "shift,gain,noise,babble")]
    for position, file in enumerate(sets[0].files):
        expected = source.family.features(source.spec, read_audio(file, sample_rate_hz=16_000))
        for speech in sets:
            assert torch.equal(speech.read(position), expected)
        assert torch.equal(sets[0].read(position, 3), expected)
        assert not torch.equal(sets[1].read(position, 3), expected)
    assert sets[0].lengths == sets[1].lengths and sets[0].describe() == sets[1].describe()


def test_a_change_depends_on_seed_position_and_update_and_on_nothing_that_was_read_before(
    tiny_kws: Path, tones: Path
) -> None:
    augment = "shift,gain,noise,babble,specaugment"
    one, other = (read_set(tiny_kws, tones, augment, keyword="yes", seed=4, cache_bytes=size) for size in (0, 1 << 30))
    places = [(position, update) for position in range(4) for update in range(5)]
    first = {place: one.read(*place) for place in places}
    for place in reversed(places):
        assert torch.equal(other.read(*place), first[place])
    assert len({features.numpy().tobytes() for features in first.values()}) == len(places)
    assert not torch.equal(read_set(tiny_kws, tones, augment, keyword="yes", seed=5).read(0, 0), first[0, 0])


def test_a_job_draws_by_its_seed(tiny_kws: Path, tones: Path) -> None:
    source = open_source(tiny_kws)
    changed = []
    for seed in (1, 2):
        job = FinetuneJob(tones, FinetuneConfig(augment="gain", seed=seed), dev=tones, keyword="yes")
        read = job.read(source).speech.train.read
        assert torch.equal(read(0, 5), read_set(tiny_kws, tones, "gain", keyword="yes", seed=seed).read(0, 5))
        changed.append(read(0, 5))
    assert not torch.equal(*changed)


def test_variants_come_again_whatever_is_kept(tiny_kws: Path, tones: Path) -> None:
    augment = "shift,gain,noise,babble,specaugment,variants=3"
    one, other = (read_set(tiny_kws, tones, augment, keyword="yes", seed=4, cache_bytes=size) for size in (0, 1 << 30))
    seen: list[set[bytes]] = [set() for _ in range(4)]
    for position, update in [(position, update) for update in range(30) for position in range(4)]:
        features = other.read(position, update)
        assert torch.equal(one.read(position, update), features)
        seen[position].add(features.numpy().tobytes())
    assert [len(each) for each in seen] == [3, 3, 3, 3]
    assert other.read(0, 0) is other.read(
        0, next(u for u in range(1, 30) if torch.equal(other.read(0, u), other.read(0, 0)))
    )


def test_babble_is_never_the_keyword_and_never_the_clip_itself(tiny_kws: Path, tones: Path) -> None:
    speech = read_set(tiny_kws, tones, "babble=-20", keyword="yes")
    for position, own in ((0, KEYWORD_HZ), (2, OTHERS_HZ[0]), (3, OTHERS_HZ[1])):
        assert heard(speech.read(position)) == {own}
        found = [speech.read(position, update) for update in range(40)]
        beside = [
            heard(features) - {own}
            for features in found
            if not torch.allclose(features, speech.read(position), rtol=0, atol=1e-4)
        ]
        assert all(len(others) == 1 for others in beside)
        assert set().union(*beside) == set(OTHERS_HZ) - {own}


def test_a_clip_moves_within_its_second(tiny_kws: Path, tones: Path) -> None:
    speech = read_set(tiny_kws, tones, "shift=200", keyword="yes")
    silence = float(np.log(1e-9))
    starts, ends = set(), set()
    for update in range(60):
        sound = np.flatnonzero((speech.read(0, update) > silence + 0.1).any(dim=0))
        starts.add(int(sound[0]))
        ends.add(int(sound[-1]))
        assert speech.read(0, update).shape == (40, 101)
    # Recorded from 0 to 0.75 s: it moves 0.2 s to the left, where it is cut, and to the right, where there is room.
    assert min(starts) == 0 and 15 < max(starts) <= 20
    assert 55 <= min(ends) < 60 and 90 < max(ends) <= 96


def test_masks_lie_along_the_frames_and_bins_of_clips(tiny_kws: Path, tones: Path) -> None:
    speech = read_set(tiny_kws, tones, "specaugment=0x30", keyword="yes")
    found = [speech.read(2, update) for update in range(20)]
    widths = [int((features == features[0]).all(dim=0).sum()) for features in found]  # frames whose bins are all alike
    assert max(widths) > 15
    assert not any((features == features[:, :1]).all(dim=1).any() for features in found)


def test_samples_of_16_bits_are_kept_as_such_and_others_as_they_are(tiny_kws: Path, tones: Path) -> None:
    speech = read_set(tiny_kws, tones, "gain", keyword="yes", cache_bytes=1 << 30)
    kept = speech.read._cache._kept
    assert [kept[position].dtype for position in range(4)] == [torch.int16, torch.float32, torch.int16, torch.int16]


def test_a_cache_keeps_what_fits_beside_what_it_has() -> None:
    cache, made = Cache(100), []
    for key, size_bytes in (("a", 60), ("b", 60), ("c", 40), ("a", 60), ("b", 60)):
        cache.get(
            key, lambda size_bytes=size_bytes: made.append(size_bytes) or torch.zeros(size_bytes, dtype=torch.uint8)
        )
    assert [key in cache for key in "abc"] == [True, False, True]
    assert made == [60, 60, 40, 60]


def test_speech_that_is_transcribed_is_changed_too(tiny_s2t: Path, tiny_speech: Path) -> None:
    speech = read_set(tiny_s2t, tiny_speech, "gain,noise,babble,specaugment=20x10")
    masked = 0
    for position in range(len(speech.files)):
        features = speech.read(position, 1)
        assert features.shape == speech.read(position).shape and torch.isfinite(features).all()
        # Masked frames are all of one value, the mean.
        masked += int((features == features[:, :1]).all(dim=1).sum())
    assert masked > 0


def test_samples_are_changed_for_models_that_hear_them(
    tiny_wav2vec_ctc: Path, tiny_speech: Path, tmp_path: Path
) -> None:
    data = tmp_path / "letters.tsv"
    table = tiny_speech.read_text()
    for text, letters in (("go left", "TEA"), ("stop", "AT"), ("right go", "TOE"), ("lefts", "TOT")):
        table = table.replace(f"\t{text}\t", f"\t{letters}\t")
    data.write_text(table)
    speech = read_set(tiny_wav2vec_ctc, data, "noise=0,babble=0", audio_root=tiny_speech.parent)
    changes = [float((speech.read(0, update) - speech.read(0)).abs().max()) for update in range(12)]
    assert changes.count(0.0) in range(1, 8) and max(changes) > 0.3


def refused(model: Path, data: Path, augment: str, **options) -> str:
    with pytest.raises(AsrCompressError) as caught:
        read_set(model, data, augment, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_makes_no_sense_for_a_family_is_refused_before_audio_is_read(
    tiny_wav2vec_ctc: Path, tiny_s2t: Path, tmp_path: Path
) -> None:
    absent = tmp_path / "absent.tsv"
    assert "hears samples and has no bins to mask; leave it out" in refused(tiny_wav2vec_ctc, absent, "specaugment")
    assert "--augment shift: would cut the ends off sentences" in refused(tiny_s2t, absent, "gain,shift")


def test_babble_needs_two_clips_without_the_keyword(tiny_kws: Path, tones: Path, tmp_path: Path) -> None:
    lines = tones.read_text().splitlines()
    data = tmp_path / "clips.tsv"
    data.write_text("\n".join(lines[:-1]) + "\n")
    assert "leave babble out" in refused(tiny_kws, data, "babble", keyword="yes", audio_root=tones.parent)


def test_a_share_of_clips_with_the_keyword(tiny_kws: Path, tiny_s2t: Path, tones: Path, tiny_speech: Path) -> None:
    speech = read_set(tiny_kws, tones, keyword="yes")
    assert speech.weights(None) is None
    many = replace(speech, labels=speech.labels * 25, lengths=speech.lengths * 25)
    batches = epoch_batches(many.lengths, 8, seed=1, epoch=0, weights=many.weights(0.3))
    assert sum(many.labels[position] for batch in batches for position in batch) == 30
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(AsrCompressError, match="use a number between 0 and 1"):
            speech.weights(share)
    with pytest.raises(AsrCompressError, match=r"--positive-share 0.5: clips.tsv has clips of one kind only"):
        replace(speech, labels=(False,) * 4).weights(0.5)
    unheard = tuple(0 if label else length for label, length in zip(speech.labels, speech.lengths, strict=True))
    with pytest.raises(AsrCompressError, match="has clips of one kind only"):  # the others are too short to be heard
        replace(speech, lengths=unheard).weights(0.5)
    with pytest.raises(AsrCompressError, match="is for keyword models"):
        read_set(tiny_s2t, tiny_speech).weights(0.5)


def test_real_clips_keep_what_is_said_in_them(kws_dir: Path) -> None:
    """A model that knows the keyword tells changed clips apart nearly as well; loud babble alone makes it much worse."""
    source = open_source(kws_dir / "crnn_happy.pt")
    module = build_model(source).module

    def area(augment: str) -> float:
        speech = read_training_set(
            source,
            kws_dir / "manifest.tsv",
            keyword="happy",
            split="val",
            limit=100,
            augment=parse_augment(augment),
        )
        scores = source.family.scores(module, [speech.read(position, 1) for position in range(100)])
        return detection_curve(scores, speech.labels).au_fa_fr

    assert area("") < 1e-3
    assert area("shift,gain,noise,babble,specaugment") < 1e-2  # chance is above 0.1
    assert area("babble=-20,noise=-20") > 1e-2


def test_quick_features_of_real_clips_are_those_of_the_family_up_to_rounding(kws_dir: Path) -> None:
    source = open_source(kws_dir / "crnn_happy.pt")
    speech = read_training_set(source, kws_dir / "manifest.tsv", keyword="happy", split="val", limit=40)
    for file in speech.files:
        audio = read_audio(file, sample_rate_hz=16_000)
        quick, exact = (make(source.spec, audio) for make in (source.family.quick_features, source.family.features))
        torch.testing.assert_close(quick, exact, rtol=0, atol=4e-6)
    silence = np.zeros(9000, np.float32)
    assert torch.equal(source.family.quick_features(source.spec, silence), source.family.features(source.spec, silence))
