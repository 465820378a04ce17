"""Units x options as a heat map in SVG: colour is what an option costs, a dot marks what was measured.

No script and no library; hovering a cell shows its numbers. `render` gives a file of its own, `heat_map` and `heat_head`
are parts of a page that has STYLE. Chooses nothing and computes no cost; sensitivity_rows.py has the rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from asrcompress.report.colours import NUM_STEPS, CostScale, themed
from asrcompress.report.figures import QUALITY_UNITS, nats, plain, quality_text, short_names, thousandths
from asrcompress.report.rows import printable
from asrcompress.report.sensitivity_rows import Cell, Option, Row, Sensitivity

FONT = 'system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif'
STYLE = """
.map text { font: 12px FONT; fill: {text}; } .map .quiet { fill: {quiet}; }
.map .n { pointer-events: none; text-anchor: end; font-variant-numeric: tabular-nums; } .map .d { pointer-events: none; }
.map .block { font-weight: 600; } .map .line { stroke: {line}; stroke-width: 1; fill: none; }
.map .none { fill: none; stroke: {line}; } .map .hatch { stroke: {quiet}; stroke-width: 1; opacity: 0.45; }
.map .halo { fill: none; stroke: {page}; stroke-width: 4; pointer-events: none; }
.map .chosen { fill: none; stroke: {accent}; stroke-width: 2.2; pointer-events: none; } .map .page { fill: {page}; }
""".replace("FONT", FONT)
CELL_WIDTH, GAP, PATTERN_GAP = 50, 1, 12  # in pixels, as everything here
NARROW, WIDE = frozenset("ijlftr.,:;'|!()[] "), frozenset("mwMW@%")
TALLEST, ROW_HEIGHT, LEAST_ROW_HEIGHT = 4400, 18, 4
TWO_LINES_FROM = 30  # height of a row whose cells have two lines
LEAST_FONT = 9.5  # of a row's name; in lower rows only some are written
BAR_WIDTH, HEAD_HEIGHT = 350, 100


@dataclass(frozen=True)
class Line:
    """A row of the map and its names: `block` where one begins, else ""."""

    block: str
    name: str
    note: str
    row: Row


@dataclass(frozen=True)
class Layout:
    """Where things are; x and y from the map's upper left corner."""

    lines: tuple[Line, ...]
    options: tuple[Option, ...]
    scale: CostScale
    quality_name: str
    unit_of_loss: str
    chosen: Mapping[str, str | None]
    row_height: float
    font: float
    name_x: float
    note_x: float
    columns: tuple[float, ...]

    @property
    def width(self) -> float:
        """Of the whole map: wide enough for the legend."""
        return max(self.columns[-1] + CELL_WIDTH + 2, BAR_WIDTH + 420.0)

    @property
    def height(self) -> float:
        """Of the rows."""
        return self.row_height * len(self.lines)


def unit_layout(found: Sensitivity, scale: CostScale, chosen: Mapping[str, str | None] | None = None) -> Layout:
    """A row per unit, in the model's order, under the names of their blocks."""
    lines, previous = [], None
    blocks = dict(zip(names := [row.name for row in found.blocks], short_names(names, 34), strict=True))
    inner = short_names([_within(unit) for unit in found.units], 36)
    for unit, name in zip(found.units, inner, strict=True):
        lines.append(Line(blocks[unit.block] if unit.block != previous else "", name, unit.kind, unit))
        previous = unit.block
    height = min(ROW_HEIGHT, max(LEAST_ROW_HEIGHT, TALLEST / len(lines)))
    return _layout(found, lines, scale, height, chosen or {})


def group_layout(found: Sensitivity, groups: Sequence[Row], scale: CostScale) -> Layout:
    """A row per kind or per block; high enough for the change of wer or au_fa_fr under that of the loss."""
    names = short_names([group.name for group in groups], 36)
    notes = [f"{group.num_units} unit" + "s" * (group.num_units > 1) for group in groups]
    lines = [Line("", name, note, group) for name, note, group in zip(names, notes, groups, strict=True)]
    two = any(cell.quality is not None for group in groups for cell in group.cells.values())
    return _layout(found, lines, scale, 34 if two else 22, {})


def _within(unit: Row) -> str:
    """A unit's name without that of its block, and without the `.weight` that most end in."""
    rest = unit.name.removeprefix(unit.block) if unit.block else unit.name
    rest = rest.lstrip(".:") or unit.name
    return rest.removesuffix(".weight") if unit.target == "weight" else rest


