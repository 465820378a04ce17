"""eval --long-form from files to sidecar: exact counts where they are known, the operating point, real recordings."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asrcompress.errors import AsrCompressError
from asrcompress.ops.eval_config import EvalConfig
from asrcompress.ops.evaluate import evaluate
from asrcompress.ops.long_form_config import LongFormConfig

RATE_HZ, STEP = 16_000, 1280
KEYWORDS, OTHERS = 4, 6


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A keyword set and a table of negative speech, both of noise: what is measured here is the measuring."""
    folder, random = tmp_path_factory.mktemp("speech"), np.random.default_rng(7)

    def write(name: str, num_samples: int) -> None:
        loudness = 0.05 + 0.2 * random.random()
        soundfile.write(folder / name, np.clip(loudness * random.standard_normal(num_samples), -1, 1), RATE_HZ)

    clips, rows = ["path\tword"], ["id\taudio\tn_frames\ttgt_text"]
    for number in range(KEYWORDS + OTHERS):
        write(f"clip{number}.wav", RATE_HZ - 100 * number)
        clips.append(f"clip{number}.wav\t{'go' if number < KEYWORDS else 'no'}")
    for number, text in enumerate(["we go", "left", "Go!", "gone"]):
        write(f"long{number}.wav", 3 * RATE_HZ + number)
        rows.append(f"u{number}\tlong{number}.wav\t1\t{text}")
    (folder / "clips.tsv").write_text("\n".join(clips) + "\n")
    (folder / "long.tsv").write_text("\n".join(rows) + "\n")
    return folder


def measure(model: Path, speech: Path, output: Path, **options: Any) -> dict[str, Any]:
    long_form = LongFormConfig((speech / "long.tsv",), **options)
    config = EvalConfig(speech / "clips.tsv", keyword="go", num_resamples=100, long_form=long_form)
    return evaluate(model, config, output=output, force=True)[1]


def measured(block: dict[str, Any]) -> dict[str, Any]:
    """Without what chose the threshold, and without times."""
    return {name: value for name, value in block.items() if name != "policy" and not name.endswith("real_time_factor")}


