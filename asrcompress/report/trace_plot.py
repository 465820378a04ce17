"""The probability of a keyword over time, as inline SVG: other words, the keyword, other words, glued together.

Above as the model gives it, below with the policy: moving average, and a reset after each detection. What reaches the
threshold is filled, so that a plateau after the keyword is seen. Colours are CSS variables of the page, which has STYLE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from asrcompress.report.rows import printable
from asrcompress.report.svg import CHARACTER_WIDTH, axis_below
from asrcompress.report.trace_rows import Trace

WIDTH, LEFT, RIGHT = 880, 84, 856
TOP, PANEL, GAP, FOOT = 46, 150, 34, 48
DETECTED = "detected"
STYLE = """
.trace .keyword { fill: var(--good); opacity: 0.13; } .trace .border { stroke: var(--line); }
.trace .line { stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; }
.trace .raw { stroke: var(--quiet); stroke-width: 1; } .trace .above { fill: var(--bad); opacity: 0.3; }
.trace .head { font-weight: 600; } .trace .word { fill: var(--quiet); } .trace .spoken { fill: var(--good); font-weight: 600; }
.trace .threshold { stroke: var(--text); stroke-dasharray: 5 4; opacity: 0.7; }
.trace .detection { fill: var(--good); stroke: var(--page); stroke-width: 1.2; }
"""


def trace_plot(trace: Trace) -> str:
    """An <svg> element: two panels over one axis of time."""
    last = max(trace.clips[-1].end_s, trace.without_policy.time_s[-1], trace.with_policy.time_s[-1])

    def across(time_s: float) -> float:
        return LEFT + time_s / last * (RIGHT - LEFT)

    above, below = float(TOP), float(TOP + PANEL + GAP)
    raw, policy = trace.without_policy, trace.with_policy
    heads = (
        f"as the model gives it: {trace.raw_above_s:.2f} s at or above the threshold",
        f"mean over {trace.smoothing_s:g} s, reset after a detection: {trace.policy_above_s:.2f} s",
    )
    parts = _clips(trace, across, (above, below))
    labels = [_detected_from(across(time_s)) for time_s in policy.detections_s]
    for top, head, busy in zip((above, below), heads, ([], labels), strict=True):
        parts += _frame(top, head, trace.threshold, busy)
    parts += [
        *_filled(raw.time_s, raw.probability, trace, above, across),
        _line("line", raw.time_s, raw.probability, above, across),
        _line("raw", policy.time_s, policy.probability, below, across),
        *_filled(policy.time_s, policy.smoothed, trace, below, across),
        _line("line", policy.time_s, policy.smoothed, below, across),
        *_detections(policy.detections_s, trace.threshold, below, across),
        *axis_below("seconds", last, below + PANEL, across, left=LEFT, right=RIGHT),
    ]
    height = TOP + 2 * PANEL + GAP + FOOT
    opening = f'<svg class="trace" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="probability of the keyword over time">'
    return "\n".join([opening, *parts, "</svg>"])


def _place(value: float, top: float) -> float:
    return top + (1 - min(max(value, 0.0), 1.0)) * PANEL


def _clips(trace: Trace, across: Callable[[float], float], tops: Sequence[float]) -> list[str]:
    """The keyword's clip as a band through both panels, every border as a line, and each word where there is room for it."""
    parts, bottom = [], tops[-1] + PANEL
    for clip in trace.clips:
        start, end = across(clip.start_s), across(clip.end_s)
        if clip.is_keyword:
            box = f'x="{start:.1f}" y="{tops[0]}" width="{end - start:.1f}" height="{bottom - tops[0]}"'
            parts.append(f'<rect class="keyword" {box}/>')
        parts.append(f'<path class="border" d="M{end:.1f} {tops[0]}V{bottom}"/>')
        text = printable(clip.word)
        most = int((end - start - 4) / CHARACTER_WIDTH)
        if most >= len(text) or most >= 3:
            short = text if len(text) <= most else text[: most - 1] + "…"
            style = "spoken" if clip.is_keyword else "word"
            middle = (start + end) / 2
            parts.append(
                f'<text class="{style}" x="{middle:.1f}" y="{tops[0] - 28}" text-anchor="middle">{escape(short)}</text>'
            )
    return parts


