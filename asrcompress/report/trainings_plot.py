"""Several trainings in one picture, as inline SVG: the metric on the development set and its loss over the epochs, a line each.

For students of one teacher, say. AU FA-FR is on a logarithmic axis. One training with all its parts is training_plot.py's work.
Lines differ in colour, dashes and the shape that marks the best evaluation. Colours are CSS variables of the page, which has STYLE.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape

from asrcompress.report.figures import short_names
from asrcompress.report.rows import printable
from asrcompress.report.svg import Axis, axis_below, linear_axis, log_axis, tick_texts
from asrcompress.report.training_plot import NAMES
from asrcompress.report.training_rows import Evaluation, Training, metric_text

WIDTH, LEFT, RIGHT = 880, 84, 856
HEADING, METRIC_HEIGHT, LOSS_HEIGHT, GAP, FOOT, KEY_LINE = 24, 240, 150, 26, 46, 18
NUM_COLOURS = 6
DASHES = ("", "7 3", "2 3", "9 3 2 3")
LONGEST_NAME = 46
STYLE = """
.trainings .series { stroke-width: 2; stroke-linejoin: round; } .trainings .head { font-weight: 600; }
.trainings .best { stroke: var(--page); stroke-width: 1.5; }
""" + "".join(
    f".trainings .s{i} {{ stroke: var(--series-{i}); }} .trainings .best.f{i} {{ fill: var(--series-{i}); }}\n"
    for i in range(1, NUM_COLOURS + 1)
)


def trainings_plot(trainings: Sequence[tuple[str, Training]]) -> str:
    """An <svg> element.

    Args:
        trainings: names and trainings of one metric, at least one.
    """
    metric = trainings[0][1].metric
    most = max(training.history[-1].epoch for _, training in trainings) or 1.0

    def across(epoch: float) -> float:
        return LEFT + epoch / most * (RIGHT - LEFT)

    top = float(HEADING + KEY_LINE * len(trainings) + 8)
    lower_top = top + METRIC_HEIGHT + GAP + HEADING
    scale = 100.0 if metric == "wer" else 1.0
    lines = [[line.metric * scale for line in training.history] for _, training in trainings]
    losses = [[line.loss for line in training.history] for _, training in trainings]
    metric_axis = _axis(list(itertools.chain(*lines)), top + METRIC_HEIGHT, top, logarithmic=metric == "au_fa_fr")
    loss_axis = _axis(list(itertools.chain(*losses)), lower_top + LOSS_HEIGHT, lower_top, logarithmic=False)
    parts = [
        *_frame(metric_axis, top, METRIC_HEIGHT, NAMES[metric]),
        *_frame(loss_axis, lower_top, LOSS_HEIGHT, "loss on the development set, nats a token"),
    ]
    names = short_names([printable(name).removesuffix(".safetensors") for name, _ in trainings], LONGEST_NAME)
    for number, (name, (_, training), metrics, loss) in enumerate(zip(names, trainings, lines, losses, strict=True)):
        places = [across(line.epoch) for line in training.history]
        parts += [
            _series(number, places, loss, loss_axis),
            _series(number, places, metrics, metric_axis),
            *_key(number, name, training),
        ]
    for number, (_, training) in enumerate(trainings):  # over all lines
        best = training.best
        at = metric_axis.place(best.metric * scale)
        parts.append(_best(number, across(best.epoch), at, _said(names[number], training, best)))
    height = lower_top + LOSS_HEIGHT + FOOT
    parts += axis_below("epochs", most, lower_top + LOSS_HEIGHT, across, left=LEFT, right=RIGHT)
    opening = (
        f'<svg class="trainings" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{len(trainings)} trainings">'
    )
    return "\n".join([opening, *parts, "</svg>"])


def _axis(values: Sequence[float], bottom: float, top: float, *, logarithmic: bool) -> Axis:
    if logarithmic and any(value > 0 for value in values):
        return log_axis(values, bottom, top, below=1.3, above=1.2)
    return linear_axis(values, bottom, top)


def _frame(axis: Axis, top: float, height: float, heading: str) -> list[str]:
    bottom = top + height
    parts = [f'<text class="head" x="{LEFT}" y="{top - 9:.1f}">{escape(heading)}</text>']
    for tick, text in zip(axis.ticks, tick_texts(axis.ticks), strict=True):
        y = axis.place(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    return [*parts, f'<path class="frame" d="M{LEFT} {top}V{bottom:.1f}H{RIGHT}"/>']


# ---------------------------------------------------------------- a training


def _style(number: int) -> str:
    dashes = DASHES[(number // NUM_COLOURS + number) % len(DASHES)]
    return f'class="series s{number % NUM_COLOURS + 1}"' + (f' stroke-dasharray="{dashes}"' if dashes else "")


def _series(number: int, places: Sequence[float], values: Sequence[float], axis: Axis) -> str:
    path = "L".join(f"{x:.1f} {axis.place(value):.1f}" for x, value in zip(places, values, strict=True))
    return f'<path {_style(number)} d="M{path}"/>'


def _key(number: int, name: str, training: Training) -> list[str]:
    y = HEADING - 6 + KEY_LINE * number
    best = training.best
    text = f"{name}: {training.best_word} {metric_text(training.metric, best.metric)} at epoch {best.epoch:.3g}"
    x = LEFT + 42
    return [
        f'<path {_style(number)} d="M{LEFT} {y}h30"/>',
        _best(number, LEFT + 15.0, float(y), ""),
        f'<text x="{x}" y="{y + 4}">{escape(text)}</text>',
    ]


def _best(number: int, x: float, y: float, said: str) -> str:
    """The best evaluation: a circle, a square, a diamond, a triangle, over again."""
    title = f"<title>{escape(said)}</title>" if said else ""
    shapes = (
        f"M{x - 5:.1f} {y:.1f}a5 5 0 1 0 10 0a5 5 0 1 0 -10 0z",
        f"M{x - 4.6:.1f} {y - 4.6:.1f}h9.2v9.2h-9.2z",
        f"M{x:.1f} {y - 6.2:.1f}l6.2 6.2l-6.2 6.2l-6.2 -6.2z",
        f"M{x:.1f} {y - 6:.1f}l6 10.4h-12z",
    )
    return f'<path class="best f{number % NUM_COLOURS + 1}" d="{shapes[number % len(shapes)]}">{title}</path>'


def _said(name: str, training: Training, line: Evaluation) -> str:
    text = metric_text(training.metric, line.metric)
    return f"{name}, update {line.update:,} (epoch {line.epoch:.3g}): {training.metric} {text}, loss {line.loss:.4g}"
