"""eval: run a file on a test set and measure. Always from the file given, in a fresh build of the model.

Every utterance is scored. Audio that cannot be read is counted and stops the run before any of it
starts; audio shorter than one analysis window has no frames and is scored as an empty hypothesis.
What is specific to transcripts and to keywords is in score_asr.py and score_keywords.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.files import atomic_write, read_json, require_absent, write_json
from asrcompress.ops.load import (
    LoadedModel,
    build_model,
    count_params,
    describe,
    environment,
    open_source,
    require_model_file,
)
from asrcompress.sidecar import build, sidecar_path
from asrcompress.speech.audio import read_audio

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class EvalConfig:
    """Options of `eval`. Decoding options mean nothing to a keyword model; keyword and split are refused for ASR."""

    data: Path
    audio_root: Path | None = None
    beam: int = 5
    lenpen: float = 1.0
    max_len_a: float = 0.0
    max_len_b: int = 200
    batch_size: int = 1
    normalizer: str = "basic"
    keyword: str | None = None
    split: str | None = None
    threshold: float = 0.5
    limit: int | None = None
    baseline: Path | None = None
    num_resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for option, value, fits in (
            ("--beam", self.beam, self.beam >= 1),
            ("--batch-size", self.batch_size, self.batch_size >= 1),
            ("--limit", self.limit, self.limit is None or self.limit >= 1),
            ("--resamples", self.num_resamples, self.num_resamples >= 100),
            ("--confidence", self.confidence, 0 < self.confidence < 1),
            ("--threshold", self.threshold, 0 <= self.threshold <= 1),
        ):
            if not fits:
                raise AsrCompressError(f"{option} {value}: is out of range; see asrcompress eval --help")


@dataclass
class Clock:
    """Audio heard and time spent on features and model, for the real-time factor."""

    audio_s: float = 0.0
    compute_s: float = 0.0


@dataclass(frozen=True)
class Measured:
    """What a scorer gives back: parts of the sidecar and one record per utterance."""

    metrics: dict[str, Any]
    decoding: dict[str, Any]
    intervals: dict[str, Any]
    utterances: list[dict[str, Any]]
    data: dict[str, Any]
    normalizer: dict[str, str] | None = None
    curve: dict[str, list[float]] | None = None
    paired: dict[str, Any] | None = None


@dataclass(frozen=True)
class Baseline:
    """An earlier run's sidecar and its utterances, by id."""

    record: dict[str, Any]
    utterances: dict[str, dict[str, Any]] = field(default_factory=dict)


def evaluate(
    path: str | Path,
    config: EvalConfig,
    *,
    output: str | Path | None = None,
    data_dir: Path | None = None,
    trust: bool = False,
    force: bool = False,
    progress: Progress = lambda done, total: None,
) -> tuple[Path, dict[str, Any]]:
    """Measure `path` on `config.data`; write `<path>.eval.json` (or `output`) and the utterances beside it.

    Raises:
        AsrCompressError: unreadable model or data; nothing is written then.
    """
    path = Path(path)
    require_model_file(path)
    if not config.data.exists():
        raise AsrCompressError(f"{config.data}: no such file or folder; --data names the test set")
    output = Path(output) if output else sidecar_path(path, "eval")
    require_absent(output, force=force)
    utterances_path = output.with_name(output.name.removesuffix(".json") + ".utterances.jsonl")
    require_absent(utterances_path, force=force)
    baseline = read_baseline(config.baseline) if config.baseline else None
    check_device(config.device)
    loaded = build_model(open_source(path, data_dir=data_dir, trust=trust), device=config.device)
    if loaded.source.family.TASK == "asr":
        for option, value in (("--keyword", config.keyword), ("--split", config.split)):
            if value is not None:
                raise AsrCompressError(
                    f"{option} {value}: is for keyword models, and {path} is a {loaded.source.spec.family}"
                )
        from asrcompress.ops.score_asr import measure
    else:
        from asrcompress.ops.score_keywords import measure
    clock = Clock()
    measured = measure(loaded, config, baseline, clock, progress)
    model = describe(loaded.source, count_params(loaded.source))
    sizes = {key: model[key] for key in ("size_bytes", "model_size_bytes", "num_params")}
    factor = clock.compute_s / clock.audio_s if clock.audio_s else None
    record = build(
        "eval",
        model=model,
        environment=environment(config.device),
        data=measured.data | {"duration_s": round(clock.audio_s, 6)},
        normalizer=measured.normalizer,
        decoding=measured.decoding,
        metrics=measured.metrics | sizes | {"real_time_factor": factor},
        intervals=measured.intervals,
        paired=measured.paired,
        utterances_file=utterances_path.name,
        curve=measured.curve,
    )
    lines = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in measured.utterances)
    with atomic_write(utterances_path, force=force) as handle:
        handle.write(lines.encode())
    write_json(output, record, force=force)
    return output, record


