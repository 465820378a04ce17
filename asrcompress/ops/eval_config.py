"""Options of eval: ranges, and which of them mean something to which kind of model."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.ops.long_form_config import LongFormConfig
from asrcompress.ops.stream_config import StreamConfig

# Options that only one task has, with their defaults.
TASK_DEFAULTS: dict[str, dict[str, Any]] = {
    "asr": {"beam": 5, "lenpen": 1.0, "max_len_a": 0.0, "max_len_b": 200, "normalizer": "basic"},
    "keyword": {"keyword": None, "split": None, "threshold": 0.5},
}
TASK_NOUNS = {"asr": "models that transcribe", "keyword": "keyword models"}
DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,3})?")


@dataclass(frozen=True)
class EvalConfig:
    """Options of `eval`. Those of TASK_DEFAULTS are None where they are not given: see `task_options`."""

    data: Path
    audio_root: Path | None = None
    beam: int | None = None
    lenpen: float | None = None
    max_len_a: float | None = None
    max_len_b: int | None = None
    batch_size: int = 1
    normalizer: str | None = None
    keyword: str | None = None
    split: str | None = None
    threshold: float | None = None
    limit: int | None = None
    baseline: Path | None = None
    num_resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0
    device: str = "cpu"
    stream: StreamConfig | None = None
    long_form: LongFormConfig | None = None

    def __post_init__(self) -> None:
        for option, value, low, high in (
            ("--beam", self.beam, 1, 1000),
            ("--lenpen", self.lenpen, -10, 10),  # scores are divided by length**lenpen
            ("--max-len-a", self.max_len_a, 0, 100),
            ("--max-len-b", self.max_len_b, 1, 10**6),
            ("--batch-size", self.batch_size, 1, 10**6),
            ("--threshold", self.threshold, 0, 1),
            ("--limit", self.limit, 1, 2**63 - 1),
            ("--resamples", self.num_resamples, 100, 10**8),
            ("--seed", self.seed, 0, 2**63 - 1),
        ):
            if value is not None and not low <= value <= high:  # NaN is not in between
                raise AsrCompressError(f"{option} {value}: is out of range; use {low} to {high}")
        if self.stream and self.batch_size != 1:
            raise AsrCompressError(
                f"--batch-size {self.batch_size}: a stream is heard alone; leave it out with --streaming"
            )
        if not 0 < self.confidence < 1:
            raise AsrCompressError(f"--confidence {self.confidence}: is out of range; use a fraction between 0 and 1")
        if not DEVICE.fullmatch(self.device):
            raise AsrCompressError(f"--device {self.device}: use cpu, cuda or cuda:N")


def task_options(config: EvalConfig, task: str, model: str, without: Collection[str] = frozenset()) -> dict[str, Any]:
    """The options of this task, with defaults for those that are not given.

    Args:
        config: what was given.
        task: a family's TASK.
        model: what to call the model in an error.
        without: options of the task that mean nothing to this model; they are left out.

    Raises:
        AsrCompressError: an option of another task was given, or one that means nothing to this model.
    """
    for option, played in (("--streaming", config.stream), ("--long-form", config.long_form)):
        if played and task != "keyword":
            raise AsrCompressError(f"{option}: is for {TASK_NOUNS['keyword']}; {model}, so leave it out")
    for other, defaults in TASK_DEFAULTS.items():
        for name in defaults:
            value = getattr(config, name)
            if other != task and value is not None:
                option = f"--{name.replace('_', '-')} {value}"
                raise AsrCompressError(f"{option}: is for {TASK_NOUNS[other]}; {model}, so leave it out")
    for name in without:
        if (value := getattr(config, name)) is not None:
            option = f"--{name.replace('_', '-')} {value}"
            raise AsrCompressError(f"{option}: means nothing to this model; {model}, so leave it out")
    given = {name: getattr(config, name) for name in TASK_DEFAULTS[task] if name not in without}
    return {name: value if value is not None else TASK_DEFAULTS[task][name] for name, value in given.items()}
