"""The plot of both fronts, as an SVG file that stands alone: error rate against size, of plans and of uniform files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise
from statistics import fmean

from asrcompress.report.svg import AREA, CHARACTER_WIDTH, HEIGHT, RADIUS, WIDTH, Box, linear_ticks, place_labels
from experiments.plans import AUTO, DENSE, OBJECTIVES, ONE_OF_FOUR, TWO_OF_FOUR, uniforms
from experiments.plans_results import Made, Plans
from experiments.plots import stand_alone
from experiments.results import Figures
from experiments.tables import percent

LEAST_WER, MOST_WER = 0.03, 0.075  # of the plot; what lies beyond is an arrow with its figure
SIZES = (5, 6, 7, 8, 10, 12, 15, 20, 25, 30)  # ticks, in per cent of the float model
APART = 10.0  # of markers, in SVG units: nearer ones are moved apart sideways
PLAN, LOSS = OBJECTIVES
COLOURS = {
    PLAN: "#2563eb",
    LOSS: "#0e7490",
    DENSE: "#b45309",
    TWO_OF_FOUR: "#15803d",
    ONE_OF_FOUR: "#a21caf",
    AUTO: "#5b6470",
}
LEGEND = {
    PLAN: "plans",
    LOSS: "plans, --objective loss",
    DENSE: "uniform, gptq_ls",
    TWO_OF_FOUR: "uniform, gptq_ls, 2:4",
    ONE_OF_FOUR: "uniform, gptq_ls, 1:4",
    AUTO: "uniform, auto",
}


@dataclass(frozen=True)
class Dot:
    """A file: its place on the page, what it is called there, and its family."""

    label: str
    family: str
    size_percent: float
    figures: Figures
    x: float = 0.0

    @property
    def is_beyond(self) -> bool:
        """Whether its WER is above the plot."""
        return self.figures.wer > MOST_WER

    @property
    def y(self) -> float:
        """Of its centre."""
        return AREA.top + 10 if self.is_beyond else place_wer(self.figures.wer)

    @property
    def text(self) -> str:
        """Its label, if it has one: with the figure where the plot does not show it."""
        return f"{self.label}: {percent(self.figures.wer)}" if self.is_beyond else self.label


def place_size(size_percent: float) -> float:
    """Where a size lies, on a logarithmic axis."""
    low, high = math.log(SIZES[0]), math.log(SIZES[-1])
    return AREA.left + (math.log(size_percent) - low) / (high - low) * (AREA.right - AREA.left)


def place_wer(wer: float) -> float:
    """Where an error rate lies."""
    share = (min(max(wer, LEAST_WER), MOST_WER) - LEAST_WER) / (MOST_WER - LEAST_WER)
    return AREA.bottom - share * (AREA.bottom - AREA.top)


def fronts_plot(plans: Plans) -> str:
    """WER, greedy, on the composed test set against size."""
    dots = apart(_dots(plans))
    own = plans.float_model["eval"]
    title = "size of the file, per cent of the float model's, logarithmic"
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="WER against size, plans and uniform files">']
    parts += [*_axes(title), *_float(own)]
    for family in OBJECTIVES:
        line = "L".join(f"{dot.x:.1f} {dot.y:.1f}" for dot in dots if dot.family == family)
        dashes = "; stroke-dasharray: 6 4" if family == LOSS else ""
        parts.append(f'<path d="M{line}" style="stroke: {COLOURS[family]}; stroke-width: 2; opacity: 0.55{dashes}"/>')
    parts += [_whisker(dot) for dot in dots if not dot.is_beyond]
    parts += [_marker(dot.family, dot.x, dot.y, beyond=dot.is_beyond) for dot in dots]
    return stand_alone("\n".join([*parts, *_labels(dots, own), *_legend(), "</svg>"]), HEIGHT)


def _dots(plans: Plans) -> list[Dot]:
    def dot(label: str, family: str, made: Made) -> Dot:
        return Dot(label, family, 100 * made.size_bytes / plans.float_size_bytes, made.test)

    found = [
        dot(made.label if family == PLAN else "", family, made) for family in OBJECTIVES for made in plans.plans(family)
    ]
    return found + [dot(each.label, each.family, plans.files[each.name]) for each in uniforms()]


def apart(dots: Sequence[Dot]) -> list[Dot]:
    """From the smallest, where they are drawn: at their sizes, those that would cover each other spread about the middle of them."""
    dots = sorted(dots, key=lambda dot: dot.size_percent)
    groups: list[list[float]] = []  # of neighbours at equal distances: where each would begin if it could
    for index, dot in enumerate(dots):
        groups.append([place_size(dot.size_percent) - APART * index])
        while len(groups) > 1 and fmean(groups[-2]) > fmean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    begins = [fmean(group) for group in groups for _ in group]
    return [replace(dot, x=begin + APART * index) for index, (dot, begin) in enumerate(zip(dots, begins, strict=True))]


def _axes(title: str) -> list[str]:
    parts = []
    for tick in linear_ticks(100 * LEAST_WER, 100 * MOST_WER):
        y = place_wer(tick / 100)
        parts.append(f'<path class="grid" d="M{AREA.left} {y:.1f}H{AREA.right}"/>')
        parts.append(f'<text class="tick" x="{AREA.left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for size in SIZES:
        x = place_size(size)
        parts.append(f'<path class="grid" d="M{x:.1f} {AREA.top}V{AREA.bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{AREA.bottom + 18}" text-anchor="middle">{size} %</text>')
    parts.append(f'<path class="frame" d="M{AREA.left} {AREA.top}V{AREA.bottom}H{AREA.right}"/>')
    middle_x, middle_y = (AREA.left + AREA.right) / 2, (AREA.top + AREA.bottom) / 2
    parts.append(f'<text class="title" x="{middle_x}" y="{HEIGHT - 14}" text-anchor="middle">{escape(title)}</text>')
    turn = f'transform="rotate(-90 20 {middle_y})"'
    parts.append(f'<text class="title" x="20" y="{middle_y}" text-anchor="middle" {turn}>WER, per cent (greedy)</text>')
    return parts


def _float(own: Figures) -> list[str]:
    """The float model's WER as a line across the plot, its interval as a band."""
    top, bottom = place_wer(own.high), place_wer(own.low)
    wide = AREA.right - AREA.left
    return [
        f'<rect class="band" x="{AREA.left}" y="{top:.1f}" width="{wide}" height="{bottom - top:.1f}"/>',
        f'<path class="reference" d="M{AREA.left} {place_wer(own.wer):.1f}H{AREA.right}"/>',
    ]


