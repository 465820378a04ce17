"""eval --long-form: false accepts per hour of running speech, and what is missed at that operating point.

Speech without the keyword is played as one stream, and so are the keyword clips, glued between other clips. Everything is
measured twice at one threshold, without and with a reset after each detection. Sums up what metrics/events.py
finds; playing is listen.py's, gluing glue.py's, options are long_form_config.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.events import Detector
from asrcompress.metrics.normalizers import get_normalizer
from asrcompress.ops.eval_config import EvalConfig
from asrcompress.ops.evaluate import check_audio
from asrcompress.ops.glue import Placed, glue, samples_of
from asrcompress.ops.listen import Heard, Stopwatch, listen, listen_and_reset
from asrcompress.ops.load import LoadedModel
from asrcompress.ops.long_form_config import FALSE_REJECT_RATE, TOLERANCE_S, LongFormConfig
from asrcompress.ops.long_form_record import Keywords, Recording, curve, outcome, plateau, trace, where
from asrcompress.ops.score_keywords import read_clips
from asrcompress.speech.audio import read_audio
from asrcompress.speech.keyword_datasets import KeywordDataset
from asrcompress.speech.negatives import NegativeSpeech, read_negatives

Progress = Callable[[int, int], None]
NUM_LOWER = 10  # thresholds that are tried below all keywords


@dataclass(frozen=True)
class LongForm:
    """Parts of the sidecar: the block `long_form`, and what of it stands among metrics and intervals."""

    block: dict[str, Any]
    metrics: dict[str, Any]
    intervals: dict[str, Any]


def measure_long_form(
    loaded: LoadedModel,
    config: EvalConfig,
    policy: LongFormConfig,
    options: dict[str, Any],
    progress: Progress = lambda done, total: None,
) -> LongForm:
    """Play, find the operating point, count.

    Args:
        loaded: a keyword model.
        config: names the clips, the confidence of the interval of false accepts per hour, and the seed that other words
            between the keywords are drawn by.
        policy: long-form options.
        options: the keyword and the split.
        progress: told seconds of audio, of all that is to be played.

    Raises:
        AsrCompressError: speech that cannot be read, nothing without the keyword, or a broken model.
    """
    rig = _Rig(loaded, read_clips(config, options), policy, config.seed, progress)
    negative, positive = rig.play(rig.negative), rig.play(rig.keywords.recording)
    threshold, positive_reset = _operating_point(rig, positive)
    negative_plain, positive_plain = (heard.detect(threshold, rig.debounce_steps) for heard in (negative, positive))
    negative_reset = rig.play_and_reset(rig.negative, threshold)
    rig.done()
    hours = rig.negative.duration_s / 3600
    results = {
        False: outcome(negative_plain, positive_plain, rig.keywords, hours, config.confidence),
        True: outcome(negative_reset, positive_reset, rig.keywords, hours, config.confidence),
    }
    chosen = results[policy.reset]
    found = negative_reset if policy.reset else negative_plain
    block = {
        "policy": rig.policy(threshold),
        "negatives": _records(rig.sets, rig.negative, found),
        "hours": hours,
        "keywords": rig.keywords.record | {"seed": config.seed},
        **chosen,
        "without_reset": results[False],
        "with_reset": results[True],
        "plateau": plateau(positive_plain, positive_reset, rig.keywords, threshold, rig.step_s),
        "false_accept_events": where(found, rig.negative),
        "curve": curve(negative, positive, rig.keywords, hours, rig.debounce_steps),
        "trace": trace(positive_plain, positive_reset, rig.keywords, threshold),
        "real_time_factor": rig.watch.compute_s / rig.watch.audio_s,
        "cpu_real_time_factor": rig.watch.cpu_s / rig.watch.audio_s,
    }
    metrics = {
        "false_accepts_per_hour": chosen["false_accepts_per_hour"],
        "long_form_false_reject_rate": chosen["false_reject_rate"],
        "detection_latency_ms": chosen["latency_from_end_ms"]["median"] if chosen["latency_from_end_ms"] else None,
    }
    return LongForm(block, metrics, {"false_accepts_per_hour": chosen["interval"]})


def _operating_point(rig: _Rig, positive: Heard) -> tuple[float, Heard]:
    """The threshold, and the keywords' recording played with it and with resets.

    Thresholds to choose from are the highest moving average of each keyword without a reset, and some below all of them.
    The search begins where that alone misses as many keywords as may be missed. Debounce and resets shift it from there:
    up while what is measured with them keeps to the rate, else down until it does.
    """
    config, keywords = rig.config, rig.keywords
    if config.threshold is not None:
        return config.threshold, rig.play_and_reset(keywords.recording, config.threshold)
    rate = rig.largest_false_reject_rate
    peaks = np.sort(keywords.peaks(positive.times_s, positive.smoothed))
    allowed = int(rate * len(peaks) + 1e-9)
    candidates: list[float] = np.unique(np.append(peaks, np.linspace(0, peaks[0], NUM_LOWER))).tolist()
    played: dict[float, Heard] = {}

    def keeps(position: int) -> bool:
        threshold = candidates[position]
        if config.reset:
            heard = played[threshold] = rig.play_and_reset(keywords.recording, threshold)
        else:
            heard = positive.detect(threshold, rig.debounce_steps)
        return keywords.match(heard).num_rejected <= allowed

    position = candidates.index(peaks[min(allowed, len(peaks) - 1)])
    if keeps(position):
        while position + 1 < len(candidates) and keeps(position + 1):
            position += 1
    else:
        position = next((lower for lower in range(position - 1, -1, -1) if keeps(lower)), -1)
    if position < 0:
        raise AsrCompressError(
            f"--false-reject-rate {rate:g}: no threshold misses at most {allowed} of {len(peaks)} keywords, since a debounce "
            f"of {config.debounce_s:g} s after a false accept hides keywords; use a larger rate, or a shorter --debounce-s"
        )
    threshold = candidates[position]
    return threshold, played.get(threshold) or rig.play_and_reset(keywords.recording, threshold)


class _Rig:
    """Everything that is read, the sizes in steps, and how it is played."""

    def __init__(
        self, loaded: LoadedModel, dataset: KeywordDataset, config: LongFormConfig, seed: int, progress: Progress
    ) -> None:
        self.config, self._loaded, self._progress = config, loaded, progress
        family, spec = loaded.source.family, loaded.source.spec
        if not hasattr(family, "stream"):
            raise AsrCompressError(
                f"--long-form: {loaded.source.path} is of the family {spec.family}, which has no stream; leave it out"
            )
        self.rate_hz = int(family.SAMPLE_RATE_HZ)
        step = self.stream().step_samples  # a window that is out of range is found before anything is read
        self.sets = [read_negatives(path, _keyword_finder(dataset.keyword)) for path in config.negatives]
        self.negative = _recording_of(self.sets, self.rate_hz)
        self.keywords = _glued(dataset, config, seed, self.rate_hz)
        self.step_s = step / self.rate_hz
        self.smoothing_steps = max(1, round(config.smoothing_s * self.rate_hz / step))
        self.debounce_steps = round(config.debounce_s * self.rate_hz) // step + 1  # the first step that is later
        self.watch = Stopwatch()
        self._played_s = 0.0
        self._total_s = 2 * (self.negative.duration_s + self.keywords.recording.duration_s)

    @property
    def largest_false_reject_rate(self) -> float:
        """That the threshold has to keep to, where it was not given."""
        rate = self.config.false_reject_rate
        return FALSE_REJECT_RATE if rate is None else rate

    def stream(self) -> Any:
        """A stream that has heard nothing."""
        source = self._loaded.source
        return source.family.stream(source.spec, self._loaded.module, window_s=self.config.window_s)

    def play(self, recording: Recording) -> Heard:
        """Without resets and, so far, without detections."""
        samples = self._counted(recording)
        return listen(self.stream(), samples, self.rate_hz, self.smoothing_steps, self.watch)

    def play_and_reset(self, recording: Recording, threshold: float) -> Heard:
        """With a reset after each detection."""
        detector = Detector(threshold, self.smoothing_steps, self.debounce_steps)
        return listen_and_reset(self.stream(), self._counted(recording), self.rate_hz, detector)

    def done(self) -> None:
        """Nothing is played any more."""
        self._progress(int(self._total_s), int(self._total_s))

    def _counted(self, recording: Recording) -> Iterator[np.ndarray]:
        for samples in recording.read():
            self._progress(min(int(self._played_s), int(self._total_s) - 1), int(self._total_s))
            yield samples
            self._played_s += len(samples) / self.rate_hz

    def policy(self, threshold: float) -> dict[str, Any]:
        """What counts as a detection, and by what the threshold was chosen."""
        config = self.config
        return {
            "threshold": threshold,
            "chosen_by": "false_reject_rate" if config.threshold is None else "threshold",
            "largest_false_reject_rate": self.largest_false_reject_rate if config.threshold is None else None,
            "smoothing_s": config.smoothing_s,
            "smoothing_steps": self.smoothing_steps,
            "debounce_s": config.debounce_s,
            "reset": config.reset,
            "window_s": config.window_s,
            "step_s": self.step_s,
            "tolerance_s": TOLERANCE_S,
        }


def _keyword_finder(keyword: str) -> Callable[[str], bool]:
    """Whether a text has the keyword among its words, whatever its case and punctuation: `unhappy` has no `happy`."""
    normalizer = get_normalizer("basic")
    words = f" {normalizer(keyword)} "
    return lambda text: words in f" {normalizer(text)} "


def _recording_of(sets: list[NegativeSpeech], rate_hz: int) -> Recording:
    """All utterances, one after the other."""
    files: list[Path] = []
    names: list[tuple[str, str]] = []
    durations_s: list[float] = []
    for each in sets:
        audio = [utterance.audio for utterance in each.utterances]
        durations_s += check_audio(each.path, audio, rate_hz)
        files += audio
        names += [(each.path.resolve().name, utterance.id) for utterance in each.utterances]
    ends = np.cumsum([round(duration_s * rate_hz) for duration_s in durations_s])

    def read() -> Iterator[np.ndarray]:
        for file in files:
            yield read_audio(file, sample_rate_hz=rate_hz)

    return Recording(names, np.concatenate([[0], ends]) / rate_hz, read)


def _glued(dataset: KeywordDataset, config: LongFormConfig, seed: int, rate_hz: int) -> Keywords:
    """Keywords far enough from each other that none is in another's tolerance, debounce or window."""
    files = [clip.audio for clip in dataset.clips]
    lengths = [round(duration_s * rate_hz) for duration_s in check_audio(dataset.path, files, rate_hz)]
    gap_s = TOLERANCE_S + max(config.debounce_s, config.window_s)
    placed: list[Placed] = glue(dataset.clips, lengths, gap=round(gap_s * rate_hz), seed=seed)
    borders: NDArray[np.float64] = np.array([0, *(each.end for each in placed)]) / rate_hz
    names = [(each.clip.word, each.clip.id) for each in placed]
    recording = Recording(names, borders, lambda: samples_of(placed, rate_hz))
    return Keywords(recording, np.flatnonzero([each.clip.is_keyword for each in placed]), gap_s)


def _records(sets: list[NegativeSpeech], recording: Recording, heard: Heard) -> list[dict[str, Any]]:
    """Each set, with the false accepts whose audio ends in it."""
    borders_s = recording.borders_s[np.cumsum([0, *(len(each.utterances) for each in sets)])]
    counts = np.diff(np.searchsorted(heard.detections_s, borders_s, side="right"))
    return [
        {
            "file": each.path.resolve().name,
            "sha256": each.sha256,
            "num_utterances": len(each.utterances),
            "num_left_out": each.num_left_out,
            "is_transcribed": each.is_transcribed,
            "hours": float(hours),
            "false_accepts": int(count),
        }
        for each, hours, count in zip(sets, np.diff(borders_s) / 3600, counts, strict=True)
    ]
