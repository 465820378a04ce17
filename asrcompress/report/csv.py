"""The report as CSV: one line per row, every digit, every metric and comparison a column of its own.

A field is empty where nothing was measured. The gates are not in it; json.py and junit.py have them.
"""

from __future__ import annotations

import csv
import io

from asrcompress.report.rows import COLUMNS, QUALITY_METRICS, RATES_PER_HOUR, Report, compression_text

COMPRESSION = ("num_bits", "granularity", "activations", "level", "packed_params_share")


def render(report: Report) -> str:
    """CSV text with a heading line, "\\n" line ends, columns in a stable order."""
    measured = {name for row in report.rows for name in row.values}
    names = [name for name in COLUMNS if name in measured]
    names += sorted(measured - set(names), key=lambda name: ("." in name, name))
    ends = [(name, end) for name in (*QUALITY_METRICS, *RATES_PER_HOUR) if name in measured for end in ("low", "high")]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["model", "sha256", "is_baseline", *COMPRESSION, "bits", "patterns", "finetune_updates", *names]
                    + [f"{name}_interval_{end}" for name, end in ends])  # fmt: skip
    for row in report.rows:
        compression = row.measured.compression
        cells = [*(compression.get(key) for key in COMPRESSION), compression_text("bits", compression)]
        cells.append(compression_text("patterns", compression))
        cells.append(row.training.best.update if row.training else None)
        cells += [row.values.get(name) for name in names]
        cells += [(row.interval(name) or {}).get(end) for name, end in ends]
        writer.writerow([row.label, row.measured.sha256, str(row.is_baseline).lower()]
                        + ["" if cell is None else cell for cell in cells])  # fmt: skip
    return stream.getvalue()
