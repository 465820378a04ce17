"""A fine-tuning as inline SVG: metric, losses and moved masks over the updates, one below the other.

Colours are CSS variables of the page that it is part of, which has STYLE. Series differ in more than colour, so that a print in
grey is read as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from asrcompress.report.svg import Box, linear_ticks, log_axis, tick_texts
from asrcompress.report.training_rows import Evaluation, Training, describe, metric_text

WIDTH, LEFT, RIGHT = 880, 84, 856
HEADING, GAP, FOOT = 24, 26, 44  # above a panel's frame, between panels, below the last
METRIC_HEIGHT, LOSS_HEIGHT, MASK_HEIGHT = 190, 150, 60
RADIUS, MANY_POINTS = 3.2, 80
CHARACTER_WIDTH = 6.9
NAMES = {
    "wer": "word error rate (wer) on the development set, %",
    "au_fa_fr": "area under FA/FR (au_fa_fr) on the development set",
}
STYLE = """
.training .series { stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; }
.training .dev-loss { stroke: var(--quiet); stroke-dasharray: 3 3; } .training .dot { fill: var(--accent); }
.training .bar { fill: var(--accent); fill-opacity: 0.45; stroke: var(--accent); stroke-width: 0.8; }
.training .at-best { stroke: var(--good); stroke-width: 1; stroke-dasharray: 2 4; }
svg.training .marker.best { fill: var(--good); } svg.training .marker.start { fill: var(--page); stroke: var(--quiet); stroke-width: 2; }
.training .head { font-weight: 600; }
@media print { figure { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Panel:
    """Where a value of one kind lies: `place` gives the y of it, `scale` is what ticks are shown in."""

    top: float
    bottom: float
    ticks: tuple[float, ...]
    place: Callable[[float], float]
    scale: float = 1.0


def training_plot(training: Training) -> str:
    """An <svg> element, masks only where some moved."""
    history = training.history
    last = max(history[-1].update, 1)

    def across(update: float) -> float:
        return LEFT + update / last * (RIGHT - LEFT)

    top = float(HEADING)
    scale = 100.0 if training.metric == "wer" else 1.0
    shown = [line.metric for line in (training.before, *history)]
    if training.metric == "au_fa_fr" and any(value > 0 for value in shown):  # over decades
        metric = _log_panel(shown, top, METRIC_HEIGHT)
    else:
        metric = _panel(shown, top, METRIC_HEIGHT, scale=scale, below=0.24)  # room for the name of the best
    losses = [loss for line in history for loss in (line.loss, line.training_loss) if loss is not None]
    loss = _panel(losses, metric.bottom + GAP + HEADING, LOSS_HEIGHT)
    panels = [metric, loss]
    parts = [
        *_frame(metric, NAMES[training.metric]),
        *_frame(loss, "loss, nats a token"),
        *_loss(history, loss, across),
        *_metric(training, metric, across),
    ]
    if training.masks_moved:
        shares = [line.mask_divergence or 0.0 for line in history]
        masks = _panel(shares, loss.bottom + GAP + HEADING, MASK_HEIGHT, scale=100.0, from_zero=True)
        panels.append(masks)
        parts += [
            *_frame(masks, "mask bits that changed since the evaluation before, %"),
            *_bars(history, masks, across),
        ]
    bottom = panels[-1].bottom
    height = bottom + FOOT
    place = across(training.best.update)
    lines = "".join(f"M{place:.1f} {panel.top}V{panel.bottom:.1f}" for panel in panels)
    parts = [f'<path class="at-best" d="{lines}"/>', *parts, *_updates(history, panels, across)]
    opening = f'<svg class="training" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(describe(training))}">'
    return "\n".join([opening, *parts, "</svg>"])


# ---------------------------------------------------------------- panels


def _panel(
    values: Sequence[float],
    top: float,
    height: float,
    *,
    scale: float = 1.0,
    below: float = 0.16,
    from_zero: bool = False,
) -> Panel:
    """Around the values, from 0 where that is not far below them, else from `below` of their spread below the least."""
    low, high = min(values) * scale, max(values) * scale
    margin = max(high - low, abs(high) / 8, 1e-6)
    start = low - below * margin
    if from_zero or 0 <= low < 0.35 * high or low >= 0 > start:
        start = 0.0
    end, bottom = high + 0.16 * margin, top + height
    ticks = linear_ticks(start, end)
    ticks = ticks[:: -(-len(ticks) // max(int(height / 24), 2))]
    return Panel(top, bottom, ticks, lambda value: bottom - (value * scale - start) / (end - start) * height, scale)


def _log_panel(values: Sequence[float], top: float, height: float) -> Panel:
    """On a logarithmic axis, with room below for the name of the best."""
    positive = [value for value in values if value > 0]
    below = max((max(positive) / min(positive)) ** 0.22, 1.3)
    axis = log_axis(values, top + height, top, below=below, above=1.2)
    return Panel(top, top + height, axis.ticks, axis.place)


def _frame(panel: Panel, heading: str) -> list[str]:
    parts = [f'<text class="head" x="{LEFT}" y="{panel.top - 9:.1f}">{escape(heading)}</text>']
    for tick, text in zip(panel.ticks, tick_texts(panel.ticks), strict=True):
        y = panel.place(tick / panel.scale)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    return [*parts, f'<path class="frame" d="M{LEFT} {panel.top}V{panel.bottom:.1f}H{RIGHT}"/>']


def _updates(history: Sequence[Evaluation], panels: Sequence[Panel], across: Callable[[float], float]) -> list[str]:
    """The axis that all panels share."""
    parts, bottom, last = [], panels[-1].bottom, history[-1]
    for tick in linear_ticks(0, max(last.update, 1)):
        if tick == int(tick):
            x = across(tick)
            parts += [f'<path class="frame" d="M{x:.1f} {panel.bottom:.1f}v4"/>' for panel in panels]
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{int(tick):,}</text>'
            )
    title = f"updates ({last.update:,} are {last.epoch:.3g} epochs)"
    middle = (LEFT + RIGHT) / 2
    parts.append(f'<text class="title" x="{middle}" y="{bottom + 38:.1f}" text-anchor="middle">{title}</text>')
    return parts


# ---------------------------------------------------------------- series


def _metric(training: Training, panel: Panel, across: Callable[[float], float]) -> list[str]:
    """The line, its points, the start as a dashed line, the best marked; both named beside them, where no line is if there is room."""
    name, before, best = training.metric, training.before, training.best
    start = panel.place(before.metric)
    places = [(across(line.update), panel.place(line.metric)) for line in training.history]
    parts = [f'<path class="reference" d="M{LEFT} {start:.1f}H{RIGHT}"/>', _line("series", places)]
    radius = RADIUS if len(training.history) <= MANY_POINTS else RADIUS / 2
    for line in training.history:
        x, y = across(line.update), panel.place(line.metric)
        title = f"<title>{escape(_said(name, line))}</title>"
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius}">{title}</circle>')
    if best.update:
        r = 5.5
        parts.append(
            f'<path class="marker start" d="M{LEFT} {start - r:.1f}l{r} {r}l-{r} {r}l-{r} -{r}z"><title>{training.start}</title></path>'
        )
    x, y = across(best.update), panel.place(best.metric)
    title = f"<title>{training.best_word}: {escape(_said(name, best))}</title>"
    parts.append(f'<circle class="marker best" cx="{x:.1f}" cy="{y:.1f}" r="6">{title}</circle>')
    after = f"after {best.update:,}" if best.update else training.start
    text = f"{training.best_word} {metric_text(name, best.metric)}, {after}"
    half = len(text) * CHARACTER_WIDTH / 2
    middle = min(max(x, LEFT + half + 4), RIGHT - half - 4)
    below, above = (middle, y + 21), (middle, y - 12)
    lines = [*_along(places), *_along([(LEFT, start), (RIGHT, start)])]
    choices = (below, above) if y + 26 < panel.bottom else (above,)
    named, box = _free_label(text, choices, "middle", lines, [])
    if best.update:
        text = f"{training.start} {metric_text(name, before.metric)}"
        right = [(RIGHT - 4.0, start - 6), (RIGHT - 4.0, start + 16)]
        left = [(LEFT + 14 + len(text) * CHARACTER_WIDTH, y) for _, y in right]
        around = (x - 6, y - 6), (x + 6, y + 6), (x - 6, y + 6), (x + 6, y - 6)
        parts.append(_free_label(text, [*right, *left], "end", [*lines, *around], [box])[0])
    return [*parts, named]


def _along(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points of a line, near enough to each other that none of its crossings with a label is missed."""
    return [
        (x + (to_x - x) * step / 200, y + (to_y - y) * step / 200)
        for (x, y), (to_x, to_y) in itertools.pairwise(places)
        for step in range(201)
    ]


def _free_label(
    text: str,
    places: Sequence[tuple[float, float]],
    anchor: str,
    points: Sequence[tuple[float, float]],
    boxes: Sequence[Box],
) -> tuple[str, Box]:
    """A label at the first of the places where fewest of the points and none of the boxes are, and its own box."""
    wide = len(text) * CHARACTER_WIDTH
    tried = []
    for number, (x, y) in enumerate(places):
        left = x - (wide / 2 if anchor == "middle" else wide)
        box = Box(left, y - 11, left + wide, y + 4)
        hit = sum(box.left < at < box.right and box.top < height < box.bottom for at, height in points)
        tried.append((sum(other.overlap(box) > 0 for other in boxes), hit, number, box))
    _, _, number, box = min(tried, key=lambda one: one[:3])
    return _label(text, *places[number], anchor), box


def _loss(history: Sequence[Evaluation], panel: Panel, across: Callable[[float], float]) -> list[str]:
    """The training loss in steps, each as long as what it is the mean of; the development set's loss dashed."""
    parts, path, is_open = [], "", False
    for before, line in itertools.pairwise(history):
        if line.training_loss is None:
            is_open = False
            continue
        y = panel.place(line.training_loss)
        path += f"V{y:.1f}" if is_open else f"M{across(before.update):.1f} {y:.1f}"
        path += f"H{across(line.update):.1f}"
        is_open = True
    if path:
        parts.append(f'<path class="series training-loss" d="{path}"/>')
    parts.append(_line("series dev-loss", [(across(line.update), panel.place(line.loss)) for line in history]))
    x, y = RIGHT - 330.0, panel.top - 13
    for style, words, wide in (("training-loss", "of training (mean)", 170), ("dev-loss", "of the development set", 0)):
        parts.append(f'<path class="series {style}" d="M{x} {y:.1f}h24"/>')
        parts.append(f'<text class="tick" x="{x + 30}" y="{y + 4:.1f}">{words}</text>')
        x += wide
    return parts


def _bars(history: Sequence[Evaluation], panel: Panel, across: Callable[[float], float]) -> list[str]:
    parts = []
    for before, line in itertools.pairwise(history):
        if line.mask_divergence:
            x, y = across(before.update), panel.place(line.mask_divergence)
            wide, high = max(across(line.update) - x, 1), panel.bottom - y
            title = f"<title>updates {before.update:,} to {line.update:,}: {line.mask_divergence * 100:.3g} %</title>"
            rect = f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}">{title}</rect>'
            parts.append(rect)
    return parts


def _said(name: str, line: Evaluation) -> str:
    trained = "" if line.training_loss is None else f", training loss {line.training_loss:.4g}"
    text = f"update {line.update:,} (epoch {line.epoch:.3g}): {name} {metric_text(name, line.metric)}"
    return f"{text}, loss {line.loss:.4g}{trained}"


def _line(style: str, places: Sequence[tuple[float, float]]) -> str:
    return f'<path class="{style}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in places)}"/>'


def _label(text: str, x: float, y: float, anchor: str) -> str:
    return f'<text class="label" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
