"""Make docs/keyword-spotting.md of docs/experiments/kws.json and keyword-spotting.md.in, and of nothing else.

python -m experiments.kws_page OUT        first collects the sidecars of tools/kws.sh in OUT (from tools/)
python -m experiments.kws_page --check    says whether the page is up to date (exit 1 if not)
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from experiments.kws_results import (
    FILE,
    INT8,
    NO_LOSS,
    PACKED,
    PUBLISHED,
    RUNNING,
    SEEDS,
    SMALLEST,
    SPREADS,
    STUDENTS,
    write_results,
)
from experiments.results import ROOT
from experiments.tables import NONE, table

PAGE, TEMPLATE = ROOT / "docs" / "keyword-spotting.md", Path(__file__).with_name("keyword-spotting.md.in")
MIB = 2**20
HEADING = (
    "",
    "params",
    "MiB as float32",
    "file, bytes",
    "MACs",
    "AU FA-FR",
    "smaller",
    "fewer MACs",
    "of the base's AU FA-FR",
)
File = dict[str, Any]


def render(results: dict[str, Any]) -> str:
    """The page."""
    files, heard = results["files"], results["long_form"]["smallest"]
    base, policy = files[PUBLISHED], heard["policy"]
    published = {PUBLISHED: "base, C=8, H=64", **STUDENTS, **INT8}
    negatives = [
        f"{each['file']}, {each['hours']:.2f} h, {each['num_utterances']:,} utterances ({each['num_left_out']} with the keyword left out)"
        for each in heard["negatives"]
    ]
    return TEMPLATE.read_text(encoding="utf-8").format(
        smallest_bytes=f"{files[SMALLEST]['size_bytes']:,}",
        base_bytes=f"{base['size_bytes']:,}",
        num_test=f"{results['num_test']:,}",
        base_params=f"{base['num_params']:,}",
        findings="\n".join(
            _finding(files, name, what) for name, what in ((NO_LOSS, "No loss"), (SMALLEST, "Smallest"))
        ),
        published=table(HEADING, [_row(label, files[name], base) for name, label in published.items()]),
        packed=table(HEADING, [_row(label, files[name], base) for name, label in PACKED.items()]),
        ledgers=_ledgers(files),
        spread=_spread(files),
        streaming=_streaming(results),
        long_form=_long_form(results),
        num_keywords=heard["keywords"]["num_keywords"],
        smoothing_s=f"{policy['smoothing_s']:g}",
        debounce_s=f"{policy['debounce_s']:g}",
        negatives="; ".join(negatives),
        plateau_raw=f"{heard['plateau']['raw_s']['median']:.2f}",
        plateau_reset=f"{heard['plateau']['reset_s']['median']:.2f}",
    )


def _area(value: float) -> str:
    return f"{value * 1e4:.2f}e-4"


def _row(label: str, file: File, base: File) -> list[str]:
    """The report's columns, and against the base."""
    return [
        label,
        f"{file['num_params']:,}",
        f"{file['num_params'] * 4 / MIB:.5f}",
        f"{file['size_bytes']:,}",
        f"{file['thop_conv_bias_macs']:,}",
        _area(file["au_fa_fr"]),
        f"{base['size_bytes'] / file['size_bytes']:.2f}x",
        f"{base['thop_conv_bias_macs'] / file['thop_conv_bias_macs']:.2f}x",
        f"{file['au_fa_fr'] / base['au_fa_fr']:.2f}",
    ]


def _finding(files: dict[str, File], name: str, what: str) -> str:
    file, base = files[name], files[PUBLISHED]
    areas = [files[f"{name[:-1]}{seed}"]["au_fa_fr"] for seed in SEEDS]
    return (
        f"- {what}: {PACKED[name]}: **{file['size_bytes']:,} bytes, {base['size_bytes'] / file['size_bytes']:.1f} times smaller**, "
        f"{base['thop_conv_bias_macs'] / file['thop_conv_bias_macs']:.2f} times fewer MACs, AU FA-FR {_area(file['au_fa_fr'])} against "
        f"{_area(base['au_fa_fr'])}, {file['au_fa_fr'] / base['au_fa_fr']:.2f} of it (three seeds: {_area(min(areas))} to {_area(max(areas))}); "
        f"level {file['level']}, float operations inside: {file['num_float_ops']}, violations: {file['violations']}."
    )


