"""A sensitivity record as one HTML page: words, the plan, heat maps by kind, by block and by unit, proxies against measurements.

No script, no network, no fonts to fetch; it follows the reader's light or dark setting and prints. Every string from a
record is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from asrcompress.report import heat_map, scatter
from asrcompress.report.colours import CostScale, themed
from asrcompress.report.figures import nats, percent, plain
from asrcompress.report.html import PAGE_STYLE
from asrcompress.report.rows import printable
from asrcompress.report.sensitivity_rows import HURTS_FROM, PROXIES, Row, Sensitivity

STYLE = """
body { max-width: 1240px; } p { max-width: 900px; } ul.words { color: var(--text); max-width: 900px; font-size: 15px; }
ul.words li { margin-bottom: 5px; } svg.map, svg.scatter { display: block; max-width: none; } figure { margin: 0; }
.warning { background: var(--warn-soft); border-radius: 6px; padding: 8px 14px; } .pair { display: flex; flex-wrap: wrap; gap: 24px; }
.head { position: sticky; top: 0; background: var(--page); padding-top: 8px; z-index: 1; }
.fit { width: fit-content; max-width: 100%; } .facts td, .facts th { padding: 4px 14px; }
@media (max-width: 1290px) { .map-box { overflow-x: auto; } .head { position: static; } }
@media print { .head { position: static; } svg.map { max-width: 100%; height: auto; } }
"""


def render(found: Sensitivity, chosen: Mapping[str, str | None] | None = None) -> str:
    """A whole HTML document.

    Args:
        found: what to show.
        chosen: options by unit name, as a plan chooses them; None, or no entry: the unit stays in float.
    """
    scale = CostScale.over(heat_map.costs(found.rows), found.loss)
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Sensitivity of {_text(found.model)}</title>",
            f"<style>{PAGE_STYLE}{STYLE}{themed(heat_map.STYLE + scatter.STYLE)}</style>\n</head>\n<body>",
            f"<h1>Sensitivity of {_text(found.model)}</h1>",
            f'<p class="quiet">{_text(_summary(found))}</p>',
            *(f'<p class="warning">{_text(warning)}</p>' for warning in found.warnings),
            *_words(found),
            *(_plan(found, chosen) if chosen is not None else []),
            *_groups(found, scale),
            *_units(found, scale, chosen or {}),
            *_trust(found),
            *_reading(found),
            *_facts(found),
            "</body>\n</html>\n",
        ]
    )


def _summary(found: Sensitivity) -> str:
    data = found.record.get("data", {})
    said = ["loss not known" if found.loss is None else f"loss {plain(found.loss)} {found.unit_of_loss}"]
    if found.quality is not None:
        text = f"{found.quality:.2%}".replace("%", " %") if found.quality_name == "wer" else plain(found.quality)
        said.append(f"{found.quality_name} {text}")
    exact = sum(cell.is_exact for unit in found.units for cell in unit.cells.values())
    cells = sum(len(unit.cells) for unit in found.units)
    return (
        f"In float: {', '.join(said)} on {data.get('file')}. {len(found.units)} units under {len(found.options)} options; "
        f"{exact:,} of {cells:,} cells were measured, the rest is estimated."
    )


def _words(found: Sensitivity) -> list[str]:
    if not found.advice:
        return []
    items = (f"<li>{_text(sentence)}</li>" for sentence in found.advice)
    return ["<h2>What to leave alone</h2>", '<ul class="words">', *items, "</ul>"]


# ---------------------------------------------------------------- heat maps


def _groups(found: Sensitivity, scale: CostScale) -> list[str]:
    parts = []
    for by, groups in (("kind", found.kinds), ("block", found.blocks)):
        layout = heat_map.group_layout(found, groups, scale)
        title = f"Cost of each option by {by}"
        parts.append(f"<h2>By {by}</h2>")
        parts.append(f'<p class="quiet">All units of a {by} were given the option at once.</p>')
        parts.append(f'<figure class="map-box">{heat_map.heat_head(layout, f"{by}-top")}')
        parts.append(f"{heat_map.heat_map(layout, by, title)}</figure>")
    return parts


def _units(found: Sensitivity, scale: CostScale, chosen: Mapping[str, str | None]) -> list[str]:
    layout = heat_map.unit_layout(found, scale, chosen)
    return [
        "<h2>Unit by unit</h2>",
        '<p class="quiet">In the order of the model. Hovering a cell shows its figures.</p>',
        f'<figure class="map-box"><div class="head">{heat_map.heat_head(layout, "unit-top")}</div>',
        f"{heat_map.heat_map(layout, 'unit', 'Cost of each option by unit')}</figure>",
    ]


# ---------------------------------------------------------------- the plan


def _plan(found: Sensitivity, chosen: Mapping[str, str | None]) -> list[str]:
    """How many units and bytes each option was given, and what that should cost."""
    rows = [_plan_row(option.name, found, chosen) for option in found.options]
    rows += [_plan_row(None, found, chosen)]
    priced = [_cost(found, name, option) for name, option in chosen.items() if option is not None]
    known = [cost for cost in priced if cost is not None]
    total = math.fsum(known)
    share = f" ({percent(total / found.loss)} of the float model's)" if found.loss else ""
    head = "".join(
        f'<th class="{"number" if i else ""}">{text}</th>'
        for i, text in enumerate(("option", "units", "parameters", "bytes", "bytes in float"))
    )
    sizes = [_size(unit, chosen.get(unit.name)) for unit in found.units]
    in_float = sum(unit.size_bytes_float for unit in found.units)
    of_float = f", {sum(sizes) / in_float:.1%} of float".replace("%", " %") if in_float else ""
    return [
        "<h2>The plan</h2>",
        f'<p class="quiet">Its weights take {sum(sizes):,} bytes{of_float}. Costs of its cells add up to a loss of '
        f"{nats(total)} {found.unit_of_loss}{share}; that they add up is an assumption, so evaluate the file.</p>",
        f'<div class="scroll fit"><table class="facts"><thead><tr>{head}</tr></thead><tbody>',
        *(row for row in rows if row),
        "</tbody></table></div>",
    ]


def _plan_row(option: str | None, found: Sensitivity, chosen: Mapping[str, str | None]) -> str:
    units = [unit for unit in found.units if unit.num_params and chosen.get(unit.name) == option]
    if not units:
        return ""
    cells = [len(units), sum(unit.num_params for unit in units), sum(_size(unit, option) for unit in units)]
    cells.append(sum(unit.size_bytes_float for unit in units))
    numbers = "".join(f'<td class="number">{cell:,}</td>' for cell in cells)
    return f"<tr><td>{_text(option or 'float')}</td>{numbers}</tr>"


def _size(unit: Row, option: str | None) -> int:
    """Bytes of a unit under an option, in float without one."""
    return unit.size_bytes_float if option is None else unit.cells[option].size_bytes or 0


def _cost(found: Sensitivity, name: str, option: str) -> float | None:
    return next(unit.cells[option].cost for unit in found.units if unit.name == name)


# ---------------------------------------------------------------- trust, reading, facts


def _trust(found: Sensitivity) -> list[str]:
    plots = [plot for proxy in PROXIES if (plot := scatter.scatter(found, proxy))]
    lines = [f"{PROXIES.get(c.proxy, c.proxy)} against {c.against}: {scatter.describe(c)}" for c in found.correlations]
    if not plots and not lines:
        return []
    below = max(scatter.num_below_zero(found, proxy) for proxy in PROXIES)
    note = f" Hollow points on the lower edge: {below} cells that raised the loss by nothing." if below else ""
    return [
        "<h2>Estimated against measured</h2>",
        f'<p class="quiet">A point is a measured cell; the closer the points come to a rising line, the better unmeasured cells '
        f"are ranked.{note}</p>",
        '<div class="pair">',
        *plots,
        "</div>",
        "<ul>",
        *(f"<li>{_text(line)}</li>" for line in lines),
        "</ul>",
    ]


def _reading(found: Sensitivity) -> list[str]:
    limit = (
        f", and an option is said to hurt from {percent(HURTS_FROM, '')} of the float model's loss on"
        if found.loss
        else ""
    )
    return [
        "<h2>How to read it</h2>",
        f"<p>A cell is what one option does to one unit while all else stays in float: the change of the loss in thousandths, "
        f"{found.unit_of_loss}. 1 means a loss higher by 0.001{limit}. The colour is on a logarithmic scale: what is near the page's own "
        "colour costs nothing that matters, the far end is the worst of this page, whichever it is. A dot marks what was measured by running the "
        "changed model; the rest is estimated from gradients and scaled to the measurements. Small and negative figures are "
        "within what the data can tell.</p>",
    ]


def _facts(found: Sensitivity) -> list[str]:
    record = found.record
    model, data, options, tool = (_table(record, key) for key in ("model", "data", "options", "tool"))
    facts: list[tuple[str, Any]] = [
        ("model", f"{model.get('file')}, sha256 {model.get('sha256')}"),
        ("data", f"{data.get('file')}, {data.get('num_utterances')} utterances, sha256 {data.get('sha256')}"),
        *((key, ", ".join(map(str, value)) if isinstance(value, list) else value) for key, value in options.items()),
        *((key, value) for key, value in _table(record, "metrics").items()),
        ("made by", f"{tool.get('name')} {tool.get('version')}, {record.get('created_at')}"),
    ]
    rows = (
        f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in facts if value not in (None, "")
    )
    return [
        "<h2>How it was made</h2>",
        '<div class="scroll fit"><table class="facts"><tbody>',
        *rows,
        "</tbody></table></div>",
    ]


def _table(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def _text(text: object) -> str:
    return escape(printable(text))