def check_device(device: str) -> None:
    """Raise when torch has no such device here."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise AsrCompressError(f"--device {device}: {str(error).splitlines()[0]}; use cpu") from error


def check_audio(data: Path, files: Sequence[Path], sample_rate_hz: int) -> list[float]:
    """Decode every file once, before any scoring: durations in seconds, or one error that counts the bad ones."""
    durations, errors = [], []
    for file in files:
        try:
            durations.append(len(read_audio(file, sample_rate_hz=sample_rate_hz)) / sample_rate_hz)
        except AsrCompressError as error:
            errors.append(str(error))
    if errors:
        raise AsrCompressError(
            f"{data}: {len(errors)} of {len(files)} audio files cannot be scored, the first: {errors[0]}"
        )
    return durations


def batches_of_features(
    loaded: LoadedModel, files: Sequence[Path], batch_size: int, clock: Clock
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Read audio and compute features, batch by batch: positions in `files`, and features on the model's device."""
    family, spec = loaded.source.family, loaded.source.spec
    for start in range(0, len(files), batch_size):
        positions = list(range(start, min(start + batch_size, len(files))))
        batch = []
        for position in positions:
            audio = read_audio(files[position], sample_rate_hz=family.SAMPLE_RATE_HZ)
            clock.audio_s += len(audio) / family.SAMPLE_RATE_HZ
            begin = time.perf_counter()
            batch.append(family.features(spec, audio))
            clock.compute_s += time.perf_counter() - begin
        yield positions, batch


def read_baseline(path: Path) -> Baseline:
    """An eval sidecar and the utterances file it names."""
    record = read_json(path)
    name = record.get("utterances_file")
    if record.get("kind") != "eval" or not isinstance(name, str):
        raise AsrCompressError(
            f"{path}: is not a sidecar of asrcompress eval; --baseline needs one, with its utterances file"
        )
    file = path.with_name(name)
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        utterances = {str(line["id"]): line for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        cause = getattr(error, "strerror", None) or error
        raise AsrCompressError(
            f"{file}: the utterances of the baseline {path.name} cannot be read ({cause}); put the file that eval wrote "
            "with it beside it, or evaluate the baseline's model again"
        ) from error
    return Baseline(record, utterances)


def check_comparable(
    baseline: Baseline, config: EvalConfig, data: dict[str, Any], decoding: dict[str, Any], normalizer: Any
) -> None:
    """Raise when the baseline was measured on another test set, with another normaliser or decoded differently."""
    there = baseline.record.get("data") or {}
    if there.get("sha256") != data["sha256"]:
        raise AsrCompressError(
            f"{config.baseline}: was measured on another test set: {_set(there)} there, {_set(data)} here; "
            "evaluate both on the same set, with the same --limit and --split"
        )
    for what, ours, theirs in (
        ("normaliser", normalizer, baseline.record.get("normalizer")),
        ("decoding", decoding, baseline.record.get("decoding")),
    ):
        if ours != theirs:
            raise AsrCompressError(
                f"{config.baseline}: was measured with another {what}: {theirs} there, {ours} here; evaluate both alike"
            )


def _set(data: dict[str, Any]) -> str:
    return f"{data.get('file')} with {data.get('num_utterances')} utterances (sha256 {str(data.get('sha256'))[:8]})"