def _spread(files: dict[str, File]) -> str:
    rows = []
    for name, label in SPREADS.items():
        found = [files[f"{name}-s{seed}"] for seed in SEEDS]
        areas = [file["au_fa_fr"] * 1e4 for file in found]
        sizes = " / ".join(dict.fromkeys(f"{file['size_bytes']:,}" for file in found))
        of_base = statistics.mean(areas) / (files[PUBLISHED]["au_fa_fr"] * 1e4)
        figures = [*areas, statistics.mean(areas), max(areas) - min(areas), of_base]
        rows.append([label, sizes, *(f"{figure:.2f}" for figure in figures)])
    heading = (
        "",
        "file, bytes",
        *(f"seed {seed}" for seed in SEEDS),
        "mean",
        "largest - smallest",
        "mean, of the base's",
    )
    return table(heading, rows)


def _ledgers(files: dict[str, File]) -> str:
    names = ["c2h12-int4", "c2h12-int2-s1", SMALLEST]
    kinds = list(dict.fromkeys(kind for name in names for kind in files[name]["ledger"]))
    rows = [[kind, *(f"{files[name]['ledger'].get(kind, 0):,}" for name in names)] for kind in kinds]
    rows.append(["file", *(f"{files[name]['size_bytes']:,}" for name in names)])
    return table(("", *(PACKED[name] for name in names)), rows)


def _streaming(results: dict[str, Any]) -> str:
    rows = []
    for name, label in RUNNING.items():
        runs = results["streaming"][name]
        different = [run["num_different"] for run in runs]
        latencies = [statistics.median(run["latency_ms"][key] for run in runs) for key in ("median", "p95")]
        factor = statistics.median(run["cpu_real_time_factor"] for run in runs)
        rows.append(
            [
                label,
                f"{sum(run['num_steps'] for run in runs):,}",
                f"{max(run['max_difference'] for run in runs):.1e}",
                NONE if None in different else str(sum(different)),
                *(f"{latency:.2f}" for latency in latencies),
                f"{factor:.4f}",
                f"{max(run['state_bytes'] for run in runs):,}",
            ]
        )
    heading = (
        "",
        "steps",
        "largest difference",
        "other codes",
        "ms a piece, median",
        "95 %",
        "CPU time over audio",
        "state, bytes",
    )
    return table(heading, rows)


def _long_form(results: dict[str, Any]) -> str:
    rows = []
    for name, label in RUNNING.items():
        found = results["long_form"][name]
        interval, missed = found["interval"], f"{found['false_rejects']} ({100 * found['false_reject_rate']:.2f} %)"
        sets = ", ".join(
            f"{each['file']} {each['false_accepts']} in {each['hours']:.2f} h" for each in found["negatives"]
        )
        rows.append(
            [
                label,
                f"{found['hours']:.2f}",
                f"{found['false_accepts']} ({sets})",
                f"{found['false_accepts_per_hour']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]",
                missed,
                f"{found['policy']['threshold']:.4f}",
                *(
                    f"{found[key]['median']:.0f} / {found[key]['p95']:.0f}"
                    for key in ("latency_from_start_ms", "latency_from_end_ms")
                ),
            ]
        )
    heading = (
        "",
        "hours",
        "false accepts",
        "per hour",
        "missed",
        "threshold",
        "ms from the clip's start, median / 95 %",
        "from its end",
    )
    return table(heading, rows)


def main(arguments: list[str]) -> int:
    """Write, or compare."""
    if "--check" not in arguments:
        write_results(Path(arguments[0]))
    text = render(json.loads(FILE.read_text(encoding="utf-8")))
    if "--check" in arguments:
        return int(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
