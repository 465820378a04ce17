"""The plots of the page, as SVG files that stand alone: error rate against size, and what each kind costs alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

from asrcompress.report.svg import AREA, WIDTH, Point, linear_ticks, plot
from experiments.plan import KINDS, LEVELS, kind_name
from experiments.results import Figures, Results
from experiments.tables import points

MOST_WER = 0.09  # the plots end here; what lies beyond is in the tables
MOST_POINTS = 12.0
COLOURS = {"stored": "#2563eb", "computed": "#b45309", "integer-only": "#15803d", "baseline": "#5b6470"}
STYLE = """
text { font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1b1f24; }
.tick { fill: #5b6470; } .title { font-size: 13px; fill: #5b6470; } .row { font-size: 12.5px; }
.label { paint-order: stroke; stroke: #fff; stroke-width: 4px; stroke-linejoin: round; }
path { fill: none; } .grid { stroke: #d9dee4; stroke-width: 0.7; } .frame { stroke: #5b6470; } .zero { stroke: #5b6470; }
.leader { stroke: #5b6470; stroke-width: 0.8; } .band { fill: #5b6470; opacity: 0.13; }
.reference { stroke: #5b6470; stroke-dasharray: 5 4; } .marker { stroke: #fff; stroke-width: 1; fill-opacity: 0.75; }
.whisker { stroke-width: 1.6; opacity: 0.75; } .soft { fill: #f4f6f8; }
.worse { fill: #c81e1e; stroke: #c81e1e; } .same { fill: #5b6470; stroke: #5b6470; } .better { fill: #15803d; stroke: #15803d; }
""" + "\n".join(f".marker.{name} {{ fill: {c}; }} .whisker.{name} {{ stroke: {c}; }}" for name, c in COLOURS.items())


def stand_alone(svg: str, height: int, extra: str = "") -> str:
    """An svg element of WIDTH x height made to stand alone, on white."""
    first, rest = svg.split("\n", 1)
    first = first.replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" ', 1)
    white = f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
    return f"{first}\n<style>{STYLE}</style>\n{white}\n{rest.removesuffix('</svg>')}{extra}</svg>\n"


def sizes_plot(results: Results, labelled: dict[str, str]) -> str:
    """WER (greedy) against size below MOST_WER, without the third part; what is in `labelled` (name -> text) with its interval."""
    own = results.float_model["eval"]
    marked = [Point("float", results.float_size_bytes, 100 * own.wer, 100 * own.low, 100 * own.high, "baseline")]
    for run in sorted(results.runs.values(), key=lambda run: run.name in labelled):
        figures, name = run.test, labelled.get(run.name, "")
        if figures.wer < MOST_WER and not run.name.startswith("kinds-"):
            ends = (100 * figures.low, 100 * figures.high) if name else (None, None)
            marked.append(Point(name, run.size_bytes, 100 * figures.wer, *ends, run.level.replace("partial", "stored")))
    svg = plot(marked, "size of the file (float: of the model alone)", "WER, per cent (greedy)")
    legend = []
    for index, level in enumerate(LEVELS):
        left, top = AREA.right - 330 + 105 * index, AREA.top + 6
        legend.append(f'<circle class="marker {level}" cx="{left}" cy="{top}" r="6"/>')
        legend.append(f'<text x="{left + 11}" y="{top + 4}">{level}</text>')
    return stand_alone(svg, 460, "\n".join(legend))


def kinds_plot(results: Results) -> str:
    """A row per kind and number of bits: the paired difference and its interval; those beyond the plot have an arrow."""
    left, right, top, row = 445, WIDTH - 70, 20, 19
    rows: list[tuple[str, str, Figures]] = []
    for kind in KINDS:
        for bits in kind.bits:
            label = kind.label if bits == kind.bits[0] else ""
            rows.append((label, f"{bits} bits", results.runs[kind_name(kind, bits)].test))
    bottom = top + row * len(rows)
    low = min(-1.0, *(100 * (figures.delta_low or 0) for _, _, figures in rows))
    low, high = math.floor(low), MOST_POINTS

    def place(value: float) -> float:
        return left + (min(max(value, low), high) - low) / (high - low) * (right - left)

    parts = [f'<svg viewBox="0 0 {WIDTH} {bottom + 50}" role="img" aria-label="what each kind costs alone">']
    shaded = False
    for index, (label, _, _) in enumerate(rows):
        shaded = not shaded if label else shaded
        if shaded:
            parts.append(f'<rect class="soft" x="8" y="{top + row * index}" width="{WIDTH - 16}" height="{row}"/>')
    for tick in linear_ticks(low, high):
        x = place(tick)
        parts.append(f'<path class="{"zero" if tick == 0 else "grid"}" d="M{x:.1f} {top}V{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{f"{tick:+g}" if tick else 0}</text>'
        )
    for index, (label, num_bits, figures) in enumerate(rows):
        y = top + row * (index + 0.5)
        parts.append(f'<text class="row" x="14" y="{y + 4:.1f}">{escape(label)}</text>')
        parts.append(f'<text class="row" x="{left - 12}" y="{y + 4:.1f}" text-anchor="end">{num_bits}</text>')
        parts += _row_marks(figures, y, place, high)
    middle = (left + right) / 2
    title = "WER minus that of the float model, points, with its paired interval"
    parts += [f'<text class="title" x="{middle}" y="{bottom + 40}" text-anchor="middle">{title}</text>', "</svg>"]
    return stand_alone("\n".join(parts), bottom + 50)


def _row_marks(figures: Figures, y: float, place: Callable[[float], float], high: float) -> list[str]:
    delta, low, end = (100 * (value or 0.0) for value in (figures.delta, figures.delta_low, figures.delta_high))
    style = "worse" if figures.is_worse else "better" if figures.is_better else "same"
    if delta > high:
        x = place(high)
        arrow = f'<path class="{style}" d="M{x - 8:.1f} {y - 5:.1f}L{x:.1f} {y:.1f}L{x - 8:.1f} {y + 5:.1f}z"/>'
        return [arrow, f'<text x="{x + 6:.1f}" y="{y + 4:.1f}">{points(delta / 100)}</text>']
    whisker = f'<path class="whisker {style}" d="M{place(low):.1f} {y:.1f}H{place(end):.1f}"/>'
    return [whisker, f'<circle class="{style}" cx="{place(delta):.1f}" cy="{y:.1f}" r="4.5"/>']
