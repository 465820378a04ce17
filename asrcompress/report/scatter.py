"""A proxy against what was measured, as a scatter plot in SVG: both axes logarithmic, one point per measured cell.

Points that a logarithm does not have (a change of 0 or below) lie on the lower edge, hollow. Part of a page that has STYLE.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape

from asrcompress.report.figures import nats
from asrcompress.report.rows import printable
from asrcompress.report.sensitivity_rows import PROXIES, Cell, Correlation, Sensitivity

WIDTH, HEIGHT = 520, 430
LEFT, RIGHT, TOP, BOTTOM = 78, 506, 60, 376
RADIUS = 3.6
# The colour of a point says what it is a measurement of.
SHAPES = {"dense": "weights, dense", "sparse": "weights, N:M", "activations": "activations"}
STYLE = """
.scatter text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: {text}; }
.scatter .quiet { fill: {quiet}; } .scatter .head { font-weight: 600; }
.scatter .grid { stroke: {line}; stroke-width: 0.7; fill: none; } .scatter .frame { stroke: {quiet}; fill: none; }
.scatter .point { fill-opacity: 0.65; stroke-width: 1.3; } .scatter .hollow { fill-opacity: 0; }
.scatter .dense { fill: {first}; stroke: {first}; } .scatter .sparse { fill: {second}; stroke: {second}; }
.scatter .activations { fill: {third}; stroke: {third}; }
"""


def scatter(found: Sensitivity, proxy: str) -> str:
    """An <svg> element, or "" where nothing was measured that the proxy has a positive estimate of.

    Args:
        found: what to show.
        proxy: "fisher" or "kl".
    """
    points = list(_points(found, proxy))
    if not any(exact > 0 for _, exact, _, _ in points):
        return ""
    x_low, x_high = _decades([estimate for estimate, *_ in points])
    y_low, y_high = _decades([exact for _, exact, *_ in points if exact > 0])
    said = next((describe(c) for c in found.correlations if (c.proxy, c.against) == (proxy, "loss")), "not correlated")
    title = f"{PROXIES[proxy]} against the measured change of the loss"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="scatter" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text class="head" x="{LEFT}" y="14">{escape(PROXIES[proxy])}</text>',
        f'<text x="{LEFT}" y="32">{escape(said)}</text>',
        *_axis(x_low, x_high, across=True),
        *_axis(y_low, y_high, across=False),
        f'<path class="frame" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>',
        f'<text class="quiet" x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 18}" text-anchor="middle">estimate (proxy, before it is scaled)</text>',
        f'<text class="quiet" x="16" y="{(TOP + BOTTOM) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 16 {(TOP + BOTTOM) / 2})">measured change of the loss, {found.unit_of_loss}</text>',
        *_key({shape for *_, shape in points}),
    ]
    for estimate, exact, name, shape in points:
        x = _place(estimate, x_low, x_high, LEFT, RIGHT)
        y = _place(exact, y_low, y_high, BOTTOM, TOP) if exact > 0 else float(BOTTOM)
        style = f"point {shape}" + ("" if exact > 0 else " hollow")
        text = f"{name}\nloss {nats(exact)} {found.unit_of_loss}, proxy {estimate:.3g}"
        parts.append(f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}"><title>{text}</title></circle>')
    return "\n".join([*parts, "</svg>"])


def num_below_zero(found: Sensitivity, proxy: str) -> int:
    """Points that lie on the lower edge since the measured change is 0 or below."""
    return sum(exact <= 0 for _, exact, _, _ in _points(found, proxy))


def describe(correlation: Correlation) -> str:
    """A correlation with its interval, in few words: Spearman 0.94 (95 % interval 0.89 to 0.96, 96 pairs)."""
    pairs = f"{correlation.num_pairs} pair" + "s" * (correlation.num_pairs != 1)
    if correlation.spearman is None:
        return f"no rank correlation from {pairs}"
    interval = ""
    if correlation.low is not None and correlation.high is not None:
        interval = f"{correlation.confidence * 100:g} % interval {correlation.low:.2f} to {correlation.high:.2f}, "
    return f"Spearman {correlation.spearman:.2f} ({interval}{pairs})"


def _points(found: Sensitivity, proxy: str) -> Iterator[tuple[float, float, str, str]]:
    """(estimate, measured change of the loss, name, shape) of each measured cell with a positive estimate."""
    for unit in found.units:
        for name, cell in unit.cells.items():
            estimate = _estimate(cell, proxy)
            if cell.is_exact and cell.cost is not None and estimate is not None and estimate > 0:
                sparse = "sparse" if "+" in name else "dense"
                shape = "activations" if unit.target == "activations" else sparse
                yield estimate, cell.cost, f"{escape(printable(unit.name))}, {name}", shape


def _estimate(cell: Cell, proxy: str) -> float | None:
    return cell.fisher if proxy == "fisher" else cell.kl_proxy


def _decades(values: list[float]) -> tuple[int, int]:
    """The whole powers of ten around positive values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _place(value: float, low: int, high: int, start: float, end: float) -> float:
    return start + (math.log10(value) - low) / (high - low) * (end - start)


def _axis(low: int, high: int, *, across: bool) -> list[str]:
    parts = []
    every = -(-(high - low) // 8)
    for power in range(low, high + 1, every):
        text = f'10<tspan dy="-5" font-size="9">{power}</tspan>'
        if across:
            x = _place(10.0**power, low, high, LEFT, RIGHT)
            parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{BOTTOM}"/>')
            parts.append(f'<text class="quiet" x="{x:.1f}" y="{BOTTOM + 18}" text-anchor="middle">{text}</text>')
        else:
            y = _place(10.0**power, low, high, BOTTOM, TOP)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>')
            parts.append(f'<text class="quiet" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    return parts


def _key(shapes: set[str]) -> list[str]:
    parts, x = [], float(LEFT)
    for shape, words in SHAPES.items():
        if shape in shapes:
            parts.append(f'<circle class="point {shape}" cx="{x + 4}" cy="46" r="{RADIUS}"/>')
            parts.append(f'<text class="quiet" x="{x + 12}" y="50">{words}</text>')
            x += 28 + 7.2 * len(words)
    return parts