def text_width(text: str, font: float) -> float:
    """About how wide a text is drawn, in pixels; rather more than less, since fonts differ."""
    return sum(0.36 if c in NARROW else 0.95 if c in WIDE else 1.05 if ord(c) > 0x2E7F else 0.62 for c in text) * font


def _layout(
    found: Sensitivity, lines: Sequence[Line], scale: CostScale, row_height: float, chosen: Mapping[str, str | None]
) -> Layout:
    font = max(min(12.0, row_height - 2.5), LEAST_FONT)
    widths = []
    for key, gap in (("block", 12), ("name", 14), ("note", 12)):
        wide = max(text_width(printable(getattr(line, key)), font) for line in lines)
        widths.append(wide * (1.1 if key == "block" else 1) + (gap if wide else 0))
    x = sum(widths)
    columns, previous = [], found.options[0].pattern if found.options else None
    for option in found.options:
        x += PATTERN_GAP if option.pattern != previous else 0
        columns.append(round(x, 1))
        x += CELL_WIDTH
        previous = option.pattern
    return Layout(
        tuple(lines), found.options, scale, found.quality_name, found.unit_of_loss, chosen, row_height, font,
        round(widths[0], 1), round(widths[0] + widths[1], 1), tuple(columns) or (x,),
    )  # fmt: skip


# ---------------------------------------------------------------- whole pictures


def render(found: Sensitivity, chosen: Mapping[str, str | None] | None = None) -> str:
    """The units' heat map as an SVG file, with its legend; it follows the reader's light or dark page.

    Args:
        found: what to show.
        chosen: options by unit name, as a plan chooses them; their cells are outlined.
    """
    layout = unit_layout(found, CostScale.over(costs(found.units), found.loss), chosen)
    title = f"{found.model}: what each option costs, unit by unit"
    below = 40 if _is_tall(layout) else 8
    width, height = layout.width + 32, HEAD_HEIGHT + layout.height + 34 + below
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="map" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.1f} {height:.1f}" role="img" aria-label="{_text(title)}">',
        f"<style>{themed(STYLE)}</style>",
        f'<rect class="page" width="{width:.1f}" height="{height:.1f}"/>',
        f'<text x="16" y="24" style="font-size:15px;font-weight:600">{_text(title)}</text>',
        '<g transform="translate(16 34)">',
        *_head(layout, "a"),
        f'<g transform="translate(0 {HEAD_HEIGHT})">',
        *_body(layout, "a"),
        "</g></g></svg>\n",
    ]
    return "\n".join(parts)


def heat_head(layout: Layout, prefix: str) -> str:
    """The legend and the names of the options as an <svg> element, to stay in sight over a long map."""
    parts = [_open(layout, HEAD_HEIGHT, "legend"), '<g transform="translate(0 0)">', *_head(layout, prefix)]
    return "\n".join([*parts, "</g></svg>"])


def heat_map(layout: Layout, prefix: str, title: str) -> str:
    """The rows as an <svg> element; `prefix` makes ids of this picture its own on a page."""
    height = layout.height + (34 if _is_tall(layout) else 2)
    return "\n".join([_open(layout, height, title), *_body(layout, prefix), "</svg>"])


def _open(layout: Layout, height: float, title: str) -> str:
    size = f'width="{layout.width:.0f}" height="{height:.0f}" viewBox="0 0 {layout.width:.1f} {height:.1f}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" class="map" {size} role="img" aria-label="{_text(title)}">'


def costs(rows: Sequence[Row]) -> list[float]:
    """Every cost that is known."""
    return [cell.cost for row in rows for cell in row.cells.values() if cell.cost is not None]


def _is_tall(layout: Layout) -> bool:
    return layout.height > 700


# ---------------------------------------------------------------- parts


def _head(layout: Layout, prefix: str) -> list[str]:
    return [*_legend(layout, f"{prefix}-head"), *_option_names(layout, HEAD_HEIGHT - 22)]


