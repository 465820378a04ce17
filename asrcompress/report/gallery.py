"""All pictures of a report, in the order of its page: quality against cost, running speech, trainings. Draws nothing itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

from asrcompress.report.picture import Picture
from asrcompress.report.rows import Report, spoken_text
from asrcompress.report.trace_plot import STYLE as TRACE_STYLE
from asrcompress.report.trace_plot import trace_plot
from asrcompress.report.trace_rows import read_trace
from asrcompress.report.tradeoff import TITLES, tradeoffs
from asrcompress.report.training_plot import STYLE as TRAINING_STYLE
from asrcompress.report.training_plot import training_plot
from asrcompress.report.training_rows import METRICS, Training, describe
from asrcompress.report.trainings_plot import STYLE as TRAININGS_STYLE
from asrcompress.report.trainings_plot import trainings_plot

STYLE = TRACE_STYLE + TRAINING_STYLE + TRAININGS_STYLE  # of all pictures, besides svg.STYLE
TRACE_CAPTION = (
    "Clips played one after the other; the shaded one is the keyword. A value stands until the next step's audio has been heard. "
    "Red is at or above the threshold: first as the model gives it, then with the moving average, and with the stream cleared after "
    "a detection; the thin line is the probability that the average is of."
)


def gallery(report: Report) -> list[Picture]:
    """What there is to draw; empty where no sidecar has a quality, a trace or a training."""
    return [*tradeoffs(report), *_traces(report), *_trainings(report)]


def svg_files(report: Report) -> dict[str, str]:
    """The text of each picture by the name of its file."""
    files: dict[str, str] = {}
    for picture in gallery(report):
        name, number = picture.name, 2
        while f"{name}.svg" in files:
            name, number = f"{picture.name}-{number}", number + 1
        files[f"{name}.svg"] = picture.file()
    return files


def _traces(report: Report) -> Iterator[Picture]:
    for row in report.rows:
        evaluation = row.measured.evaluation
        trace = read_trace(evaluation.record, evaluation.path) if evaluation else None
        if trace is not None:
            yield Picture(
                name=f"posterior-{_slug(row.label)}",
                title=f"Running speech: {row.label}",
                said=sentence(spoken_text(row)),
                caption=TRACE_CAPTION,
                svg=trace_plot(trace),
                style=TRACE_STYLE,
            )


def _trainings(report: Report) -> Iterator[Picture]:
    """One per trained model, which may be two rows where it was evaluated twice; before them all of a metric in one picture."""
    models: dict[str, tuple[str, Training]] = {}
    for row in report.rows:
        if row.training:
            sha256 = row.measured.sha256
            models[sha256] = (row.measured.file if sha256 in models else row.label, row.training)
    for metric in METRICS:
        alike = [(label, training) for label, training in models.values() if training.metric == metric]
        if len(alike) > 1:
            yield Picture(
                name=f"trainings-{metric}",
                title=f"{len(alike)} trainings, {TITLES[metric]}",
                caption="The marked point of each line is what its file holds.",
                svg=trainings_plot(alike),
                style=TRAININGS_STYLE,
            )
    for label, training in models.values():
        how = "Distillation" if training.is_distilled else "Fine-tuning"
        yield Picture(
            name=f"training-{_slug(label)}",
            title=f"{how}: {label}",
            said=sentence(describe(training)),
            caption=_training_caption(training),
            svg=training_plot(training),
            style=TRAINING_STYLE,
        )


def _training_caption(training: Training) -> str:
    start = "student before training" if training.is_distilled else "model as it was compressed, before training"
    caption = f"The dashed line is the {start}; the marked point is what the file holds. "
    if training.has_teacher:
        caption += (
            "The loss of training counts the distance from the teacher, too, so the two losses are not the same thing."
        )
    return caption


def sentence(text: str) -> str:
    """With a capital letter and a full stop; "" stays empty."""
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _slug(label: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label.replace(".safetensors", "")).strip("-.")[:80] or "model"