def test_a_threshold_that_everything_reaches(tiny_kws: Path, speech: Path, tmp_path: Path, validator: Any) -> None:
    record = measure(tiny_kws, speech, tmp_path / "e.json", threshold=0.0, smoothing_s=0.0, debounce_s=0.8)
    validator.validate(json.loads((tmp_path / "e.json").read_text()))
    block = record["long_form"]
    num_samples = 6 * RATE_HZ + 4  # u1 and u3: the others have the keyword
    num_steps = (num_samples // 160 + 1 - 20) // 8 + 1
    assert block["negatives"][0]["num_utterances"] == 2 and block["negatives"][0]["num_left_out"] == 2
    assert block["hours"] == pytest.approx(num_samples / RATE_HZ / 3600)
    # Every 11th step: the first that is more than 0.8 s after the one before.
    assert block["false_accepts"] == math.ceil(num_steps / 11) == len(block["false_accept_events"])
    assert record["metrics"]["false_accepts_per_hour"] == block["false_accepts"] / block["hours"]
    assert record["intervals"]["false_accepts_per_hour"] == block["interval"]
    assert record["metrics"]["detection_latency_ms"] == block["latency_from_end_ms"]["median"]
    assert block["policy"]["smoothing_steps"] == 1
    assert block["false_rejects"] == 0 and block["policy"]["chosen_by"] == "threshold"
    assert {event["id"] for event in block["false_accept_events"]} == {"u1", "u3"}
    assert (
        block["negatives"][0] | {"hours": block["hours"], "false_accepts": block["false_accepts"]}
        == block["negatives"][0]
    )
    duration_s = block["keywords"]["duration_s"]
    detected = KEYWORDS + block["repeated_detections"] + block["false_accepts_between_keywords"]
    frames = round(duration_s * RATE_HZ) // 160 + 1
    assert detected == math.ceil(((frames - 20) // 8 + 1) / 11)


def test_a_threshold_that_nothing_reaches(tiny_kws: Path, speech: Path, tmp_path: Path, validator: Any) -> None:
    record = measure(tiny_kws, speech, tmp_path / "e.json", threshold=1.0, window_s=1.5)
    validator.validate(json.loads((tmp_path / "e.json").read_text()))
    block = record["long_form"]
    assert (block["false_accepts"], block["false_rejects"], block["false_reject_rate"]) == (0, KEYWORDS, 1.0)
    assert block["interval"]["high"] == pytest.approx(3.689 / block["hours"], rel=1e-3)
    assert block["trace"] is None and record["metrics"]["detection_latency_ms"] is None
    assert block["with_reset"] == block["without_reset"]
    assert block["policy"]["smoothing_steps"] == 2  # 0.16 s, of steps of 0.08 s
    assert block["keywords"]["gap_s"] == 2.5  # nothing that is heard of one keyword is in another's window


def test_a_false_accept_is_of_the_set_that_its_audio_ends_in(tiny_kws: Path, speech: Path, tmp_path: Path) -> None:
    """The first set is as long as the first step; what it detects ends just there."""
    random, sets = np.random.default_rng(1), []
    for name, num_samples in (("first", 3240), ("second", 3 * RATE_HZ)):
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * random.standard_normal(num_samples), RATE_HZ)
        (tmp_path / f"{name}.txt").write_text(f"{name}.wav\n")
        sets.append(tmp_path / f"{name}.txt")
    long_form = LongFormConfig(tuple(sets), threshold=0.0, smoothing_s=0.0, debounce_s=60.0)
    config = EvalConfig(speech / "clips.tsv", keyword="go", num_resamples=100, long_form=long_form)
    block = evaluate(tiny_kws, config, output=tmp_path / "e.json")[1]["long_form"]
    assert [event["set"] for event in block["false_accept_events"]] == ["first.txt"]
    assert [each["false_accepts"] for each in block["negatives"]] == [1, 0]


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.65])
@pytest.mark.parametrize("reset", [True, False])
def test_the_largest_threshold_that_keeps_the_rate(
    tiny_kws: Path, speech: Path, tmp_path: Path, rate: float, reset: bool
) -> None:
    options: dict[str, Any] = {"reset": reset, "debounce_s": 0.0}
    block = measure(tiny_kws, speech, tmp_path / "e.json", false_reject_rate=rate, **options)["long_form"]
    assert block["false_rejects"] <= rate * KEYWORDS
    assert block["false_rejects"] == block["with_reset" if reset else "without_reset"]["false_rejects"]
    counts = {name: block[name]["false_accepts"] for name in ("with_reset", "without_reset")}
    assert len(set(counts.values())) == 2 or rate > 0.5, "resets changed nothing"
    events = len(block["false_accept_events"])
    assert block["false_accepts"] == counts["with_reset" if reset else "without_reset"] == events
    assert block["negatives"][0]["false_accepts"] == events
    assert block["policy"]["largest_false_reject_rate"] == rate
    threshold = block["policy"]["threshold"]
    same = measure(tiny_kws, speech, tmp_path / "e.json", threshold=threshold, **options)["long_form"]
    assert measured(same) == measured(block)
    if not reset:  # what a threshold between those of the keywords gives is then known
        above = measure(tiny_kws, speech, tmp_path / "e.json", threshold=float(np.nextafter(threshold, 2)), **options)
        assert above["long_form"]["false_rejects"] > rate * KEYWORDS


def test_a_rate_that_the_debounce_does_not_allow_is_an_error(tiny_kws: Path, speech: Path, tmp_path: Path) -> None:
    with pytest.raises(AsrCompressError, match="no threshold misses at most 0 of 4 keywords.*shorter --debounce-s"):
        measure(tiny_kws, speech, tmp_path / "e.json", false_reject_rate=0.0, debounce_s=60.0, reset=False)
    assert not list(tmp_path.iterdir())