def _legend(layout: Layout, prefix: str) -> list[str]:
    step = BAR_WIDTH / NUM_STEPS
    label = f"change of the loss in thousandths, {layout.unit_of_loss}"
    parts = [f'<text class="quiet" x="0" y="12">{label}</text>']
    parts += [
        f'<rect class="c{number}" x="{number * step:.1f}" y="18" width="{step + 0.3:.1f}" height="12"/>'
        for number in range(NUM_STEPS)
    ]
    for tick in layout.scale.ticks():
        x = layout.scale.place(tick) * BAR_WIDTH
        anchor = "start" if x < 12 else "end" if x > BAR_WIDTH - 12 else "middle"
        parts.append(f'<text class="quiet" x="{x:.1f}" y="43" text-anchor="{anchor}">{tick * 1000:g}</text>')
    cells = [cell for line in layout.lines for cell in line.row.cells.values()]
    x = BAR_WIDTH + 28.0
    notes = [
        ('<circle cx="{x}" cy="24" r="2.6" class="i0"/>', 8, "measured", ""),
        ("", 0, "no dot: estimated", "quiet"),
    ]
    if len(cells) < len(layout.lines) * len(layout.options):
        parts.append(_hatching(prefix))
        notes.append(
            (f'<rect x="{{x}}" y="18" width="22" height="12" fill="url(#{prefix}-hatch)"/>', 28, "not possible", "")
        )
    if any(cell.cost is None for cell in cells):
        notes.append(('<rect class="none" x="{x}" y="18.5" width="22" height="11"/>', 28, "not known", ""))
    for mark, room, text, style in notes:
        parts.append(mark.replace("{x}", f"{x:.1f}"))
        parts.append(f'<text class="{style}" x="{x + room:.1f}" y="28">{text}</text>')
        x += room + text_width(text, 12) + 18
    x = BAR_WIDTH + 28.0
    if layout.chosen:
        parts.append(f'<rect class="chosen" x="{x - 3}" y="37" width="20" height="10"/>')
        parts.append(f'<text x="{x + 25}" y="46">chosen by the plan; a row without one stays in float</text>')
    elif layout.row_height > TWO_LINES_FROM:
        name = layout.quality_name
        parts.append(f'<text class="quiet" x="{x}" y="46">second line: change of {name}, {QUALITY_UNITS[name]}</text>')
    return parts


def _option_names(layout: Layout, y: float) -> list[str]:
    """Patterns over bits, at the middle of their columns."""
    parts = []
    patterns = list(dict.fromkeys(option.pattern for option in layout.options))
    for pattern in patterns if len(patterns) > 1 or patterns != [None] else []:
        xs = [x for x, option in zip(layout.columns, layout.options, strict=True) if option.pattern == pattern]
        middle = (xs[0] + xs[-1] + CELL_WIDTH) / 2
        name = "dense" if pattern is None else f"{pattern} kept"
        parts.append(f'<text class="block" x="{middle:.1f}" y="{y}" text-anchor="middle">{name}</text>')
    for x, option in zip(layout.columns, layout.options, strict=False):
        parts.append(
            f'<text class="quiet" x="{x + CELL_WIDTH / 2:.1f}" y="{y + 16}" text-anchor="middle">int{option.num_bits}</text>'
        )
    return parts


def _body(layout: Layout, prefix: str) -> list[str]:
    parts = [_hatching(prefix)]
    free = dict.fromkeys(("block", "name"), -math.inf)  # the lowest y down to which names of that column are written
    for number, line in enumerate(layout.lines):
        y = number * layout.row_height
        parts += _names(layout, line, y, free)
        for x, option in zip(layout.columns, layout.options, strict=False):
            parts += _cell(layout, line, option, x, y, prefix)
    for number, line in enumerate(layout.lines):
        if option_name := layout.chosen.get(line.row.name):
            names = [option.name for option in layout.options]
            if option_name in names:
                parts += _outline(layout, layout.columns[names.index(option_name)], number * layout.row_height)
    if _is_tall(layout):
        parts += _option_names(layout, layout.height + 14)
    return parts


def _names(layout: Layout, line: Line, y: float, free: dict[str, float]) -> list[str]:
    """The names left of a row; in rows lower than a letter, only where there is room."""
    parts = []
    base = y + layout.row_height / 2 + layout.font * 0.36
    size = f'style="font-size:{layout.font:.1f}px"'
    top = base - layout.font
    if line.block:
        end = layout.columns[-1] + CELL_WIDTH
        parts.append(f'<path class="line" d="M0 {y - 0.5:.1f}H{end:.1f}"/>')
        if top >= free["block"] - 0.01:
            parts.append(f'<text class="block" x="0" y="{base:.1f}" {size}>{_text(line.block)}</text>')
            free["block"] = base + 1
    if top >= free["name"] - 0.01:
        parts.append(f'<text x="{layout.name_x}" y="{base:.1f}" {size}>{_text(line.name)}</text>')
        parts.append(f'<text class="quiet" x="{layout.note_x}" y="{base:.1f}" {size}>{_text(line.note)}</text>')
        free["name"] = base + min(1.0, layout.row_height - layout.font)
    return parts