def _whisker(dot: Dot) -> str:
    low, high = place_wer(dot.figures.low), place_wer(dot.figures.high)
    ends = [end for end in (dot.figures.low, dot.figures.high) if LEAST_WER <= end <= MOST_WER]
    caps = "".join(f"M{dot.x - 4:.1f} {place_wer(end):.1f}h8" for end in ends)
    return f'<path class="whisker" style="stroke: {COLOURS[dot.family]}" d="M{dot.x:.1f} {low:.1f}V{high:.1f}{caps}"/>'


def _marker(family: str, x: float, y: float, *, beyond: bool = False) -> str:
    """Every family has a shape of its own, so that colours are not needed."""
    r = RADIUS - 0.5
    if beyond:  # an arrow up
        shape = f"M{x:.1f} {y - 8:.1f}l{r} {2 * r}h-{2 * r}z"
    elif family in OBJECTIVES:
        shape = f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 -{2 * r} 0z"
    elif family == TWO_OF_FOUR:
        shape = f"M{x:.1f} {y - r:.1f}l{r} {r}l-{r} {r}l-{r} -{r}z"
    elif family == ONE_OF_FOUR:
        shape = f"M{x:.1f} {y + r:.1f}l{r} -{2 * r}h-{2 * r}z"
    else:
        shape = f"M{x - r + 0.5:.1f} {y - r + 0.5:.1f}h{2 * r - 1}v{2 * r - 1}h-{2 * r - 1}z"
    hollow = family in (AUTO, LOSS)
    fill, stroke = ("#fff", COLOURS[family]) if hollow else (COLOURS[family], "#fff")
    return f'<path style="fill: {fill}; stroke: {stroke}; stroke-width: {2 if hollow else 1}" d="{shape}"/>'


def _labels(dots: Sequence[Dot], own: Figures) -> list[str]:
    """Beside the points, where they cover neither whiskers nor the float model's line, nor the line of the plans."""
    line = place_wer(own.wer)
    text = f"float, 100 %: {percent(own.wer)}"
    own_box = Box(AREA.left + 8, line - 19, AREA.left + 8 + CHARACTER_WIDTH * len(text), line - 4)
    axis = Box(AREA.left, AREA.bottom - 3, AREA.right, AREA.bottom + 3)
    obstacles = [Box(AREA.left, line - 1, AREA.right, line + 1), axis, own_box, _legend_box()]
    for dot in dots:
        if not dot.is_beyond:
            obstacles.append(Box(dot.x - 5, place_wer(dot.figures.high) - 2, dot.x + 5, place_wer(dot.figures.low) + 2))
    on_line = [dot for dot in dots if dot.family == PLAN]
    for one, other in pairwise(on_line):
        steps = max(1, int((other.x - one.x) / 5))
        for step in range(steps):
            x, y = (a + (b - a) * step / steps for a, b in ((one.x, other.x), (one.y, other.y)))
            obstacles.append(Box(x - 2, y - 2, x + 2, y + 2))
    boxes = place_labels([dot.text for dot in dots], [(dot.x, dot.y) for dot in dots], obstacles)
    parts = [f'<text class="label" x="{own_box.left:.1f}" y="{own_box.bottom - 4:.1f}">{escape(text)}</text>']
    for dot, box in zip(dots, boxes, strict=True):
        if not dot.label:
            continue
        near_x, near_y = min(max(dot.x, box.left), box.right), min(max(dot.y, box.top), box.bottom)
        if math.hypot(near_x - dot.x, near_y - dot.y) > 2.5 * RADIUS:
            parts.append(f'<path class="leader" d="M{dot.x:.1f} {dot.y:.1f}L{near_x:.1f} {near_y:.1f}"/>')
        parts.append(f'<text class="label" x="{box.left:.1f}" y="{box.bottom - 4:.1f}">{escape(dot.text)}</text>')
    return parts


def _legend_box() -> Box:
    return Box(AREA.right - 190, AREA.top + 6, AREA.right - 6, AREA.top + 14 + 19 * len(LEGEND))


def _legend() -> list[str]:
    box = _legend_box()
    parts = [
        f'<rect class="soft" x="{box.left}" y="{box.top}" width="{box.right - box.left}" height="{box.bottom - box.top}"/>'
    ]
    for index, (family, text) in enumerate(LEGEND.items()):
        y = box.top + 14 + 19 * index
        parts.append(_marker(family, box.left + 15, y))
        parts.append(f'<text x="{box.left + 28}" y="{y + 4}">{escape(text)}</text>')
    return parts
