"""The plot of the ablation, as an SVG file that stands alone: error rate against size, one-shot and fine-tuned, joined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from asrcompress.report.svg import (
    AREA,
    CHARACTER_WIDTH,
    HEIGHT,
    LINE_HEIGHT,
    RADIUS,
    WIDTH,
    Box,
    log_ticks,
    place_labels,
)
from experiments.ablation import CONFIGURATIONS
from experiments.ablation_results import Ablation
from experiments.ablation_section import USM_LITE_RELATIVE, USM_LITE_SIZE, both
from experiments.plots import stand_alone
from experiments.results import Figures
from experiments.tables import percent

SIZES = (4, 5, 6, 7, 8, 10, 12, 15, 20, 30, 40, 60)  # ticks, in per cent of the float model
BETWEEN = 15.0  # a size that no file is near to, on its right
COLOURS = {"bits": "#2563eb", "pattern": "#15803d", "both": "#b45309"}
LEGEND = {"bits": "bits alone", "pattern": "pattern alone", "both": "both"}


@dataclass(frozen=True)
class Pair:
    """A configuration: where it lies, one-shot and fine-tuned."""

    label: str
    kind: str
    size_percent: float
    before: Figures
    after: Figures


class Scale:
    """Logarithmic axes around what is shown."""

    def __init__(self, pairs: Sequence[Pair], own: Figures) -> None:
        rates = [figures.wer for pair in pairs for figures in (pair.before, pair.after)]
        rates += [end for pair in pairs for end in (pair.after.low, pair.after.high)] + [own.low, own.high]
        self.low, self.high = max(min(rates), 1e-3) / 1.3, max(*rates, 2e-3) * 1.15
        self.left = min(SIZES[0], *(pair.size_percent / 1.1 for pair in pairs))

    def x(self, size_percent: float) -> float:
        """Where a size lies."""
        low, high = math.log(self.left), math.log(SIZES[-1])
        return AREA.left + (math.log(size_percent) - low) / (high - low) * (AREA.right - AREA.left)

    def y(self, wer: float) -> float:
        """Where an error rate lies; at the edge where it is beyond."""
        low, high = math.log(self.low), math.log(self.high)
        share = (math.log(min(max(wer, self.low), self.high)) - low) / (high - low)
        return AREA.bottom - share * (AREA.bottom - AREA.top)


def ablation_plot(ablation: Ablation) -> str:
    """WER, greedy, on the composed test set against the size of the file."""
    pairs, own = pairs_of(ablation), ablation.float_model["eval"]
    scale = Scale(pairs, own)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="WER against size, one-shot and fine-tuned">']
    parts += [*_axes(scale), *_references(scale, own)]
    for pair in pairs:
        x, colour = scale.x(pair.size_percent), COLOURS[pair.kind]
        top, bottom = scale.y(pair.before.wer), scale.y(pair.after.wer)
        parts.append(
            f'<path style="stroke: {colour}; stroke-width: 1.6; opacity: 0.5" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>'
        )
        low, high = scale.y(pair.after.low), scale.y(pair.after.high)
        caps = "".join(f"M{x - 4:.1f} {y:.1f}h8" for y in (low, high))
        parts.append(f'<path class="whisker" style="stroke: {colour}" d="M{x:.1f} {low:.1f}V{high:.1f}{caps}"/>')
        parts.append(_marker(pair.kind, x, top, hollow=True))
        parts.append(_marker(pair.kind, x, bottom))
    return stand_alone("\n".join([*parts, *_labels(scale, pairs, own), *_legend(), "</svg>"]), HEIGHT)


def pairs_of(ablation: Ablation) -> list[Pair]:
    """All configurations."""
    found = []
    for each in CONFIGURATIONS:
        before, after = both(ablation, each)
        kind = "both" if {"bits", "pattern"} <= each.options.keys() else "bits" if "bits" in each.options else "pattern"
        size = 100 * after.size_bytes / ablation.model_size_bytes
        found.append(Pair(each.label, kind, size, before.test, after.test))
    return found


def _axes(scale: Scale) -> list[str]:
    parts = []
    for tick in log_ticks(100 * scale.low, 100 * scale.high):
        y = scale.y(tick / 100)
        parts.append(f'<path class="grid" d="M{AREA.left} {y:.1f}H{AREA.right}"/>')
        parts.append(f'<text class="tick" x="{AREA.left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for size in SIZES:
        x = scale.x(size)
        parts.append(f'<path class="grid" d="M{x:.1f} {AREA.top}V{AREA.bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{AREA.bottom + 18}" text-anchor="middle">{size} %</text>')
    parts.append(f'<path class="frame" d="M{AREA.left} {AREA.top}V{AREA.bottom}H{AREA.right}"/>')
    middle_x, middle_y = (AREA.left + AREA.right) / 2, (AREA.top + AREA.bottom) / 2
    title = "size of the file, per cent of the float model's, logarithmic"
    parts.append(f'<text class="title" x="{middle_x}" y="{HEIGHT - 14}" text-anchor="middle">{title}</text>')
    turn = f'transform="rotate(-90 20 {middle_y})"'
    text = "WER, per cent, logarithmic (greedy)"
    parts.append(f'<text class="title" x="20" y="{middle_y}" text-anchor="middle" {turn}>{text}</text>')
    return parts


def _references(scale: Scale, own: Figures) -> list[str]:
    """The float model's WER and its interval; USM-Lite's size and WER."""
    top, bottom, wide = scale.y(own.high), scale.y(own.low), AREA.right - AREA.left
    dashed = 'style="stroke: #a21caf; stroke-dasharray: 2 4"'
    limit, size = scale.y(own.wer * (1 + USM_LITE_RELATIVE)), scale.x(100 * USM_LITE_SIZE)
    return [
        f'<rect class="band" x="{AREA.left}" y="{top:.1f}" width="{wide}" height="{bottom - top:.1f}"/>',
        f'<path class="reference" d="M{AREA.left} {scale.y(own.wer):.1f}H{AREA.right}"/>',
        f'<path {dashed} d="M{AREA.left} {limit:.1f}H{AREA.right}"/>',
        f'<path {dashed} d="M{size:.1f} {AREA.top}V{AREA.bottom}"/>',
    ]


def _marker(kind: str, x: float, y: float, *, hollow: bool = False) -> str:
    """Every kind has a shape of its own, so that colours are not needed."""
    r = RADIUS - 0.5
    if kind == "bits":
        shape = f"M{x - r + 0.5:.1f} {y - r + 0.5:.1f}h{2 * r - 1}v{2 * r - 1}h-{2 * r - 1}z"
    elif kind == "pattern":
        shape = f"M{x:.1f} {y - r:.1f}l{r} {r}l-{r} {r}l-{r} -{r}z"
    else:
        shape = f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 -{2 * r} 0z"
    fill, stroke = ("#fff", COLOURS[kind]) if hollow else (COLOURS[kind], "#fff")
    return f'<path style="fill: {fill}; stroke: {stroke}; stroke-width: {2 if hollow else 1}" d="{shape}"/>'


def _labels(scale: Scale, pairs: Sequence[Pair], own: Figures) -> list[str]:
    """Beside the fine-tuned files, where they cover no line."""
    line = scale.y(own.wer)
    text = f"float, 100 %: {percent(own.wer)}"
    width = CHARACTER_WIDTH * len(text)
    left, top = scale.x(BETWEEN), scale.y(own.low) + 2  # below the band
    own_box = Box(left, top, left + width, top + LINE_HEIGHT)
    axis = Box(AREA.left, AREA.bottom - 3, AREA.right, AREA.bottom + 3)
    obstacles = [Box(AREA.left, line - 1, AREA.right, line + 1), axis, own_box, _legend_box()]
    for pair in pairs:
        x, ends = scale.x(pair.size_percent), [pair.before.wer, pair.after.low, pair.after.high]
        obstacles.append(Box(x - 6, scale.y(max(ends)) - 6, x + 6, scale.y(min(ends)) + 2))
    places = [(scale.x(pair.size_percent), scale.y(pair.after.wer)) for pair in pairs]
    parts = [f'<text class="label" x="{own_box.left:.1f}" y="{own_box.bottom - 4:.1f}">{escape(text)}</text>']
    boxes = place_labels([pair.label for pair in pairs], places, obstacles)
    for pair, (x, y), box in zip(pairs, places, boxes, strict=True):
        near_x, near_y = min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)
        if math.hypot(near_x - x, near_y - y) > 2.5 * RADIUS:
            parts.append(f'<path class="leader" d="M{x:.1f} {y:.1f}L{near_x:.1f} {near_y:.1f}"/>')
        parts.append(f'<text class="label" x="{box.left:.1f}" y="{box.bottom - 4:.1f}">{escape(pair.label)}</text>')
    return parts


def _legend_box() -> Box:
    """Where no file has a place: none is between int4 and int8 in size."""
    return Box(AREA.left + 290, AREA.top + 6, AREA.left + 530, AREA.top + 14 + 19 * len(LEGEND))


def _legend() -> list[str]:
    box = _legend_box()
    wide, high = box.right - box.left, box.bottom - box.top
    parts = [f'<rect class="soft" x="{box.left}" y="{box.top}" width="{wide}" height="{high}"/>']
    for index, (kind, text) in enumerate(LEGEND.items()):
        y = box.top + 14 + 19 * index
        parts += [_marker(kind, box.left + 15, y, hollow=True), _marker(kind, box.left + 32, y)]
        parts.append(
            f'<text x="{box.left + 46}" y="{y + 4}">{text}{": one-shot, fine-tuned" if not index else ""}</text>'
        )
    return parts
