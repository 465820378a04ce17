"""What a sensitivity table costs, and how its proxies rank cells: docs/experiments/sensitivity.json, a list of what the benchmark wrote.

python tests/bench/bench_sensitivity.py ... --json OUT gives one record; see there for what is timed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.results import ROOT
from experiments.tables import table

FILE = ROOT / "docs" / "experiments" / "sensitivity.json"
PAIRS = {
    "fisher_loss": "`fisher` with the change of the loss",
    "kl_kl": "`kl` with the divergence",
    "kl_loss": "`kl` with the change of the loss",
}
SECTION = """\
### What the table costs

One thread, CPU time, in one run per model. A forward run is one of the float model over the same data; the sweeps measure loss and
divergence of every cell exactly, with what runs before the changed module kept, and by brute force: the whole model every time.

{costs}

Spearman's rank correlation of the proxies with that exact sweep, over all cells, with its 95 % interval; below, over cells of weights alone:

{ranks}

"""


def read_costs(path: Path = FILE) -> list[dict[str, Any]]:
    """The benchmark's records, one a model."""
    records: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return records


def section(records: Sequence[dict[str, Any]]) -> str:
    """Both tables."""
    return SECTION.format(costs=_costs(records), ranks=_ranks(records))


def _costs(records: Sequence[dict[str, Any]]) -> str:
    heading = [
        "model, data",
        "units, cells",
        "forward",
        "proxies of weights",
        "all proxies",
        "exact, kept",
        "exact, brute force",
    ]
    rows = []
    for record in records:
        forward, proxies = record["forward_s"], record["proxies_s"]
        sweeps = (f"{record[key]:.0f} s, {record[key] / proxies:.1f} × the proxies" for key in ("kept_s", "brute_s"))
        rows.append(
            [
                f"`{record['file']}`, {record['num_utterances']:,}",
                f"{record['num_units']}, {record['num_cells']:,}",
                f"{forward:.2f} s",
                *(
                    f"{record[key]:.1f} s, {record[key] / forward:.1f} forwards"
                    for key in ("proxies_weights_s", "proxies_s")
                ),
                *sweeps,
            ]
        )
    return table(heading, rows)


def _ranks(records: Sequence[dict[str, Any]]) -> str:
    rows = []
    for group, said in (("all", ""), ("weights", ", weights")):
        for record in records:
            found = [record[f"{group}_{pair}"] for pair in PAIRS]
            rows.append(
                [f"`{record['file']}`{said}", *(f"{rho:.3f} [{low:.3f}, {high:.3f}]" for rho, low, high in found)]
            )
    return table(["model", *PAIRS.values()], rows)
