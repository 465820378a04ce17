"""Colours of pictures of cost: a scale from "no effect" to "worst", on a light and on a dark page.

Plain numbers in style sheets, no CSS variables: an SVG file is shown by programs that have none. Lightness runs one way, so
that the order survives grey printing and every kind of colour vision.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

NUM_STEPS = 25
LEAST = 1e-12  # a cost below is none
# From the page's own shade to its opposite: little cost is quiet, much cost stands out.
ANCHORS = {
    "light": ("#f1f3f5", "#fdeab4", "#fdbe5f", "#f2803a", "#d2412a", "#93182b", "#440c24"),
    "dark": ("#232930", "#40253f", "#72254d", "#ae3240", "#e0632e", "#f5a73c", "#fdf1a6"),
}
THEMES = {
    "light": {"page": "#ffffff", "text": "#1b1f24", "quiet": "#5b6470", "line": "#d9dee4", "soft": "#f4f6f8", "accent": "#1d4ed8",
              "first": "#1d4ed8", "second": "#b45309", "third": "#15803d"},
    "dark": {"page": "#14171b", "text": "#e6e9ee", "quiet": "#9aa4b1", "line": "#343b44", "soft": "#1d2228", "accent": "#7dd3fc",
             "first": "#7aa7ff", "second": "#f5a73c", "third": "#4ade80"},
}  # fmt: skip
# The variables of a page that has several kinds of pictures; a file of its own has their values instead.
PAGE = {
    "light": {"page": "#fff", "text": "#1b1f24", "quiet": "#5b6470", "line": "#d9dee4", "soft": "#f4f6f8", "accent": "#2563eb",
              "good": "#15803d", "bad": "#c81e1e", "warn": "#a16207", "good-soft": "#dcfce7", "bad-soft": "#fee2e2", "warn-soft": "#fef3c7",
              "series-1": "#2563eb", "series-2": "#b45309", "series-3": "#15803d", "series-4": "#9333ea", "series-5": "#be185d",
              "series-6": "#0e7490"},
    "dark": {"page": "#14171b", "text": "#e6e9ee", "quiet": "#9aa4b1", "line": "#343b44", "soft": "#1d2228", "accent": "#7aa7ff",
             "good": "#4ade80", "bad": "#f87171", "warn": "#facc15", "good-soft": "#12351f", "bad-soft": "#431a1a", "warn-soft": "#3d3108",
             "series-1": "#7aa7ff", "series-2": "#f5a73c", "series-3": "#4ade80", "series-4": "#c99bff", "series-5": "#f77fb8",
             "series-6": "#56cfe1"},
}  # fmt: skip
DARK = "@media (prefers-color-scheme: dark)"


def page_variables() -> str:
    """CSS: the colours of a page as variables, light or dark as the reader's page is."""
    light, dark = (" ".join(f"--{name}: {colour};" for name, colour in PAGE[theme].items()) for theme in PAGE)
    return f":root {{ color-scheme: light dark; {light} }}\n{DARK} {{ :root {{ {dark} }} }}\n"


def without_variables(style: str) -> str:
    """A style sheet that names colours as `var(--quiet)`, with the colours themselves: first light, then dark."""
    light, dark = (_named(style, colours) for colours in PAGE.values())
    return f"{light}\n{DARK} {{ {dark} }}\n"


def _named(style: str, colours: dict[str, str]) -> str:
    return re.sub(r"var\(--([a-z0-9-]+)\)", lambda match: colours[match[1]], style)


def steps(theme: str) -> list[str]:
    """The NUM_STEPS colours of a theme, least cost first, as #rrggbb."""
    anchors = [_rgb(colour) for colour in ANCHORS[theme]]
    found = []
    for step in range(NUM_STEPS):
        place = step / (NUM_STEPS - 1) * (len(anchors) - 1)
        left = min(int(place), len(anchors) - 2)
        part = place - left
        mixed = (a + (b - a) * part for a, b in zip(anchors[left], anchors[left + 1], strict=True))
        found.append("#" + "".join(f"{round(channel):02x}" for channel in mixed))
    return found


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, 0 black to 1 white, as WCAG 2 defines it."""
    channels = [value / 255 for value in _rgb(colour)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    """WCAG 2 contrast ratio of two colours, 1 to 21."""
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def ink(colour: str) -> str:
    """Black or white, whichever is read better on a colour."""
    return max(("#111418", "#ffffff"), key=lambda candidate: contrast(candidate, colour))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


@dataclass(frozen=True)
class CostScale:
    """A logarithmic scale of cost, in nats per token; what lies outside takes the colour of the nearer end."""

    low: float
    high: float

    @classmethod
    def over(cls, costs: Iterable[float], loss: float | None) -> CostScale:
        """Around the positive costs, from a thousandth of the loss, or a millionth of the largest, upwards; round ends."""
        positive = [cost for cost in costs if cost > LEAST and math.isfinite(cost)]
        top = max(positive, default=1.0)
        floor = max(min(positive, default=top), (loss or 0) / 1000, top / 1e6)
        low = 10.0 ** math.floor(math.log10(min(floor, top / 10)) + 1e-9)
        decade = 10.0 ** math.floor(math.log10(top) + 1e-9)
        return cls(low, next(decade * factor for factor in (1, 2, 5, 10) if decade * factor >= top * 0.999))

    def place(self, cost: float) -> float:
        """Where a cost lies between the ends, 0 to 1."""
        if not cost > self.low:
            return 0.0
        return math.log(min(cost, self.high) / self.low) / math.log(self.high / self.low)

    def step(self, cost: float) -> int:
        """Which colour, 0 to NUM_STEPS - 1; it never falls as the cost rises."""
        return min(int(self.place(cost) * NUM_STEPS), NUM_STEPS - 1)

    def ticks(self) -> list[float]:
        """The powers of ten within."""
        powers = range(round(math.log10(self.low)), math.floor(math.log10(self.high) + 1e-9) + 1)
        return [10.0**power for power in powers]


def cell_rules(theme: str) -> str:
    """CSS: `.c0` .. fill a cell, `.i0` .. what is written on it."""
    colours = steps(theme)
    return "".join(
        f".map .c{number}{{fill:{colour}}}.map .i{number}{{fill:{ink(colour)}}}"
        for number, colour in enumerate(colours)
    )


def themed(template: str, *, cells: bool = True) -> str:
    """A style sheet for both pages: `{page}`, `{text}`, ... of the template replaced; dark where the reader's page is."""
    light, dark = (_fill(template, name) + (cell_rules(name) if cells else "") for name in ("light", "dark"))
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"


def _fill(template: str, theme: str) -> str:
    for name, colour in THEMES[theme].items():
        template = template.replace(f"{{{name}}}", colour)
    return template
