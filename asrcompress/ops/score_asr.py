"""Transcribing a test set and scoring it: corpus WER and CER, intervals, one record per utterance."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from asrcompress.metrics.bootstrap import bootstrap_interval, paired_bootstrap
from asrcompress.metrics.error_rate import ErrorRate, UtteranceErrors, score
from asrcompress.metrics.normalizers import get_normalizer
from asrcompress.ops.baseline import Baseline, comparable_values
from asrcompress.ops.eval_config import EvalConfig
from asrcompress.ops.evaluate import Clock, Measured, Progress, batches_of_features, check_audio
from asrcompress.ops.load import LoadedModel
from asrcompress.ops.subset import first_utterances, require_words
from asrcompress.speech.datasets import read_utterances


def measure(
    loaded: LoadedModel,
    config: EvalConfig,
    options: dict[str, Any],
    baseline: Baseline | None,
    clock: Clock,
    progress: Progress,
) -> Measured:
    """Decode every utterance with the family's search and score it."""
    family, spec = loaded.source.family, loaded.source.spec
    normalizer = get_normalizer(options["normalizer"])
    search = {name: options[name] for name in ("beam", "lenpen", "max_len_a", "max_len_b") if name in options}
    dataset = first_utterances(read_utterances(config.data, audio_root=config.audio_root), config.limit)
    require_words(dataset, normalizer, config.limit)
    files = [utterance.audio for utterance in dataset.utterances]
    method = family.search_method(options["beam"]) if hasattr(family, "search_method") else "beam_search"
    decoding = {"method": method} | search | {"batch_size": config.batch_size}
    data = {"file": config.data.resolve().name, "sha256": dataset.sha256, "num_utterances": len(files), "split": None}
    normalizer_record = {"name": normalizer.name, "sha256": normalizer.sha256}
    theirs = None
    if baseline:
        ids = [utterance.id for utterance in dataset.utterances]
        theirs = comparable_values(baseline, "errors", ids, data=data, decoding=decoding, normalizer=normalizer_record)
    durations = check_audio(config.data, files, family.SAMPLE_RATE_HZ)
    transcribe = family.transcriber(spec, loaded.module, **search)
    hypotheses = [""] * len(files)
    num_without_frames = 0
    num_heard = 0
    for positions, batch in batches_of_features(loaded, files, config.batch_size, clock, durations):
        progress(num_heard, len(files))
        num_heard += len(positions)
        heard = [(position, frames) for position, frames in zip(positions, batch, strict=True) if len(frames)]
        num_without_frames += len(positions) - len(heard)
        if heard:
            begin = time.perf_counter()
            texts = transcribe([frames for _, frames in heard])
            clock.compute_s += time.perf_counter() - begin
            for (position, _), text in zip(heard, texts, strict=True):
                hypotheses[position] = text
    progress(len(files), len(files))
    rates = score([utterance.reference for utterance in dataset.utterances], hypotheses, normalizer=normalizer)
    lines = [
        _line(utterance.id, errors, duration_s)
        for utterance, errors, duration_s in zip(dataset.utterances, rates.per_utterance, durations, strict=True)
    ]
    interval = bootstrap_interval(
        [errors.words.num_errors for errors in rates.per_utterance],
        [errors.words.num_reference for errors in rates.per_utterance],
        num_resamples=config.num_resamples, confidence=config.confidence, seed=config.seed,
    )  # fmt: skip
    return Measured(
        metrics=_counts(rates) | {"num_scored": len(hypotheses), "num_without_frames": num_without_frames},
        decoding=decoding,
        intervals={"wer": asdict(interval)},
        utterances=lines,
        data=data,
        normalizer=normalizer_record,
        paired=_pair(lines, theirs, baseline, config) if baseline and theirs else None,
    )


def _counts(rates: ErrorRate) -> dict[str, Any]:
    return {name: value for name, value in vars(rates).items() if name != "per_utterance"}


def _line(identifier: str, errors: UtteranceErrors, duration_s: float) -> dict[str, Any]:
    return {
        "id": identifier,
        "reference": errors.reference,
        "hypothesis": errors.hypothesis,
        "errors": errors.words.num_errors,
        "substitutions": errors.words.substitutions,
        "insertions": errors.words.insertions,
        "deletions": errors.words.deletions,
        "num_reference_words": errors.words.num_reference,
        "char_errors": errors.chars.num_errors,
        "num_reference_chars": errors.chars.num_reference,
        "duration_s": round(duration_s, 6),
    }


def _pair(lines: list[dict[str, Any]], theirs: list[float], baseline: Baseline, config: EvalConfig) -> dict[str, Any]:
    """The difference of corpus WERs over the same draws of utterances."""
    paired = paired_bootstrap(
        [line["errors"] for line in lines],
        theirs,
        [line["num_reference_words"] for line in lines],
        num_resamples=config.num_resamples, confidence=config.confidence, seed=config.seed,
    )  # fmt: skip
    return {"baseline_sha256": baseline.record["model"]["sha256"], "metric": "wer"} | asdict(paired)