def _cell(layout: Layout, line: Line, option: Option, x: float, y: float, prefix: str) -> list[str]:
    cell = line.row.cells.get(option.name)
    gap = GAP if layout.row_height >= 8 else 0
    box = f'x="{x}" y="{y:.1f}" width="{CELL_WIDTH - 1}" height="{layout.row_height - gap:.1f}"'
    title = f"<title>{_title(layout, line.row, option, cell)}</title>"
    if cell is None:
        return [f'<rect {box} fill="url(#{prefix}-hatch)">{title}</rect>']
    if cell.cost is None:
        return [f'<rect class="none" pointer-events="all" {box}>{title}</rect>']
    step = layout.scale.step(cell.cost)
    parts = [f'<rect class="c{step}" {box}>{title}</rect>']
    middle = y + layout.row_height / 2
    font = min(11.0, layout.row_height - 3)
    lines = 2 if layout.row_height > TWO_LINES_FROM and cell.quality is not None else 1
    first = middle - (7 if lines == 2 else 0)
    if cell.is_exact:
        radius = min(2.2, layout.row_height / 5)
        parts.append(f'<circle class="i{step} d" cx="{x + 6.5:.1f}" cy="{first:.1f}" r="{radius:.1f}"/>')
    if font >= 8.5:
        number = f'class="i{step} n" x="{x + CELL_WIDTH - 6:.1f}" style="font-size:{font:.1f}px"'
        parts.append(f'<text {number} y="{first + font * 0.36:.1f}">{thousandths(cell.cost)}</text>')
        if lines == 2 and cell.quality is not None:
            text = quality_text(layout.quality_name, cell.quality)
            parts.append(f'<text {number} y="{middle + 7 + font * 0.36:.1f}">{text}</text>')
    return parts


def _title(layout: Layout, row: Row, option: Option, cell: Cell | None) -> str:
    """What hovering shows."""
    lines = [row.name + (f" ({row.kind})" if row.num_units == 1 and row.kind else ""), option.name]
    if row.num_units > 1:
        lines[1] += f" for all {row.num_units} units at once"
    if cell is None:
        lines.append("not possible")
    else:
        how = "measured" if cell.is_exact else "estimated"
        lines.append("loss: not known" if cell.cost is None else f"loss {nats(cell.cost)} {layout.unit_of_loss}, {how}")
        if cell.quality is not None:
            change = quality_text(layout.quality_name, cell.quality)
            lines.append(f"{layout.quality_name} {change} {QUALITY_UNITS[layout.quality_name]}, measured")
        if cell.kl is not None:
            lines.append(f"divergence of outputs {plain(cell.kl)} {layout.unit_of_loss}, measured")
        if cell.size_bytes is not None:
            share = f", {cell.size_bytes / row.size_bytes_float:.1%} of float" if row.size_bytes_float else ""
            lines.append(f"{cell.size_bytes:,} bytes{share}")
        found = (("Fisher", cell.fisher), ("divergence", cell.kl_proxy))
        proxies = [f"{name} {value:.3g}" for name, value in found if value is not None]
        lines += ["proxies: " + ", ".join(proxies)] if proxies else []
        if layout.chosen.get(row.name) == option.name:
            lines.append("chosen by the plan")
    return "\n".join(map(_text, lines))


def _outline(layout: Layout, x: float, y: float) -> list[str]:
    box = f'x="{x + 0.6:.1f}" y="{y + 0.6:.1f}" width="{CELL_WIDTH - 2.2:.1f}" height="{layout.row_height - 2.2:.1f}"'
    return [f'<rect class="{name}" {box}/>' for name in ("halo", "chosen")]


def _hatching(prefix: str) -> str:
    return (
        f'<defs><pattern id="{prefix}-hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><path class="hatch" d="M3 0V6"/></pattern></defs>'
    )


def _text(text: object) -> str:
    return escape(printable(text))
