"""A sensitivity table as GitHub-flavoured markdown: the words, and what each kind and the most sensitive units cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from asrcompress.report.figures import QUALITY_UNITS, quality_text, thousandths
from asrcompress.report.markdown import escape
from asrcompress.report.scatter import describe
from asrcompress.report.sensitivity_rows import Cell, Row, Sensitivity, by_sensitivity, ranking_option

NUM_UNITS = 12  # that are listed


def render(found: Sensitivity, chosen: Mapping[str, str | None] | None = None) -> str:
    """A heading, warnings, words, two tables, how far the proxies agree."""
    option = ranking_option(found)
    note = f"Change of the loss in thousandths, {found.unit_of_loss}; ~ estimated; empty: not possible."
    if any(cell.quality is not None for row in found.rows for cell in row.cells.values()):
        note += f" In brackets the change of {found.quality_name} in {QUALITY_UNITS[found.quality_name]}."
    units = by_sensitivity(found.units, option)[:NUM_UNITS]
    lines = [f"## Sensitivity of {escape(found.model)}", ""]
    lines += [f"**Warning:** {escape(warning)}\n" for warning in found.warnings]
    lines += [*(f"- {escape(sentence)}" for sentence in found.advice), ""] if found.advice else []
    lines += [escape(note), "", *_table(found, "kind", by_sensitivity(found.kinds, option), chosen), ""]
    lines += [*_table(found, f"most sensitive units at {option.name}", units, chosen), ""]
    lines += [f"- {c.proxy} proxy against {escape(c.against)}: {describe(c)}" for c in found.correlations]
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(found: Sensitivity, heading: str, rows: Sequence[Row], chosen: Mapping[str, str | None] | None) -> list[str]:
    headings = [heading, *(option.name for option in found.options)]
    lines = [" | ".join(map(escape, headings)), " | ".join(["---", *["---:"] * len(found.options)])]
    for row in rows:
        cells = [_cell(found, row.cells.get(option.name)) for option in found.options]
        if chosen is not None and row in found.units and (picked := chosen.get(row.name)):
            number = [option.name for option in found.options].index(picked)
            cells[number] = f"**{cells[number]}**"
        count = f" ({row.num_units})" if row.num_units > 1 else ""
        lines.append(" | ".join([escape(row.name) + count, *cells]))
    return [f"| {line} |" for line in lines]


def _cell(found: Sensitivity, cell: Cell | None) -> str:
    if cell is None:
        return ""
    text = "?" if cell.cost is None else thousandths(cell.cost) + ("" if cell.is_exact else "\\~")
    return text if cell.quality is None else f"{text} ({quality_text(found.quality_name, cell.quality)})"
