"""The tables of the page, as markdown. A cell has the WER of one run; marks say what lies outside a paired interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from experiments.plan import (
    BASE,
    GROUPS,
    KINDS,
    LEVELS,
    LEVELS_OF,
    METHODS,
    METHODS_OF_RANGES,
    kind_name,
    level_names,
    operands_name,
    weights_name,
)
from experiments.results import Figures, Result, Results

WORSE, BETTER = "▲", "▼"
NONE = "–"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; columns after the first are numbers."""
    lines = [_row(heading), _row(["---", *["---:"] * (len(heading) - 1)])]
    return "\n".join([*lines, *(_row(row) for row in rows)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def percent(fraction: float) -> str:
    """A rate, in per cent with two digits."""
    return f"{100 * fraction:.2f} %"


def points(fraction: float) -> str:
    """A difference of rates, in percentage points with its sign."""
    return f"{100 * fraction:+.2f}".replace("+0.00", "0.00").replace("-0.00", "0.00")


def size(size_bytes: int) -> str:
    """A size in decimal units."""
    return f"{size_bytes / 1e6:.2f} MB" if size_bytes >= 999_500 else f"{size_bytes / 1e3:.0f} kB"


def mark(figures: Figures) -> str:
    """▲ where the paired interval lies above 0, ▼ where it lies below."""
    return f" {WORSE}" if figures.is_worse else f" {BETTER}" if figures.is_better else ""


def wer(figures: Figures) -> str:
    """The WER with its mark."""
    return percent(figures.wer) + mark(figures)


def paired(figures: Figures) -> str:
    """The paired difference with its interval, in points."""
    if figures.delta is None or figures.delta_low is None or figures.delta_high is None:
        return NONE
    return f"{points(figures.delta)} [{points(figures.delta_low)}, {points(figures.delta_high)}]{mark(figures)}"


def weights_tables(results: Results) -> str:
    """The first part: a table per granularity, methods down, bits across."""
    parts = []
    for granularity in GROUPS:
        bits_of = [bits for bits in (8, 4, 3, 2, 1) if _methods(results, granularity, bits)]
        methods = [m for m in METHODS if any(m in _methods(results, granularity, bits) for bits in bits_of)]
        rows = []
        for method in methods:
            found = [results.runs.get(weights_name(granularity, bits, method)) for bits in bits_of]
            rows.append(
                [f"`{method}`", *(f"{wer(run.test)} · {size(run.size_bytes)}" if run else NONE for run in found)]
            )
        parts += [f"**{_title(granularity)}**\n", table(["method", *map(_bits, bits_of)], rows), ""]
    return "\n".join(parts)


def _methods(results: Results, granularity: str, bits: int) -> list[str]:
    return [method for method in METHODS if weights_name(granularity, bits, method) in results.runs]


def _title(granularity: str) -> str:
    title = granularity.replace("_", " ").capitalize()
    return f"{title} (convolutions: 80)" if granularity == "groups of 48" else title


def _bits(bits: int) -> str:
    return f"{bits} bit" if bits == 1 else f"{bits} bits"


def levels_table(results: Results) -> str:
    """bits x method down, levels across."""
    rows = []
    for bits, method in LEVELS_OF:
        found = [results.runs[name] for name in level_names(bits, method)]
        rows.append([f"{_bits(bits)}, `{method}`", *(f"{wer(run.test)} · {size(run.size_bytes)}" for run in found)])
    return table(["weights", *LEVELS], rows)


def operands_table(results: Results) -> str:
    """Bits of all operands of products down, ways to choose their ranges across."""
    methods = METHODS_OF_RANGES
    rows = []
    for bits in (8, 6, 5, 4):
        names = [operands_name(bits, method) for method in methods]
        rows.append([_bits(bits), *(wer(results.runs[name].test) if name in results.runs else NONE for name in names)])
    return table(["operands", *(f"`{method}`" for method in methods)], rows)


def others_table(results: Results) -> str:
    """Single options, each beside what it is compared with."""
    pairs = [
        ("8 bits, integer-only: 16-bit grids between products", BASE),
        *((f"the same with {bits}-bit grids between products", f"levels-intermediate-{bits}") for bits in (12, 8)),
        ("the same, calibrated with 4 utterances instead of 64", "levels-utterances-4"),
    ]
    for bits, method in ((4, "rtn"), (3, "rtn"), (2, "gptq_asymmetric")):
        pairs.append((f"{bits} bits, `{method}`, stored", weights_name("per_channel", bits, method)))
        pairs.append(("the same with `--bias-correction`", f"levels-bias-{bits}-{method}"))
    rows = [[label, wer(results.runs[name].test), paired(results.runs[name].test)] for label, name in pairs]
    return table(["options", "WER", "paired difference to float, points"], rows)


def kinds_table(results: Results) -> str:
    """The third part: kinds down, bits across; paired differences in points."""
    bits_of = sorted({bits for kind in KINDS for bits in kind.bits}, reverse=True)
    rows = []
    for kind in KINDS:
        found = [results.runs[kind_name(kind, bits)].test if bits in kind.bits else None for bits in bits_of]
        rows.append([kind.label, *(paired(figures) if figures else "" for figures in found)])
    return table(["alone at few bits", *map(_bits, bits_of)], rows)


def best_table(results: Results, runs: Sequence[Result]) -> str:
    """The fourth part: strategies by size, greedy on the test set, with beam 5, and on dev."""
    own = results.float_model
    rows = [["float", "", size(results.float_size_bytes), *(percent(own[key].wer) for key in own)]]
    for run in sorted(runs, key=lambda run: -run.size_bytes):
        found = [run.evaluations.get(suffix) for suffix in own]
        cells = [f"{percent(figures.wer)} ({paired(figures)})" if figures else NONE for figures in found]
        rows.append([f"`{run.name}`", run.audited or run.level, size(run.size_bytes), *cells])
    return table(["strategy", "level, audited", "size", "test, greedy", "test, beam 5", "dev, greedy"], rows)