def _frame(top: float, head: str, threshold: float, busy: Sequence[float]) -> list[str]:
    """Axes, and the threshold named as far to the right as no detection's name, which are 12 high from `busy` on, is in the way."""
    parts = [f'<text class="head" x="{LEFT}" y="{top - 9}">{escape(head)}</text>']
    for tick in (0, 0.5, 1):
        y = _place(tick, top)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    y = _place(threshold, top)
    parts.append(f'<path class="threshold" d="M{LEFT} {y:.1f}H{RIGHT}"><title>threshold {threshold:.4g}</title></path>')
    text_y = y - 5 if y - 16 > top else y + 14
    text = f"threshold {threshold:.3g}"
    wide, named = len(text) * CHARACTER_WIDTH, len(DETECTED) * CHARACTER_WIDTH
    ends = [RIGHT - 4.0, *(left - 18 for left in sorted(busy, reverse=True))]  # 18: a detection's marker stands there
    free = (
        end for end in ends if end - wide > LEFT and all(end < left - 17 or left + named < end - wide for left in busy)
    )
    end = next(free, ends[0])
    parts.append(f'<text class="label" x="{end:.1f}" y="{text_y:.1f}" text-anchor="end">{text}</text>')
    middle = top + PANEL / 2
    turn = f'transform="rotate(-90 30 {middle})"'
    parts.append(f'<text class="title" x="30" y="{middle}" text-anchor="middle" {turn}>probability</text>')
    return [*parts, f'<path class="frame" d="M{LEFT} {top}V{top + PANEL}H{RIGHT}"/>']


def _filled(
    times_s: Sequence[float],
    values: Sequence[float],
    trace: Trace,
    top: float,
    across: Callable[[float], float],
) -> list[str]:
    """A bar from the threshold up for each step that reaches it, for as long as the step stands."""
    parts, floor = [], _place(trace.threshold, top)
    for time_s, value in zip(times_s, values, strict=True):
        if value >= trace.threshold:
            x, y = across(time_s), _place(value, top)
            wide = min(across(time_s + trace.step_s), RIGHT) - x
            title = f"<title>{time_s:.2f} s: {value:.4g}</title>"
            box = f'x="{x:.2f}" y="{y:.1f}" width="{wide:.2f}" height="{floor - y:.1f}"'
            parts.append(f'<rect class="above" {box}>{title}</rect>')
    return parts


def _line(
    style: str, times_s: Sequence[float], values: Sequence[float], top: float, across: Callable[[float], float]
) -> str:
    """In stairs: a value stands from the end of its audio until the next is known."""
    path = f"M{across(times_s[0]):.1f} {_place(values[0], top):.1f}"
    for time_s, value in zip(times_s[1:], values[1:], strict=True):
        path += f"H{across(time_s):.1f}V{_place(value, top):.1f}"
    return f'<path class="{style}" d="{path}H{RIGHT}"/>'


def _detections(times_s: Sequence[float], threshold: float, top: float, across: Callable[[float], float]) -> list[str]:
    parts, y = [], _place(threshold, top)
    for time_s in times_s:
        x = across(time_s)
        parts.append(
            f'<path class="detection" d="M{x:.1f} {y:.1f}l-6 -11h12z"><title>detected at {time_s:.2f} s</title></path>'
        )
        parts.append(f'<text class="label" x="{_detected_from(x):.1f}" y="{y - 18:.1f}">{DETECTED}</text>')
    return parts


def _detected_from(x: float) -> float:
    """Where the name of a detection at x begins: beside it, on the picture."""
    return min(x + 9, RIGHT - len(DETECTED) * CHARACTER_WIDTH)
