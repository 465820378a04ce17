"""A sensitivity table as CSV: one line per unit and option, every digit. A field is empty where nothing was measured."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from asrcompress.report.sensitivity_rows import Sensitivity

HEADINGS = (
    "unit", "kind", "block", "target", "num_params", "size_bytes_float", "option", "num_bits", "pattern", "size_bytes",
    "fisher", "kl_proxy", "loss_change", "kl", "quality_change", "cost", "is_measured", "is_chosen",
)  # fmt: skip


def render(found: Sensitivity, chosen: Mapping[str, str | None] | None = None) -> str:
    """CSV text with a heading line and "\\n" line ends; options that a unit cannot have are left out."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    quality = f"{found.quality_name}_change" if found.quality_name else "quality_change"
    writer.writerow([quality if heading == "quality_change" else heading for heading in HEADINGS])
    for unit in found.units:
        for option in found.options:
            cell = unit.cells.get(option.name)
            if cell is None:
                continue
            picked = "" if chosen is None else str(chosen.get(unit.name) == option.name).lower()
            fields = [unit.name, unit.kind, unit.block, unit.target, unit.num_params, unit.size_bytes_float]
            fields += [option.name, option.num_bits, option.pattern, cell.size_bytes, cell.fisher, cell.kl_proxy]
            fields += [cell.cost if cell.is_exact else None, cell.kl, cell.quality, cell.cost]
            writer.writerow(["" if f is None else f for f in (*fields, str(cell.is_exact).lower(), picked)])
    return stream.getvalue()
