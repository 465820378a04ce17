"""A cost-versus-quality plot as inline SVG: points with confidence intervals, Pareto fronts, labels that do not overlap.

Small on purpose: no plotting library is needed to read a report. Colours are CSS variables that the page sets,
so that the plot follows a light or a dark page. Knows nothing of sidecars; tradeoff.py picks the points and the axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 880, 460
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 22, 58
CHARACTER_WIDTH, LINE_HEIGHT, RADIUS = 6.9, 15, 6
LOG_FROM_RATIO = 12  # sizes further apart than this get a logarithmic axis
LONGEST_LABEL = 44
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# For a page or a file that says what the colours are.
STYLE = """
svg text { fill: var(--text); font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
svg .tick { fill: var(--quiet); } svg .title { font-size: 13px; fill: var(--quiet); }
svg .label { paint-order: stroke; stroke: var(--page); stroke-width: 4px; stroke-linejoin: round; }
svg path { fill: none; } .grid { stroke: var(--line); stroke-width: 0.7; } .frame { stroke: var(--quiet); }
.leader { stroke: var(--quiet); stroke-width: 0.8; }
.band { fill: var(--quiet); opacity: 0.13; } .reference { stroke: var(--quiet); stroke-dasharray: 5 4; }
.whisker { stroke: var(--accent); stroke-width: 1.6; opacity: 0.75; } .whisker.baseline { stroke: var(--quiet); }
.whisker.passed { stroke: var(--good); } .whisker.failed { stroke: var(--bad); } .whisker.error { stroke: var(--warn); }
svg .marker { fill: var(--accent); stroke: var(--page); stroke-width: 1.5; } svg .marker.baseline { fill: var(--quiet); }
svg .marker.passed { fill: var(--good); } svg .marker.failed { fill: var(--bad); } svg .marker.error { fill: var(--warn); }
svg .marker.edge { fill: var(--page); stroke: var(--accent); } .front { stroke: var(--text); stroke-width: 1.2; opacity: 0.65; }
"""


@dataclass(frozen=True)
class Point:
    """One model: x is what it costs, such as bytes, y its quality, low..high the confidence interval or None.

    `style` is a CSS class of the page: "baseline", "passed", "failed", "error" or "plain".
    """

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    style: str = "plain"


@dataclass(frozen=True)
class Box:
    """A rectangle on the page, in SVG units."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        if self.right <= other.left or other.right <= self.left or self.bottom <= other.top or other.bottom <= self.top:
            return 0.0  # most are apart, and a picture asks half a million times
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return wide * high


AREA = Box(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)


@dataclass(frozen=True)
class Axis:
    """Where a value lies between `start` and `end` on the page, and where the ticks are.

    A logarithmic axis shows what lies below `least`, 0 among it, on its lower edge.
    """

    ticks: tuple[float, ...]
    place: Callable[[float], float]
    least: float = -math.inf


def plot(
    points: Sequence[Point],
    x_title: str,
    y_title: str,
    *,
    x_axis: Axis | None = None,
    y_axis: Axis | None = None,
    x_text: Callable[[float], str] | None = None,
    fronts: Sequence[Sequence[Point]] = (),
) -> str:
    """An <svg> element.

    Args:
        points: what to draw; not empty.
        x_title: what x is, with its unit.
        y_title: what y is.
        x_axis: None: from 0, or logarithmic where sizes lie far apart.
        y_axis: None: from 0 where the values allow it.
        x_text: how a value of x is written, None: as bytes.
        fronts: the points of each Pareto front, as `pareto_front` gives them.
    """
    x_axis = x_axis or _size_axis([point.x for point in points])
    x_text = x_text or bytes_text
    ends = [end for point in points for end in (point.y, point.low, point.high) if end is not None]
    y_axis = y_axis or _quality_axis(ends)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_title)} against {escape(x_title)}">',
        *_grid(x_axis, y_axis, x_title, y_title, x_text),
        *_baseline_band(points, y_axis),
    ]
    steps = [[(x_axis.place(point.x), y_axis.place(point.y)) for point in front] for front in fronts]
    parts += [_staircase(places) for places in steps if places]
    places = [(x_axis.place(point.x), y_axis.place(point.y)) for point in points]
    whiskers = [_whisker(point, x, y_axis) for point, (x, _) in zip(points, places, strict=True)]
    parts += [whisker for whisker in whiskers if whisker]
    on_edge = [point.y < y_axis.least for point in points]
    markers = [_marker(point, x, y, x_text, edge) for point, (x, y), edge in zip(points, places, on_edge, strict=True)]
    is_last = [point.style == "baseline" for point in points]  # over those at the same place
    parts += [
        mark for last in (False, True) for mark, goes_last in zip(markers, is_last, strict=True) if goes_last == last
    ]
    obstacles = _obstacles(points, places, y_axis)
    parts += _labels(points, places, [*obstacles, *(box for each in steps for box in _stair_boxes(each))])
    return "\n".join([*parts, "</svg>"])


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats: none is as small and better, or smaller and as good. Smallest first.

    Of points at the same place the first one stands for all.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, p.y)):
        if not front or point.y < front[-1].y:
            front.append(point)
    return front


