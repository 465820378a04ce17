"""eval: run a file on a test set and measure. Always from the file given, in a fresh build of the model.

Every utterance is scored. Audio that cannot be read is counted and stops the run before any of it
starts; audio shorter than one analysis window has no frames and is scored as an empty hypothesis.
Options are eval_config.py's, a baseline is baseline.py's; what is specific to transcripts and to keywords
is in score_asr.py and score_keywords.py.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.files import atomic_write, check_outputs, require_name, write_json
from asrcompress.kernels import library
from asrcompress.ops.baseline import read_baseline
from asrcompress.ops.eval_config import EvalConfig, task_options
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
    streaming: dict[str, Any] | None = None


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
    require_name(output)
    utterances_path = output.with_name(output.name.removesuffix(".json") + ".utterances.jsonl")
    baseline = read_baseline(config.baseline) if config.baseline else None
    inputs = [path, config.data, *([baseline.path, baseline.utterances_path] if baseline else [])]
    inputs += config.long_form.negatives if config.long_form else ()
    check_outputs([output, utterances_path], inputs, force=force)
    check_device(config.device)
    source = open_source(path, data_dir=data_dir, trust=trust)
    options = task_options(
        config,
        source.family.TASK,
        f"{path} is of the family {source.spec.family}",
        getattr(source.family, "UNUSED_OPTIONS", ()),
    )
    loaded = build_model(source, device=config.device, fused=True)
    content = source.content
    multiplies = content is not None and content.recipe.get("activations") == "int8" and not content.grids
    if multiplies:
        library()  # compiled, where it has to be, before any time is taken
    if source.family.TASK == "asr":
        from asrcompress.ops.score_asr import measure
    else:
        from asrcompress.ops.score_keywords import measure
    clock = Clock()
    measured = measure(loaded, config, options, baseline, clock, progress)
    long_form = None
    if config.long_form:
        from asrcompress.ops.long_form import measure_long_form

        long_form = measure_long_form(loaded, config, config.long_form, options, progress)
    model = describe(loaded.source, count_params(loaded.source))
    sizes = {key: model[key] for key in ("size_bytes", "model_size_bytes", "num_params")}
    factor = clock.compute_s / clock.audio_s if clock.audio_s else None
    lines = "".join(
        json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in measured.utterances
    ).encode()
    record = build(
        "eval",
        model=model,
        environment=environment(config.device, multiplied=multiplies),
        data=measured.data | {"duration_s": round(clock.audio_s, 6)},
        normalizer=measured.normalizer,
        decoding=measured.decoding,
        metrics=measured.metrics | sizes | {"real_time_factor": factor} | (long_form.metrics if long_form else {}),
        intervals=measured.intervals | (long_form.intervals if long_form else {}),
        paired=measured.paired,
        utterances_file=utterances_path.name,
        utterances_sha256=hashlib.sha256(lines).hexdigest(),
        curve=measured.curve,
        **({"streaming": measured.streaming} if measured.streaming else {}),
        **({"long_form": long_form.block} if long_form else {}),
    )
    with atomic_write(utterances_path, force=force) as handle:
        handle.write(lines)
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
    loaded: LoadedModel, files: Sequence[Path], batch_size: int, clock: Clock, durations: Sequence[float] | None = None
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Read audio and compute features, batch by batch: positions in `files`, and features on the model's device.

    With `durations`, batches of more than one are of files of similar length, so that little of them is padding; the
    longest come first, so that too little memory shows at once.
    """
    family, spec = loaded.source.family, loaded.source.spec
    order = list(range(len(files)))
    if durations is not None and batch_size > 1:
        order.sort(key=lambda position: -durations[position])
    for start in range(0, len(files), batch_size):
        positions = order[start : start + batch_size]
        batch = []
        for position in positions:
            audio = read_audio(files[position], sample_rate_hz=family.SAMPLE_RATE_HZ)
            clock.audio_s += len(audio) / family.SAMPLE_RATE_HZ
            begin = time.perf_counter()
            batch.append(family.features(spec, audio))
            clock.compute_s += time.perf_counter() - begin
        yield positions, batch
