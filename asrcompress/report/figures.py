"""Figures and names of a sensitivity table as text, short enough for a cell and exact enough for a sentence."""

from __future__ import annotations

import math

QUALITY_UNITS = {"wer": "percentage points", "au_fa_fr": "thousandths"}


def thousandths(value: float) -> str:
    """A number in thousandths, three digits where it has them: 0.01234 -> 12.3, 0.00001 -> 0.01, 1.5 -> 1500."""
    scaled = value * 1000
    size = abs(scaled)
    digits = 2 if size < 9.995 else 1 if size < 99.95 else 0
    text = f"{scaled:.{digits}f}"
    return f"{scaled:.0e}".replace("e+0", "e").replace("e+", "e") if len(text) > 7 else text.replace("-0.00", "0.00")


def nats(value: float) -> str:
    """A change with its sign and three digits, never with an exponent: +0.0153, +0.0000012, -1.25; 0 below 5e-8."""
    text = plain(value)
    return text if text == "0" or value < 0 else f"+{text}"


def plain(value: float) -> str:
    """A number in three digits, never with an exponent, at most 7 behind the point."""
    if abs(value) < 5e-8:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(digits, 0), 7)}f}"


def percent(share: float, sign: str = "+") -> str:
    """A share of something in per cent: +0.4 %, +12 %."""
    if abs(share) < 0.0005:
        return "0 %"
    digits = 1 if abs(share) < 0.0995 else 0
    return f"{share:{sign}.{digits}%}".replace(".0%", "%").replace("%", " %")


def quality_text(name: str, change: float) -> str:
    """A change of wer in percentage points, of au_fa_fr in thousandths, with its sign."""
    if name == "wer":
        points = change * 100
        return f"{points:+.{2 if abs(points) < 99.995 else 1}f}".replace("-0.00", "+0.00")
    text = thousandths(change)
    return text if text.startswith("-") else f"+{text}"


def short_names(names: list[str], longest: int) -> list[str]:
    """Names of at most `longest` characters, shortened in the middle; different names stay different.

    Where even the ends do not tell some apart, they get a number.
    """
    longest = max(longest, 8)
    for tail in (longest * 2 // 3, longest - 2, longest // 2, longest // 3, 1):
        short = [_cut(name, longest, tail) for name in names]
        if len(set(short)) == len(set(names)):
            return short
    marks = {name: f"#{number}" for number, name in enumerate(dict.fromkeys(names), 1)}
    return [_cut(name, longest - len(marks[name]), longest // 3) + marks[name] for name in names]


def _cut(name: str, longest: int, tail: int) -> str:
    if len(name) <= longest:
        return name
    tail = min(max(tail, 1), longest - 2)
    return f"{name[: longest - 1 - tail]}…{name[-tail:]}"