# ---------------------------------------------------------------- axes


def _size_axis(values: Sequence[float]) -> Axis:
    low, high = max(min(values), 1), max(*values, 1)
    if high / low <= LOG_FROM_RATIO:  # from 0, so that half the size is half the way
        ticks = linear_ticks(0, high * 1.12)
        return Axis(ticks, _scale(0, high * 1.12, AREA.left, AREA.right))
    low, high = math.log(low / 1.5), math.log(high * 1.7)
    place = _scale(low, high, AREA.left, AREA.right)
    return Axis(log_ticks(math.exp(low), math.exp(high)), lambda value: place(math.log(max(value, 1))))


def _quality_axis(values: Sequence[float]) -> Axis:
    return linear_axis(values, AREA.bottom, AREA.top)


def linear_axis(values: Sequence[float], start: float, end: float) -> Axis:
    """Around the values, from 0 where that is not far below them; `start` and `end` are on the page."""
    low, high = min(values), max(values)
    spread = high - low
    margin = max(spread * 0.15 if spread > abs(high) / 1000 else abs(high) * 0.2, 1e-7)
    low = 0.0 if 0 <= low - margin < 0.35 * high or low >= 0 > low - margin else low - margin
    return Axis(linear_ticks(low, high + margin), _scale(low, high + margin, start, end))


def log_axis(values: Sequence[float], start: float, end: float, *, below: float = 1.5, above: float = 1.7) -> Axis:
    """A logarithmic axis around the positive ones of `values`, with a factor of room at each end.

    Args:
        values: at least one is positive.
        start: where the axis begins on the page.
        end: where it ends.
        below: the room under the least value, a factor of at least 1.
        above: the room over the largest.
    """
    positive = [value for value in values if value > 0]
    low, high = min(positive) / below, max(positive) * above
    place = _scale(math.log(low), math.log(high), start, end)
    ticks = log_ticks(low, high)
    return Axis(
        ticks if len(ticks) > 2 else linear_ticks(low, high), lambda value: place(math.log(max(value, low))), low
    )


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)


def axis_below(
    title: str, last: float, bottom: float, across: Callable[[float], float], *, left: float, right: float
) -> list[str]:
    """Ticks from 0 to `last` under a panel that ends at `bottom`, and the axis' title in the middle.

    Args:
        title: what the axis counts.
        last: its largest value.
        bottom: the panel's lower edge.
        across: where a value is.
        left: the panel's left edge.
        right: its right one.
    """
    parts = []
    for tick in linear_ticks(0, last):
        x = across(tick)
        parts.append(f'<path class="frame" d="M{x:.1f} {bottom:.1f}v4"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{tick:g}</text>')
    middle = (left + right) / 2
    parts.append(f'<text class="title" x="{middle}" y="{bottom + 38:.1f}" text-anchor="middle">{title}</text>')
    return parts


def linear_ticks(low: float, high: float) -> tuple[float, ...]:
    """Four to nine round numbers within low..high."""
    raw = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(i * step, 12) if step > 1e-9 else i * step for i in range(first, last + 1))


def log_ticks(low: float, high: float) -> tuple[float, ...]:
    """1, 2 and 5 times the powers of ten within low..high; only the powers where that is many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= 4 else (1,)
    return tuple(f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high)


def bytes_text(value: float) -> str:
    """A size for a tick, in decimal units."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{value / unit:.4g} {name}"
    return f"{value:.4g} B" if value else "0"


def count_text(value: float) -> str:
    """A count of operations for a tick."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.4g} {name}"
    return f"{value:.4g}"


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Numbers for the ticks of one axis, all written alike: 0.05, 0.1; where some lie below a thousandth, 5·10⁻⁴, 10⁻³."""
    small = any(0 < abs(tick) < 9.99e-4 for tick in ticks)
    return [_power_text(tick) if small and tick else f"{tick:.4g}" for tick in ticks]


