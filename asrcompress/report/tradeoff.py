"""Quality against what it costs, in two pictures per metric: against the bytes of the model and against its MACs.

The baseline is marked, and a line joins what no other model beats: the Pareto front. AU FA-FR goes over decades, so both axes
are logarithmic; those of WER are where its values lie far apart. Picks points and axes; svg.py draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from asrcompress.gate import incomparable
from asrcompress.report.picture import Picture
from asrcompress.report.rows import QUALITY_METRICS, Report, Row, printable
from asrcompress.report.svg import (
    AREA,
    LOG_FROM_RATIO,
    Axis,
    Point,
    bytes_text,
    count_text,
    log_axis,
    pareto_front,
    plot,
)

TITLES = {"wer": "word error rate (wer)", "au_fa_fr": "area under FA/FR (au_fa_fr)"}
ALWAYS_LOGARITHMIC = frozenset({"au_fa_fr"})
SIZE_CAPTION = "Sizes are the model's own bytes: optimizer state in a training checkpoint is not counted."


def tradeoffs(report: Report) -> list[Picture]:
    """Of each quality metric that some row has: against bytes, and against MACs where some row has them."""
    found = []
    for name in QUALITY_METRICS:
        rows = _once_each(name, report.rows)
        sized = [row for row in rows if _size(row)]
        if sized:
            found.append(_against_size(name, sized, report))
        counted = [row for row in rows if row.values.get("macs")]
        if counted:
            found.append(_against_macs(name, counted, report))
    return found


def _once_each(name: str, rows: Sequence[Row]) -> list[Row]:
    """Rows with a quality; a model that was evaluated again to the same value, such as streamed, is one point named by its file."""
    points: dict[tuple[str, float], Row] = {}
    for row in rows:
        if name in row.values:
            key = row.measured.sha256, row.values[name]
            again = points.get(key)
            points[key] = row if again is None else replace(again, label=printable(again.measured.file))
    return list(points.values())


def _against_size(name: str, rows: Sequence[Row], report: Report) -> Picture:
    points = [_point(name, row, _size(row), report) for row in rows]
    svg, caption = _draw(name, rows, points, "size of the model", bytes_text)
    return Picture(f"{name}-against-size_bytes", f"Size against {TITLES[name]}", f"{caption} {SIZE_CAPTION}", svg)


def _against_macs(name: str, rows: Sequence[Row], report: Report) -> Picture:
    """MACs depend on what goes in: rows whose MACs are of another input than the first one's are left out, and named."""
    sources = [row.measured.metrics["macs"].source for row in rows]
    alike = [incomparable("macs", source, sources[0]) is None for source in sources]
    shown = [row for row, is_alike in zip(rows, alike, strict=True) if is_alike]
    points = [_point(name, row, row.values["macs"], report) for row in shown]
    svg, caption = _draw(name, shown, points, _macs_title(sources[0].record), count_text)
    left_out = [row.label for row in rows if row not in shown]
    if left_out:
        caption += f" Left out, since their MACs are of another input or convention: {', '.join(left_out)}."
    title = f"Multiply-accumulates against {TITLES[name]}"
    return Picture(f"{name}-against-macs", title, caption, svg)


def _macs_title(record: dict[str, Any]) -> str:
    """The input that they are of: "multiply-accumulates (macs) for 1 s of speech"."""
    stated = record.get("input") or {}
    seconds, batch, convention = stated.get("duration_s"), stated.get("batch_size"), record.get("macs_convention")
    title = "multiply-accumulates (macs)"
    if isinstance(seconds, int | float):
        title += f" for {seconds:g} s of speech"
    if isinstance(batch, int) and batch > 1:
        title += f", {batch} times"
    return title + (f", counted as {convention}" if convention not in (None, "true") else "")


def _size(row: Row) -> float:
    return row.values.get("model_size_bytes") or row.values["size_bytes"]


def _point(name: str, row: Row, x: float, report: Report) -> Point:
    same = {
        other.label
        for other in report.rows
        if other.measured.sha256 == row.measured.sha256 and other.values.get(name) == row.values[name]
    }
    statuses = [result.status for result in report.results if result.label in same]
    worst = next((status for status in ("error", "failed", "passed") if status in statuses), "plain")
    interval = row.interval(name) or {}
    style = "baseline" if row.is_baseline else worst
    return Point(row.label, x, row.values[name], interval.get("low"), interval.get("high"), style)


def _draw(
    name: str, rows: Sequence[Row], points: Sequence[Point], x_title: str, x_text: Callable[[float], str]
) -> tuple[str, str]:
    """The plot and what to know to read it."""
    sets = _comparable(name, rows, points)
    fronts = [pareto_front(members) for members in sets if len(members) > 1]
    x_axis = log_axis([p.x for p in points], AREA.left, AREA.right) if name in ALWAYS_LOGARITHMIC else None
    y_axis = _quality_axis(name, points)
    svg = plot(points, x_title, TITLES[name], x_axis=x_axis, y_axis=y_axis, x_text=x_text, fronts=fronts)
    caption = "Lower and further left is better."
    styles = {point.style for point in points}
    if styles & {"passed", "failed"}:
        caption += " Green models passed their gates, red ones failed one."
    if any(point.low is not None for point in points):
        caption += " Bars are confidence intervals of the test set."
    if "baseline" in styles:
        caption += " The diamond is the baseline, the dashed line its quality, the band its interval."
    if fronts:
        caption += " The stepped line is the Pareto front: nothing right of and above it is worth its cost."
    if len(sets) > 1:
        caption += " Only models that were measured alike share a front."
    if y_axis is not None and any(point.y < y_axis.least for point in points):
        caption += " Hollow points on the lower edge have no errors at all, which a logarithmic axis does not show."
    return svg, caption


def _comparable(name: str, rows: Sequence[Row], points: Sequence[Point]) -> list[list[Point]]:
    """Points by what they were measured on."""
    sets: list[tuple[Row, list[Point]]] = []
    for row, point in zip(rows, points, strict=True):
        source = row.measured.metrics[name].source
        alike = (s for first, s in sets if incomparable(name, source, first.measured.metrics[name].source) is None)
        members = next(alike, None)
        if members is None:
            sets.append((row, [point]))
        else:
            members.append(point)
    return [members for _, members in sets]


def _quality_axis(name: str, points: Sequence[Point]) -> Axis | None:
    """None: linear. Intervals may reach down to 0, so no more than a decade below the points is shown."""
    positive = [point.y for point in points if point.y > 0]
    if not positive or (name not in ALWAYS_LOGARITHMIC and max(positive) / min(positive) <= LOG_FROM_RATIO):
        return None
    floor = min(positive) / 10
    ends = [max(end, floor) for point in points for end in (point.low, point.high) if end is not None and end > 0]
    return log_axis([*positive, *ends], AREA.bottom, AREA.top)
