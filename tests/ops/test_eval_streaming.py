"""eval --streaming: the scores of clips from streams, what is measured beside them, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.models import kws_stream
from asrcompress.ops.eval_config import EvalConfig
from asrcompress.ops.evaluate import evaluate
from asrcompress.ops.quantize import Calibrate, QuantizeConfig, quantize
from asrcompress.ops.stream_config import StreamConfig, parse_chunk_ms

Record = dict[str, Any]


@pytest.fixture
def config(samples_dir: Path) -> EvalConfig:
    return EvalConfig(data=samples_dir / "kws" / "manifest.tsv", keyword="computer", split="test", limit=20)


@pytest.fixture
def checkpoint(samples_dir: Path) -> Path:
    return samples_dir / "kws" / "crnn_computer.pt"


def run(path: Path, config: EvalConfig, output: Path) -> tuple[Record, list[float]]:
    """The sidecar and the scores."""
    _, record = evaluate(path, config, output=output, force=True)
    lines = output.with_name(record["utterances_file"]).read_text().splitlines()
    return record, [json.loads(line)["score"] for line in lines]


def test_scores_are_those_of_the_clips(checkpoint: Path, config: EvalConfig, tmp_path: Path, validator: Any) -> None:
    clips, scores = run(checkpoint, config, tmp_path / "clips.eval.json")
    assert "streaming" not in clips  # a sidecar of clips stays as it was
    streams = replace(config, stream=StreamConfig((10.0, 500.0)), baseline=tmp_path / "clips.eval.json")
    record, streamed = run(checkpoint, streams, tmp_path / "streams.eval.json")
    validator.validate(record)
    assert streamed == pytest.approx(scores, abs=1e-5)
    assert record["decoding"] == clips["decoding"] and abs(record["paired"]["delta"]) < 1e-9
    block = record["streaming"]
    assert block["num_steps"] == 20 * 11 and block["num_chunks"] > 20
    assert 0 <= block["max_difference"] <= 1e-5 and 0 <= block["max_clip_difference"] <= 1e-5
    assert block["num_different"] is None  # floats are no codes
    assert block["chunk_ms"] == [10.0, 500.0] and block["seed"] == 0
    assert 0 < block["latency_ms"]["median"] <= block["latency_ms"]["p95"] <= block["latency_ms"]["max"]
    assert block["real_time_factor"] == record["metrics"]["real_time_factor"] > 0 < block["cpu_real_time_factor"]
    assert record["metrics"]["stream_state_bytes"] == block["state_bytes"] > 0
    assert record["data"]["duration_s"] == clips["data"]["duration_s"]


def test_integers_are_exact_for_every_chunking(checkpoint: Path, config: EvalConfig, tmp_path: Path) -> None:
    small = tmp_path / "q.safetensors"
    quantize(
        checkpoint, small, QuantizeConfig(num_bits=4, level="integer-only"), calibrate=Calibrate(config.data, "dev")
    )
    config = replace(config, limit=6)
    _, scores = run(small, config, tmp_path / "clips.eval.json")
    record, streamed = run(small, replace(config, stream=StreamConfig((1.0, 300.0))), tmp_path / "e.json")
    assert streamed == scores
    block = record["streaming"]
    assert (block["num_different"], block["max_difference"], block["max_clip_difference"]) == (0, 0.0, 0.0)


def test_a_short_window_makes_other_scores_and_says_so(checkpoint: Path, config: EvalConfig, tmp_path: Path) -> None:
    _, scores = run(checkpoint, config, tmp_path / "clips.eval.json")
    short = replace(config, stream=StreamConfig(window_s=0.3))
    record, streamed = run(checkpoint, short, tmp_path / "e.json")
    assert max(abs(ours - theirs) for ours, theirs in zip(streamed, scores, strict=True)) > 0.01
    assert record["decoding"]["window_s"] == 0.3
    assert record["streaming"]["max_clip_difference"] is None and record["streaming"]["max_difference"] <= 1e-5
    with pytest.raises(AsrCompressError, match="measured with another decoding"):
        run(checkpoint, replace(short, baseline=tmp_path / "clips.eval.json"), tmp_path / "no.json")


def test_a_longer_window_is_the_whole_clip(checkpoint: Path, config: EvalConfig, tmp_path: Path) -> None:
    record, _ = run(checkpoint, replace(config, stream=StreamConfig(window_s=2.0)), tmp_path / "e.json")
    assert "window_s" not in record["decoding"] and record["streaming"]["max_clip_difference"] <= 1e-5


def test_a_stream_that_differs_is_measured_to(
    checkpoint: Path, config: EvalConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames that a stream loses show up in every figure."""
    feed = kws_stream.LogMelStream.feed
    monkeypatch.setattr(kws_stream.LogMelStream, "feed", lambda self, samples: feed(self, samples * 0.1))
    record, _ = run(checkpoint, replace(config, stream=StreamConfig()), tmp_path / "e.json")
    assert record["metrics"]["stream_max_difference"] > 0.01 < record["streaming"]["max_clip_difference"]


def test_random_lengths_follow_the_seed(checkpoint: Path, config: EvalConfig, tmp_path: Path) -> None:
    def chunks(seed: int) -> int:
        streams = replace(config, stream=StreamConfig((10.0, 300.0)), seed=seed, limit=6)
        return run(checkpoint, streams, tmp_path / "e.json")[0]["streaming"]["num_chunks"]

    assert chunks(1) == chunks(1) != chunks(2)


def test_what_means_nothing_is_refused(
    checkpoint: Path, config: EvalConfig, tiny_s2t: Path, tiny_speech: Path, tmp_path: Path
) -> None:
    with pytest.raises(AsrCompressError, match="--streaming: is for keyword models"):
        evaluate(tiny_s2t, EvalConfig(data=tiny_speech, stream=StreamConfig()), output=tmp_path / "e.json")
    with pytest.raises(AsrCompressError, match="--batch-size 2: a stream is heard alone"):
        replace(config, batch_size=2, stream=StreamConfig())
    with pytest.raises(AsrCompressError, match=r"a window of 0\.1 s: is out of range; use 0\.19 s"):
        evaluate(checkpoint, replace(config, stream=StreamConfig(window_s=0.1)), output=tmp_path / "e.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [("100", (100, 100)), ("10..500", (10, 500)), (" 12.5 ", (12.5, 12.5)), ("1..60000", (1, 60000))],
)
def test_lengths_are_read(text: str, expected: tuple[float, float]) -> None:
    assert parse_chunk_ms(text) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "10-500", "10..", "..10", "500..10", "0", "0.5", "-5", "60001", "nan", "1e3", "1..2..3"]
)
def test_lengths_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(AsrCompressError, match=r"^--chunk-ms .*: is (no length|out of range); use"):
        parse_chunk_ms(text)