def _power_text(value: float) -> str:
    factor, _, power = f"{value:.3e}".partition("e")
    text = f"{float(factor):g}·10{str(int(power)).translate(SUPERSCRIPTS)}"
    return text.removeprefix("1·").removesuffix("·10⁰")


# ---------------------------------------------------------------- drawing


def _grid(x_axis: Axis, y_axis: Axis, x_title: str, y_title: str, x_text: Callable[[float], str]) -> list[str]:
    parts = []
    for tick, text in zip(y_axis.ticks, tick_texts(y_axis.ticks), strict=True):
        y = y_axis.place(tick)
        parts.append(f'<path class="grid" d="M{AREA.left} {y:.1f}H{AREA.right}"/>')
        parts.append(f'<text class="tick" x="{AREA.left - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for tick in x_axis.ticks:
        x = x_axis.place(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {AREA.top}V{AREA.bottom}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{AREA.bottom + 18}" text-anchor="middle">{x_text(tick)}</text>'
        )
    parts.append(f'<path class="frame" d="M{AREA.left} {AREA.top}V{AREA.bottom}H{AREA.right}"/>')
    middle_x, middle_y = (AREA.left + AREA.right) / 2, (AREA.top + AREA.bottom) / 2
    parts.append(f'<text class="title" x="{middle_x}" y="{HEIGHT - 14}" text-anchor="middle">{escape(x_title)}</text>')
    turn = f'transform="rotate(-90 20 {middle_y})"'
    parts.append(f'<text class="title" x="20" y="{middle_y}" text-anchor="middle" {turn}>{escape(y_title)}</text>')
    return parts


def _baseline_band(points: Sequence[Point], y_axis: Axis) -> list[str]:
    """The baseline's quality as a line across the plot, its interval as a band."""
    parts = []
    for point in points:
        if point.style != "baseline":
            continue
        if point.low is not None and point.high is not None:
            top, bottom = y_axis.place(point.high), y_axis.place(point.low)
            wide = AREA.right - AREA.left
            parts.append(
                f'<rect class="band" x="{AREA.left}" y="{top:.1f}" width="{wide}" height="{bottom - top:.1f}"/>'
            )
        parts.append(f'<path class="reference" d="M{AREA.left} {y_axis.place(point.y):.1f}H{AREA.right}"/>')
    return parts


def _whisker(point: Point, x: float, y_axis: Axis) -> str:
    if point.low is None or point.high is None:
        return ""
    low, high = y_axis.place(point.low), y_axis.place(point.high)
    caps = "".join(f"M{x - 5:.1f} {y:.1f}h10" for y in (low, high))
    return f'<path class="whisker {point.style}" d="M{x:.1f} {low:.1f}V{high:.1f}{caps}"/>'


def _staircase(places: Sequence[tuple[float, float]]) -> str:
    """A Pareto front: the best quality to be had for each cost; what lies right of and above it is beaten."""
    path = f"M{places[0][0]:.1f} {AREA.top}"
    for (_, y), after in zip(places, [*(x for x, _ in places[1:]), AREA.right], strict=True):
        path += f"V{y:.1f}H{after:.1f}"
    return f'<path class="front" d="{path}"/>'


def _stair_boxes(places: Sequence[tuple[float, float]]) -> list[Box]:
    """The same as thin boxes that labels keep off."""
    boxes, top = [], AREA.top
    for (x, y), after in zip(places, [*(x for x, _ in places[1:]), AREA.right], strict=True):
        boxes += [Box(x - 1, top, x + 1, y), Box(x, y - 1, after, y + 1)]
        top = y
    return boxes


def _marker(point: Point, x: float, y: float, x_text: Callable[[float], str], on_edge: bool) -> str:
    title = f"<title>{escape(point.label)}: {x_text(point.x)}, {point.y:.6g}</title>"
    if point.style == "baseline":
        r = RADIUS + 1.5
        shape = f"M{x:.1f} {y - r:.1f}l{r} {r}l-{r} {r}l-{r} -{r}z"
        return f'<path class="marker baseline" d="{shape}">{title}</path>'
    style = f"{point.style} edge" if on_edge else point.style
    return f'<circle class="marker {style}" cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}">{title}</circle>'


# ---------------------------------------------------------------- labels


def _labels(points: Sequence[Point], places: Sequence[tuple[float, float]], obstacles: Sequence[Box]) -> list[str]:
    boxes = place_labels([_short(point.label) for point in points], places, obstacles)
    parts = []
    for point, (x, y), box in zip(points, places, boxes, strict=True):
        near_x, near_y = _nearest((x, y), box)
        if math.hypot(near_x - x, near_y - y) > 3 * RADIUS:
            parts.append(f'<path class="leader" d="M{x:.1f} {y:.1f}L{near_x:.1f} {near_y:.1f}"/>')
        text = f'<text class="label" x="{box.left:.1f}" y="{box.bottom - 4:.1f}">{escape(_short(point.label))}</text>'
        parts.append(text)
    return parts


def _short(label: str) -> str:
    """A name without the suffix that all artifacts have; a long one loses its middle: the end tells variants apart."""
    label = label.removesuffix(".safetensors")
    return label if len(label) <= LONGEST_LABEL else f"{label[:20]}…{label[21 - LONGEST_LABEL :]}"


def _obstacles(points: Sequence[Point], places: Sequence[tuple[float, float]], y_axis: Axis) -> list[Box]:
    """Whiskers and the baseline's line."""
    boxes = []
    for point, (x, _) in zip(points, places, strict=True):
        if point.low is not None and point.high is not None:
            boxes.append(Box(x - 6, y_axis.place(point.high) - 2, x + 6, y_axis.place(point.low) + 2))
        if point.style == "baseline":
            boxes.append(Box(AREA.left, y_axis.place(point.y) - 1, AREA.right, y_axis.place(point.y) + 1))
    return boxes


def place_labels(texts: Sequence[str], places: Sequence[tuple[float, float]], obstacles: Sequence[Box]) -> list[Box]:
    """Find a place for each text near its point, where it and the line to the point cover least.

    Args:
        texts: the labels.
        places: (x, y) of their points.
        obstacles: what labels should not cover besides points and each other.

    Returns:
        A box per label, in the order given, within the plot's area.
    """
    markers = [Box(x - RADIUS - 2, y - RADIUS - 2, x + RADIUS + 2, y + RADIUS + 2) for x, y in places]
    boxes: list[Box] = []
    leaders: list[Box] = []
    for text, place, own in zip(texts, places, markers, strict=True):
        others = [marker for marker in markers if marker != own]
        candidates = _candidates(*place, len(text) * CHARACTER_WIDTH)
        costs = []
        for box in candidates:
            leader = _leader_boxes(place, box)
            covered = sum(box.overlap(other) for other in [*obstacles, *markers, *boxes, *leaders])
            crossed = sum(step.overlap(other) for step in leader for other in [*others, *boxes, *leaders])
            costs.append(covered + 5 * crossed + 3 * len(leader))
        best = candidates[costs.index(min(costs))]  # the first of the best, so the nearest
        boxes.append(best)
        leaders += _leader_boxes(place, best)
    return boxes


def _leader_boxes(place: tuple[float, float], box: Box) -> list[Box]:
    """The line from a point to its label as a chain of small boxes; none where the label is beside the point."""
    (x, y), (end_x, end_y) = place, _nearest(place, box)
    length = math.hypot(end_x - x, end_y - y)
    if length <= 3 * RADIUS:
        return []
    steps = [
        (x + (end_x - x) * k / length, y + (end_y - y) * k / length) for k in range(2 * RADIUS, int(length) - 3, 5)
    ]
    return [Box(step_x - 2, step_y - 2, step_x + 2, step_y + 2) for step_x, step_y in steps]


def _nearest(place: tuple[float, float], box: Box) -> tuple[float, float]:
    """The point of the box that is nearest to `place`."""
    return min(max(place[0], box.left), box.right), min(max(place[1], box.top), box.bottom)


def _candidates(x: float, y: float, wide: float) -> list[Box]:
    """Boxes around a point, nearest rings first, pushed back into the plot's area."""
    boxes = []
    for ring in range(14):
        away = RADIUS + 6 + ring * LINE_HEIGHT * 0.8
        right, left, middle = x + away, x - away - wide, x - wide / 2
        above, below, level = y - away - LINE_HEIGHT, y + away, y - LINE_HEIGHT / 2
        corners = [(right, level), (left, level), (middle, above), (middle, below)]
        corners += [(right, above), (right, below), (left, above), (left, below)]
        for corner_x, corner_y in corners:
            left_edge = min(max(corner_x, AREA.left + 3), AREA.right - wide)
            top_edge = min(max(corner_y, AREA.top), AREA.bottom - LINE_HEIGHT)
            boxes.append(Box(left_edge, top_edge, left_edge + wide, top_edge + LINE_HEIGHT))
    return boxes
