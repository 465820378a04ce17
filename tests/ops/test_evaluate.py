"""eval: every utterance is scored, from the file, repeatably; what cannot be scored is counted and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile

from asrcompress.errors import AsrCompressError
from asrcompress.ops.evaluate import EvalConfig, evaluate
from asrcompress.ops.quantize import QuantizeConfig, quantize


@pytest.fixture(scope="module")
def artifact(tiny_s2t: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "q.safetensors"
    quantize(tiny_s2t, path, QuantizeConfig(num_bits=8, activations="int8"))
    return path


def config(data: Path, **options) -> EvalConfig:
    return EvalConfig(**({"data": data, "beam": 2, "max_len_b": 8, "num_resamples": 100} | options))


def utterances(output: Path) -> list[dict]:
    name = json.loads(output.read_text())["utterances_file"]
    return [json.loads(line) for line in (output.parent / name).read_text().splitlines()]


def test_counts_are_jiwers_over_all_utterances(artifact: Path, tiny_speech: Path, tmp_path: Path) -> None:
    output, record = evaluate(artifact, config(tiny_speech), output=tmp_path / "e.json")
    lines = utterances(output)
    assert [line["id"] for line in lines] == [f"utterance_{number}" for number in range(5)]
    assert record["metrics"]["num_utterances"] == record["metrics"]["num_scored"] == 5
    assert record["metrics"]["num_empty_references"] == 1
    spoken = [line for line in lines if line["reference"]]
    words = jiwer.process_words([line["reference"] for line in spoken], [line["hypothesis"] for line in spoken])
    inserted = sum(len(line["hypothesis"].split()) for line in lines if not line["reference"])
    total = words.substitutions + words.deletions + words.insertions + inserted
    assert record["metrics"]["wer"] == pytest.approx(total / 6)
    assert record["metrics"]["num_reference_words"] == 6


def test_the_same_file_gives_the_same_record(artifact: Path, tiny_speech: Path, tmp_path: Path) -> None:
    records = []
    for name in ("a", "b"):
        _, record = evaluate(artifact, config(tiny_speech), output=tmp_path / f"{name}.json")
        record["metrics"].pop("real_time_factor")
        records.append(
            {key: record[key] for key in ("model", "metrics", "intervals", "data", "decoding", "normalizer")}
        )
    assert records[0] == records[1]
    assert utterances(tmp_path / "a.json") == utterances(tmp_path / "b.json")


def test_result_does_not_depend_on_what_lies_beside_the_artifact(
    artifact: Path, tiny_speech: Path, tmp_path: Path
) -> None:
    """The file alone: no config.yaml, dictionary or checkpoint is near."""
    (tmp_path / "far").mkdir()
    shutil.copy(artifact, tmp_path / "far" / "m.safetensors")
    _, near = evaluate(artifact, config(tiny_speech), output=tmp_path / "near.json")
    _, far = evaluate(tmp_path / "far" / "m.safetensors", config(tiny_speech), output=tmp_path / "far.json")
    assert near["model"]["sha256"] == far["model"]["sha256"] and near["metrics"]["wer"] == far["metrics"]["wer"]


def test_audio_without_a_frame_is_scored_as_nothing_heard(artifact: Path, tiny_speech: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", np.zeros(200), 16_000)
    shutil.copy(tiny_speech.parent / "0.flac", tmp_path)
    (tmp_path / "list.txt").write_text("short.wav\tgo go\n0.flac\tgo left\n")
    output, record = evaluate(artifact, config(tmp_path / "list.txt"), output=tmp_path / "e.json")
    assert record["metrics"]["num_without_frames"] == 1 and record["metrics"]["num_scored"] == 2
    assert utterances(output)[0]["hypothesis"] == "" and record["metrics"]["deletions"] >= 2


def test_unreadable_audio_is_counted_before_anything_runs(artifact: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(8_000), 8_000)
    soundfile.write(tmp_path / "b.wav", np.zeros((16_000, 2)), 16_000)
    soundfile.write(tmp_path / "c.wav", np.zeros(16_000), 16_000)
    (tmp_path / "list.txt").write_text("a.wav\tgo\nb.wav\tgo\nc.wav\tgo\n")
    with pytest.raises(AsrCompressError, match=r"2 of 3 audio files cannot be scored.*a\.wav.*8000 Hz.*16000 Hz"):
        evaluate(artifact, config(tmp_path / "list.txt"), output=tmp_path / "e.json")
    assert not (tmp_path / "e.json").exists()


def test_a_paired_interval_holds_the_difference(
    tiny_s2t: Path, artifact: Path, tiny_speech: Path, tmp_path: Path
) -> None:
    _, before = evaluate(tiny_s2t, config(tiny_speech), output=tmp_path / "float.json")
    _, after = evaluate(artifact, config(tiny_speech, baseline=tmp_path / "float.json"), output=tmp_path / "int.json")
    paired = after["paired"]
    assert paired["baseline_sha256"] == before["model"]["sha256"]
    assert paired["delta"] == pytest.approx(after["metrics"]["wer"] - before["metrics"]["wer"])
    assert paired["low"] <= paired["delta"] <= paired["high"]


@pytest.mark.parametrize(
    ("options", "word"), [({"limit": 3}, "test set"), ({"beam": 1}, "decoding"), ({"normalizer": "none"}, "normaliser")]
)
def test_a_baseline_measured_otherwise_is_refused(
    artifact: Path, tiny_speech: Path, tmp_path: Path, options: dict, word: str
) -> None:
    evaluate(artifact, config(tiny_speech), output=tmp_path / "float.json")
    with pytest.raises(AsrCompressError, match=f"another {word}"):
        evaluate(
            artifact, config(tiny_speech, baseline=tmp_path / "float.json", **options), output=tmp_path / "int.json"
        )


def test_keywords(tiny_kws: Path, tiny_speech: Path, tmp_path: Path) -> None:
    rows = "".join(
        f"{tiny_speech.parent / f'{number}.flac'}\t{word}\n"
        for number, word in enumerate(["go", "no", "go", "stop", "no"])
    )
    (tmp_path / "clips.tsv").write_text("path\tword\n" + rows)
    output, record = evaluate(
        tiny_kws,
        EvalConfig(tmp_path / "clips.tsv", keyword="go", threshold=0.0, num_resamples=100),
        output=tmp_path / "e.json",
    )
    assert record["metrics"]["num_positives"] == 2 and record["metrics"]["num_scored"] == 5
    assert record["metrics"]["false_accepts"] == 3 and record["metrics"]["false_rejects"] == 0  # threshold 0 takes all
    assert 0 <= record["metrics"]["au_fa_fr"] <= 1
    assert [line["is_keyword"] for line in utterances(output)] == [True, False, True, False, False]


def test_an_existing_result_is_kept(artifact: Path, tiny_speech: Path, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text("mine")
    with pytest.raises(AsrCompressError, match="--force"):
        evaluate(artifact, config(tiny_speech), output=tmp_path / "e.json")
    assert (tmp_path / "e.json").read_text() == "mine"


def test_librispeech_tree_is_read_whole(digits_dir: Path, librispeech_dir: Path, tmp_path: Path) -> None:
    """The digits model understands none of it, but every utterance of the folder is counted."""
    _, record = evaluate(
        digits_dir / "checkpoint_best.pt",
        config(librispeech_dir / "test-other", limit=4, beam=1),
        output=tmp_path / "e.json",
    )
    assert record["metrics"]["num_scored"] == 4 and record["metrics"]["num_reference_words"] > 4


def test_int8_digits_on_a_part_of_the_set(digits_dir: Path, tmp_path: Path) -> None:
    """On the first 40 utterances the integer model makes about as many errors as the float one (full set: docs)."""
    quantize(digits_dir / "checkpoint_best.pt", tmp_path / "q.safetensors", QuantizeConfig(activations="int8"))
    errors = []
    for path in (digits_dir / "checkpoint_best.pt", tmp_path / "q.safetensors"):
        _, record = evaluate(
            path, EvalConfig(data=digits_dir / "test.tsv", limit=40, beam=1), output=tmp_path / f"{path.name}.eval.json"
        )
        metrics = record["metrics"]
        errors.append(metrics["substitutions"] + metrics["insertions"] + metrics["deletions"])
        assert metrics["wer"] < 0.10
    assert abs(errors[0] - errors[1]) <= 3


@pytest.mark.parametrize("role", ["model", "data", "baseline", "utterances"])
def test_an_input_is_never_overwritten(artifact: Path, tiny_speech: Path, tmp_path: Path, role: str) -> None:
    data = tmp_path / "list.txt"
    data.write_text(f"{tiny_speech.parent / '0.flac'}\tgo left\n")
    model = tmp_path / "m.safetensors"
    shutil.copy(artifact, model)
    baseline, _ = evaluate(model, config(data), output=tmp_path / "b.json")
    inputs = {"model": model, "data": data, "baseline": baseline, "utterances": tmp_path / "b.utterances.jsonl"}
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(AsrCompressError, match="is an input"):
        evaluate(model, config(data, baseline=baseline), output=inputs[role], force=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(("text", "limit"), [("...", None), ("?!", None), ("-\nb.wav\tgo", 1)])
def test_references_without_a_word_are_found_before_decoding(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, limit: int | None
) -> None:
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(16_000), 16_000)
    (tmp_path / "list.txt").write_text(f"a.wav\t{text}\n")
    monkeypatch.setattr("asrcompress.ops.score_asr.batches_of_features", None)  # nothing may be decoded
    with pytest.raises(AsrCompressError, match="has a word after the normaliser 'basic', so there is no WER"):
        evaluate(artifact, config(tmp_path / "list.txt", limit=limit), output=tmp_path / "e.json")
    assert not (tmp_path / "e.json").exists()


def test_batches_are_of_similar_lengths_and_change_nothing(artifact: Path, tiny_speech: Path, tmp_path: Path) -> None:
    from asrcompress.ops.evaluate import Clock, batches_of_features
    from asrcompress.ops.load import load_model

    files, durations = sorted(tiny_speech.parent.glob("*.flac")), [1.0, 3.0, 2.0, 5.0, 4.0]
    loaded = load_model(artifact)
    found = [positions for positions, _ in batches_of_features(loaded, files, 2, Clock(), durations)]
    assert found == [[3, 4], [1, 2], [0]]
    assert [p for p, _ in batches_of_features(loaded, files, 1, Clock(), durations)] == [[0], [1], [2], [3], [4]]
    lines = []
    for size in (1, 3):
        output, _ = evaluate(artifact, config(tiny_speech, batch_size=size), output=tmp_path / f"{size}.json")
        lines.append(utterances(output))
    assert lines[0] == lines[1]


def test_how_integers_were_multiplied_is_recorded(artifact: Path, tiny_speech: Path, tmp_path: Path) -> None:
    from asrcompress.kernels import state

    _, record = evaluate(artifact, config(tiny_speech), output=tmp_path / "e.json")
    assert record["environment"]["integer_kernels"] == state()
