"""What a sidecar says of a fine-tuning, checked, and in one sentence. Draws nothing; training_plot.py does."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress.errors import AsrCompressError

METRICS = ("wer", "au_fa_fr")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the development set.

    metric: WER or AU FA-FR, a fraction. loss, training_loss: nats a token; the latter is the mean over the updates since the
    evaluation before, None where there were none. mask_divergence: share of mask bits that changed since then, None without masks.
    """

    update: int
    epoch: float
    metric: float
    loss: float
    training_loss: float | None
    mask_divergence: float | None


@dataclass(frozen=True)
class Speech:
    """A data set of the training: its file's name, the split taken from it and how many utterances that is."""

    file: str
    split: str | None
    num_utterances: int

    def __str__(self) -> str:
        return f"{self.num_utterances:,} utterances of {self.file}" + (f" ({self.split})" if self.split else "")


@dataclass(frozen=True)
class Training:
    """A fine-tuning: `before` is the model it began with, `best` what was written, `written_metric` what the file gives.

    is_distilled: a student was trained from what it was made of; else a compressed model after one shot.
    select: what `best` was chosen by: metric, loss or last.
    """

    metric: str
    before: Evaluation
    best: Evaluation
    history: tuple[Evaluation, ...]
    num_updates: int
    written_metric: float
    train: Speech
    dev: Speech
    has_teacher: bool
    is_distilled: bool = False
    select: str = "metric"

    @property
    def start(self) -> str:
        """What `before` is, in a word."""
        return "before training" if self.is_distilled else "one-shot"

    @property
    def best_word(self) -> str:
        """What `best` is, in a word: by loss, or as the last, it need not have the best metric."""
        return "best" if self.select == "metric" else "kept"

    @property
    def masks_moved(self) -> bool:
        """Whether any mask bit changed while it was trained."""
        return any(line.mask_divergence for line in self.history)


def metric_text(name: str, value: float) -> str:
    """A WER as 6.35 %, an AU FA-FR as 0.0185."""
    return f"{value * 100:.2f} %" if name == "wer" else f"{value:.3g}"


def describe(training: Training) -> str:
    """In words: from where to where, after how many updates, on what, and whether the file keeps to it."""
    best, metric = training.best, training.metric
    start = metric_text(metric, training.before.metric)
    if best.update == 0:
        nothing = "no smaller loss" if training.select == "loss" else "no better"
        found = f"from {metric} {start} {training.start} to {nothing} after {_count(training.num_updates, 'update')}"
    else:
        total = f" of {training.num_updates:,}" if training.num_updates != best.update else ""
        end = metric_text(metric, best.metric)
        found = f"from {metric} {start} {training.start} to {end} after {_count(best.update, 'update')}{total}"
        found += {"loss": ", which has the smallest loss", "last": ", which is the last"}.get(training.select, "")
    return f"{found}; trained on {training.train}, judged on {training.dev}; the file {_kept(training)}"


def _kept(training: Training) -> str:
    if math.isclose(training.written_metric, training.best.metric, rel_tol=1e-9):
        return "gives the same"
    text, expected = (metric_text(training.metric, v) for v in (training.written_metric, training.best.metric))
    if text == expected:  # what differs is behind the digits shown
        return f"gives {training.metric} {training.written_metric:.9g} where training gave {training.best.metric:.9g}"
    return f"gives {text}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + "s" * (number != 1)


# ---------------------------------------------------------------- reading


def read_training(record: dict[str, Any], where: str | Path) -> Training | None:
    """The `training` block of a sidecar that `sidecar.check` has passed; None where it has none.

    Raises:
        AsrCompressError: the block is not as docs/sidecar.schema.json has it.
    """
    block = record.get("training")
    if block is None:
        return None
    try:
        return _training(block)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is not as it should be ({error})"
        raise AsrCompressError(f"{where}: training {what}; write the sidecar again") from None


def _training(block: dict[str, Any]) -> Training:
    if block["metric"] not in METRICS:
        raise ValueError(f"metric is not one of {', '.join(METRICS)}")
    history = tuple(_evaluation(line) for line in block["history"])
    if not history or any(a.update >= b.update for a, b in itertools.pairwise(history)):
        raise ValueError("history is not a list of evaluations, one after the other")
    best = _evaluation(block["best"])
    if best not in history:
        raise ValueError("best is not in history")
    return Training(
        metric=block["metric"],
        before=_evaluation(block["before"]),
        best=best,
        history=history,
        num_updates=_integer(block["num_updates"]),
        written_metric=_number(block["written"]["metric"]),
        train=_speech(block["train"]),
        dev=_speech(block["dev"]),
        has_teacher=block["teacher_sha256"] is not None,
        is_distilled=block.get("student") is not None,
        select=str(block["options"].get("select", "metric")),
    )


def _evaluation(line: dict[str, Any]) -> Evaluation:
    numbers = (_number(line[name]) for name in ("epoch", "metric", "loss"))
    optional = (line[name] for name in ("training_loss", "mask_divergence"))
    return Evaluation(
        _integer(line["update"]), *numbers, *(None if value is None else _number(value) for value in optional)
    )


def _speech(data: dict[str, Any]) -> Speech:
    split = data["split"]
    return Speech(str(data["file"]), None if split is None else str(split), _integer(data["num_utterances"]))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r:.40} is not a number")
    return float(value)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"{value!r:.40} is not a count")
    return value
