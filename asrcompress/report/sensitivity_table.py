"""A sensitivity record as plain text: by kind, by block, then the most sensitive units; columns are options.

Never wrapped: where the options do not fit side by side, a table is given in parts, pattern by pattern. No colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from asrcompress.report.figures import QUALITY_UNITS, plain, quality_text, short_names, thousandths
from asrcompress.report.rows import printable
from asrcompress.report.scatter import describe
from asrcompress.report.sensitivity_rows import Cell, Option, Row, Sensitivity, by_sensitivity, ranking_option
from asrcompress.report.table import text_width

NUM_UNITS = 12  # that are listed
WIDTH = 100
GAP = "  "


def render(found: Sensitivity, chosen: Mapping[str, str | None] | None = None, *, width: int | None = None) -> str:
    """Text with a final newline.

    Args:
        found: what to show.
        chosen: options by unit name, as a plan chooses them; each listed unit's stands behind its name.
        width: characters in a line of the terminal; None for a pipe.
    """
    width = max(width or WIDTH, 60)
    option = ranking_option(found)
    units = by_sensitivity(found.units, option)
    sections = [
        ("by kind (units), most sensitive first", by_sensitivity(found.kinds, option)),
        ("by block (units), in the model's order", found.blocks),
        (_units_title(len(units), option), units[:NUM_UNITS]),
    ]
    lines = [*_summary(found), ""]
    for title, rows in sections:
        lines += [*_table(found, title, rows, chosen or {}, width), ""]
    lines += ["What to leave alone", *(f"- {printable(text)}" for text in found.advice), ""] if found.advice else []
    lines += [f"warning: {printable(text)}" for text in found.warnings]
    return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"


def _units_title(count: int, option: Option) -> str:
    most = f"the {NUM_UNITS} most sensitive of {count} units" if count > NUM_UNITS else "units"
    return f"{most}, by what {option.name} costs"


def _summary(found: Sensitivity) -> list[str]:
    """What was measured on what, how far the proxies can be trusted, and how to read a cell."""
    data = found.record.get("data", {})
    said = ["loss not known" if found.loss is None else f"loss {plain(found.loss)} {found.unit_of_loss}"]
    if found.quality is not None:
        value = f"{found.quality:.2%}".replace("%", " %") if found.quality_name == "wer" else plain(found.quality)
        said.append(f"{found.quality_name} {value}")
    exact = sum(cell.is_exact for unit in found.units for cell in unit.cells.values())
    cells = sum(len(unit.cells) for unit in found.units)
    lines = [
        f"{printable(found.model)}: {', '.join(said)} on {printable(data.get('file'))}",
        f"{len(found.units)} units, {len(found.options)} options: {exact:,} of {cells:,} cells measured, the rest estimated",
    ]
    lines += [f"{c.proxy} proxy against {c.against}: {describe(c)}" for c in found.correlations]
    lines.append("")
    lines.append(f"Change of the loss in thousandths, {found.unit_of_loss}; ~ estimated; - not possible")
    if _is_measured(found.rows):
        name = found.quality_name
        lines.append(f"{name}: its change in {QUALITY_UNITS[name]}, where it was measured")
    return lines


def _is_measured(rows: Sequence[Row]) -> bool:
    return any(cell.quality is not None for row in rows for cell in row.cells.values())


# ---------------------------------------------------------------- one table


def _table(
    found: Sensitivity, title: str, rows: Sequence[Row], chosen: Mapping[str, str | None], width: int
) -> list[str]:
    """A heading and one or more parts side by side with the same names."""
    columns = {option: _column(found, option, rows) for option in found.options}
    widths = {option: max(map(text_width, cells)) for option, cells in columns.items()}
    widest = max([sum(len(GAP) + widths[o] for o in part) for part in _patterns(found.options)], default=0)
    names = _names(found, rows, chosen, max(24, width - widest))
    name_width = max(map(text_width, [*names, title]) if text_width(title) < 30 else map(text_width, names))
    lines = [title]
    for part in _parts(found.options, widths, width - name_width):
        shown = [columns[option] for option in part]
        block = []
        for number, name in enumerate(names):
            cells = [column[number].rjust(widths[option]) for option, column in zip(part, shown, strict=True)]
            if not any(
                cell.strip(" -") for cell in cells
            ):  # no figure in this part: what is not possible is seen in others
                continue
            block.append(GAP.join([name + " " * (name_width - text_width(name)), *cells]))
        lines += ([""] if len(lines) > 1 else []) + block
    return lines


def _names(found: Sensitivity, rows: Sequence[Row], chosen: Mapping[str, str | None], longest: int) -> list[str]:
    """The first column: two lines of headings, then a line for the loss and one for wer or au_fa_fr of each row."""
    counts = [f" ({row.num_units})" if row.num_units > 1 else "" for row in rows]
    plans = [f" = {chosen.get(row.name, 'float')}" if chosen and row in found.units else "" for row in rows]
    room = longest - max([len(count + plan) for count, plan in zip(counts, plans, strict=True)], default=0)
    short = short_names([printable(row.name) for row in rows], room)
    names = ["", ""]
    for name, count, plan in zip(short, counts, plans, strict=True):
        names += [name + count + plan, f"  {found.quality_name}"]
    return names


def _column(found: Sensitivity, option: Option, rows: Sequence[Row]) -> list[str]:
    """Heading lines and cells of an option; a blank behind a measured figure stands where ~ would."""
    cells = [f"int{option.num_bits} ", f"{option.pattern or 'dense'} "]
    for row in rows:
        cell = row.cells.get(option.name)
        cells += [_loss(cell), _quality(found, cell)]
    return cells


def _loss(cell: Cell | None) -> str:
    if cell is None:
        return "- "
    if cell.cost is None:
        return "? "
    return thousandths(cell.cost) + (" " if cell.is_exact else "~")


def _quality(found: Sensitivity, cell: Cell | None) -> str:
    return "" if cell is None or cell.quality is None else quality_text(found.quality_name, cell.quality) + " "


def _patterns(options: Sequence[Option]) -> list[list[Option]]:
    """Options in groups of one pattern, in order."""
    groups: dict[str | None, list[Option]] = {}
    for option in options:
        groups.setdefault(option.pattern, []).append(option)
    return list(groups.values())


def _parts(options: Sequence[Option], widths: Mapping[Option, int], room: int) -> list[list[Option]]:
    """Options that fit side by side: whole patterns where they fit, else as many options as do, one at least."""
    parts: list[list[Option]] = []
    left = 0
    for group in _patterns(options):
        needed = sum(len(GAP) + widths[option] for option in group)
        if parts and needed <= left:
            parts[-1] += group
            left -= needed
            continue
        parts.append([])
        left = room
        for option in group:
            if parts[-1] and len(GAP) + widths[option] > left:
                parts.append([])
                left = room
            parts[-1].append(option)
            left -= len(GAP) + widths[option]
    return parts
