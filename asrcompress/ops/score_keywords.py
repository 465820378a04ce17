"""Scoring clips with a keyword spotter: AU FA-FR, the curve, false accepts and rejects at a threshold."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asrcompress.metrics.detection import (
    at_threshold,
    bootstrap_au_fa_fr,
    detection_curve,
    paired_bootstrap_au_fa_fr,
    thin_curve,
)
from asrcompress.ops.baseline import Baseline, comparable_values
from asrcompress.ops.eval_config import EvalConfig
from asrcompress.ops.evaluate import Clock, Measured, Progress, batches_of_features, check_audio
from asrcompress.ops.load import LoadedModel
from asrcompress.ops.stream import Streamed, hears_whole_clips, stream_clips
from asrcompress.ops.subset import first_clips
from asrcompress.speech.keyword_datasets import KeywordDataset, read_keyword_clips


def read_clips(config: EvalConfig, options: dict[str, Any]) -> KeywordDataset:
    """The clips that are measured on: of the split, the first `limit`."""
    keyword, split = options["keyword"], options["split"]
    whole = read_keyword_clips(config.data, keyword=keyword, split=split, audio_root=config.audio_root)
    return first_clips(whole, config.limit)


def measure(
    loaded: LoadedModel,
    config: EvalConfig,
    options: dict[str, Any],
    baseline: Baseline | None,
    clock: Clock,
    progress: Progress,
) -> Measured:
    """Score every clip; the score is the probability of the keyword."""
    family = loaded.source.family
    split, threshold = options["split"], options["threshold"]
    dataset = read_clips(config, options)
    files = [clip.audio for clip in dataset.clips]
    decoding = {"method": "threshold", "keyword": dataset.keyword, "threshold": threshold}
    if config.stream and not hears_whole_clips(loaded, config.stream):
        decoding["window_s"] = config.stream.window_s  # which makes them other scores
    data = {
        "file": config.data.resolve().name,
        "sha256": dataset.sha256,
        "num_utterances": len(files),
        "split": split,
    }
    theirs = None
    if baseline:
        ids = [clip.id for clip in dataset.clips]
        theirs = comparable_values(baseline, "score", ids, data=data, decoding=decoding, normalizer=None)
    check_audio(config.data, files, family.SAMPLE_RATE_HZ)
    streamed: Streamed | None = None
    if config.stream:
        streamed = stream_clips(loaded, files, config.stream, config.seed, clock, progress)
        scores = streamed.scores
    else:
        scores = _score_clips(loaded, files, config, clock, progress)
    labels = [clip.is_keyword for clip in dataset.clips]
    curve, point = detection_curve(scores, labels), at_threshold(scores, labels, threshold)
    bootstrap: dict[str, Any] = {
        "num_resamples": config.num_resamples,
        "confidence": config.confidence,
        "seed": config.seed,
    }
    interval = bootstrap_au_fa_fr(scores, labels, **bootstrap)
    metrics = {
        "au_fa_fr": curve.au_fa_fr,
        "false_accept_rate": point.false_accept_rate,
        "false_reject_rate": point.false_reject_rate,
        "false_accepts": point.false_accepts,
        "false_rejects": point.false_rejects,
        "num_utterances": len(files),
        "num_scored": len(scores),
        "num_positives": point.num_positives,
    } | (streamed.metrics if streamed else {})
    paired = None
    if baseline and theirs:
        difference = asdict(paired_bootstrap_au_fa_fr(scores, theirs, labels, **bootstrap))
        paired = {"baseline_sha256": baseline.record["model"]["sha256"], "metric": "au_fa_fr"} | difference
    return Measured(
        metrics=metrics,
        decoding=decoding,
        intervals={"au_fa_fr": asdict(interval)},
        utterances=[
            {"id": clip.id, "word": clip.word, "is_keyword": clip.is_keyword, "score": score}
            for clip, score in zip(dataset.clips, scores, strict=True)
        ],
        data=data,
        curve=thin_curve(curve),
        paired=paired,
        streaming=streamed.block if streamed else None,
    )


def _score_clips(
    loaded: LoadedModel, files: Sequence[Path], config: EvalConfig, clock: Clock, progress: Progress
) -> list[float]:
    scores: list[float] = []
    for positions, batch in batches_of_features(loaded, files, config.batch_size, clock):
        progress(positions[0], len(files))
        begin = time.perf_counter()
        scores += loaded.source.family.scores(loaded.module, [features.to(config.device) for features in batch])
        clock.compute_s += time.perf_counter() - begin
    progress(len(files), len(files))
    return scores