def test_clips_are_measured_as_without_long_form(tiny_kws: Path, speech: Path, tmp_path: Path) -> None:
    record = measure(tiny_kws, speech, tmp_path / "with.json")
    config = EvalConfig(speech / "clips.tsv", keyword="go", num_resamples=100)
    _, plain = evaluate(tiny_kws, config, output=tmp_path / "without.json")
    assert "long_form" not in plain
    for part in ("data", "decoding", "curve", "utterances_sha256"):
        assert record[part] == plain[part]
    assert record["metrics"]["au_fa_fr"] == plain["metrics"]["au_fa_fr"]
    assert record["long_form"]["policy"]["largest_false_reject_rate"] == 0.05


def test_what_cannot_be_played_stops_the_run_and_leaves_nothing(tiny_kws: Path, speech: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "slow.wav", np.zeros(8000), 8000)
    (tmp_path / "list.txt").write_text("slow.wav\n")
    config = EvalConfig(speech / "clips.tsv", keyword="go", long_form=LongFormConfig((tmp_path / "list.txt",)))
    with pytest.raises(AsrCompressError, match="1 of 1 audio files cannot be scored, the first: .*8000 Hz"):
        evaluate(tiny_kws, config, output=tmp_path / "e.json")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["list.txt", "slow.wav"]


def test_a_model_that_transcribes_has_no_long_form(tiny_s2t: Path, tiny_speech: Path, tmp_path: Path) -> None:
    config = EvalConfig(tiny_speech, long_form=LongFormConfig((tiny_speech,)))
    with pytest.raises(AsrCompressError, match="--long-form: is for keyword models"):
        evaluate(tiny_s2t, config, output=tmp_path / "e.json")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 0.5, "false_reject_rate": 0.1}, "each chooses the operating point"),
        ({"threshold": 1.5}, "--threshold 1.5: is out of range"),
        ({"false_reject_rate": -0.1}, "--false-reject-rate -0.1: is out of range"),
        ({"smoothing_s": float("nan")}, "--smoothing-s nan: is out of range"),
        ({"debounce_s": 61}, "--debounce-s 61: is out of range"),
        ({"negatives": ()}, "names no speech"),
    ],
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(AsrCompressError, match=words):
        LongFormConfig(**({"negatives": (Path("x"),)} | options))


def test_a_reset_takes_the_plateau_away_on_real_recordings(
    kws_dir: Path, librispeech_dir: Path, tmp_path: Path
) -> None:
    rows = [line.split("\t") for line in (kws_dir / "manifest.tsv").read_text().splitlines()[1:]]
    rows = [row for row in rows if row[2] == "test"]
    chosen = [row for row in rows if row[1] == "happy"][::26] + [row for row in rows if row[1] != "happy"][::40]
    lines = ["path\tword", *(f"{kws_dir / path}\t{word}" for path, word, _ in chosen)]
    (tmp_path / "clips.tsv").write_text("\n".join(lines) + "\n")
    audio = sorted((librispeech_dir / "test-other").rglob("*.flac"))[::10]
    (tmp_path / "negatives.txt").write_text("\n".join(map(str, audio)) + "\n")
    speech = LongFormConfig((tmp_path / "negatives.txt",), false_reject_rate=0.05)
    config = EvalConfig(tmp_path / "clips.tsv", keyword="happy", num_resamples=100, long_form=speech)
    block = evaluate(kws_dir / "crnn_happy.pt", config, output=tmp_path / "e.json")[1]["long_form"]
    assert block["keywords"]["num_keywords"] == 20 and block["false_rejects"] <= 1
    assert block["negatives"][0]["num_utterances"] == 10 and not block["negatives"][0]["is_transcribed"]
    assert block["plateau"]["raw_s"]["median"] > 0.5  # as long as the keyword is in the attention's window
    assert block["plateau"]["reset_s"]["median"] < 0.17  # a step or two
    trace = block["trace"]
    assert max(trace["without_policy"]["probability"]) >= trace["threshold"]
    assert len(trace["with_policy"]["detections_s"]) == 1
    assert max(trace["with_policy"]["smoothed"]) >= trace["threshold"]
