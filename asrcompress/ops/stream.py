"""eval --streaming: every clip played in pieces, its score the stream's last step.

Each clip is played as its score is defined, padded or cut to the clip's length, in pieces of the length asked for; every
step is held against the same definition computed at once (models/kws_stream.py, `offline`), and the last one against the
score of the clip. What is measured of a stream that runs for hours is long_form.py's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from asrcompress.models.kws_stream import KeywordStream, Step, offline, timing, window_steps
from asrcompress.ops.evaluate import Clock, Progress
from asrcompress.ops.load import LoadedModel
from asrcompress.ops.stream_config import StreamConfig
from asrcompress.speech.audio import read_audio


@dataclass(frozen=True)
class Streamed:
    """A score per clip, the sidecar's block `streaming`, and what of it stands among the metrics."""

    scores: list[float]
    block: dict[str, Any]
    metrics: dict[str, Any]


@dataclass
class Meter:
    """What playing costs.

    latencies_s: by the clock, of the calls that gave steps. compute_s, cpu_s: of all calls, by the clock and on a processor.
    state_bytes: the most that was held between two calls.
    """

    num_chunks: int = 0
    latencies_s: list[float] = field(default_factory=list)
    compute_s: float = 0.0
    cpu_s: float = 0.0
    state_bytes: int = 0


def hears_whole_clips(loaded: LoadedModel, config: StreamConfig) -> bool:
    """Whether a clip's last step has all of the clip in its window, so that its score is the clip's."""
    family, spec = loaded.source.family, loaded.source.spec
    return window_steps(spec, config.window_s) >= window_steps(spec, family.CLIP_SAMPLES / family.SAMPLE_RATE_HZ)


def stream_clips(
    loaded: LoadedModel, files: Sequence[Path], config: StreamConfig, seed: int, clock: Clock, progress: Progress
) -> Streamed:
    """Play every clip.

    Args:
        loaded: a keyword model, float or on integers.
        files: audio that has been checked.
        config: how to play.
        seed: of random lengths; clip n draws its own from (seed, n).
        clock: told the clips' audio, and the time that streams take.
        progress: told how many clips are done.
    """
    family, spec, module = loaded.source.family, loaded.source.spec, loaded.module
    stream, meter = family.stream(spec, module, config.window_s), Meter()
    sizes = config.chunk_samples(family.SAMPLE_RATE_HZ)
    on_integers = bool(loaded.source.content and loaded.source.content.grids)
    whole_clips = hears_whole_clips(loaded, config)
    scores: list[float] = []
    differences, clip_differences = [0.0], [0.0]
    num_steps = num_different = 0
    for position, file in enumerate(files):
        progress(position, len(files))
        audio = read_audio(file, sample_rate_hz=family.SAMPLE_RATE_HZ)
        clock.audio_s += len(audio) / family.SAMPLE_RATE_HZ
        clip = family.fit_clip(audio)
        if position == 0:  # tables are made and kernels chosen at the first call, which is nobody's latency
            _play(stream, [clip], Meter())
        steps = _play(stream, _chunks(clip, sizes, np.random.default_rng([seed, position])), meter)
        pairs = list(zip(steps, offline(spec, module, clip, config.window_s), strict=True))
        num_steps += len(pairs)
        num_different += sum(ours.logits != theirs.logits for ours, theirs in pairs)
        differences += [abs(ours.probability - theirs.probability) for ours, theirs in pairs]
        scores.append(steps[-1].probability)
        if whole_clips:
            (score,) = family.scores(module, [family.features(spec, audio).to(stream.device)])
            clip_differences.append(abs(scores[-1] - score))
    progress(len(files), len(files))
    clock.compute_s += meter.compute_s
    quantiles = np.quantile(meter.latencies_s, [0.5, 0.95, 1.0], method="higher") * 1000
    median, p95, longest = (float(ms) for ms in quantiles)
    block = {
        "chunk_ms": list(config.chunk_ms),
        "seed": seed if sizes[0] < sizes[1] else None,
        "window_s": config.window_s,
        "window_steps": stream.window_steps,
        **timing(spec),
        "num_chunks": meter.num_chunks,
        "num_steps": num_steps,
        "max_difference": max(differences),
        "num_different": num_different if on_integers else None,
        "max_clip_difference": max(clip_differences) if whole_clips else None,
        "latency_ms": {"median": median, "p95": p95, "max": longest},
        "real_time_factor": clock.compute_s / clock.audio_s,
        "cpu_real_time_factor": meter.cpu_s / clock.audio_s,
        "state_bytes": meter.state_bytes,
    }
    metrics = {
        "stream_max_difference": block["max_difference"],
        "stream_num_different": block["num_different"],
        "stream_latency_ms": p95,
        "stream_state_bytes": meter.state_bytes,
    }
    return Streamed(scores, block, metrics)


def _play(stream: KeywordStream, chunks: Iterable[np.ndarray], meter: Meter) -> list[Step]:
    """All steps of one recording."""
    steps: list[Step] = []
    for chunk in [*chunks, None]:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        new = stream.finish() if chunk is None else stream.feed(chunk)
        took_s = time.perf_counter() - begin
        meter.cpu_s += time.process_time() - begin_cpu
        meter.compute_s += took_s
        meter.latencies_s += [took_s] if new else []
        meter.num_chunks += chunk is not None
        meter.state_bytes = max(meter.state_bytes, stream.state_bytes)
        steps += new
    return steps


def _chunks(clip: np.ndarray, sizes: tuple[int, int], random: np.random.Generator) -> Iterator[np.ndarray]:
    start = 0
    while start < len(clip):
        size = int(random.integers(sizes[0], sizes[1], endpoint=True))
        yield clip[start : start + size]
        start += size
