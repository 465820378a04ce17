"""What to leave alone, in words, and what to distrust: sentences from a sensitivity record alone.

Each figure stands with its unit and says whether it was measured. Tables and pictures are others' work.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from asrcompress.report.figures import nats, percent, plain, quality_text
from asrcompress.report.rows import printable
from asrcompress.report.scatter import describe
from asrcompress.report.sensitivity_rows import (
    HURTS_FROM,
    Cell,
    Correlation,
    Option,
    Row,
    Sensitivity,
    by_sensitivity,
    hurts_from,
    ranking_option,
)

MOST = 5  # units and kinds that are named
SAFE_UP_TO = 0.01  # of the loss, for one unit
MORE_FROM = 2.0  # times the others' median: more sensitive than most; the same below
LOW_SPEARMAN, LOW_END = 0.8, 0.6
# What is said to be the sensitive part of speech models: worth a sentence whatever comes out.
CLAIMED = ("embedding", "softmax")


def give_advice(found: Sensitivity) -> list[str]:
    """Sentences for a person: what hurts and from where on, what is safe at the fewest bits, embedding and softmax."""
    limit = f"{plain(hurts_from(found))} {found.unit_of_loss}"
    share = f", {percent(HURTS_FROM, '')} of the float model's {plain(found.loss)}" if found.loss else ""
    return [
        f"An option is said to hurt when it raises the loss by more than {limit}{share}.",
        *_what_hurts(found, [kind for kind in found.kinds if kind.num_units > 1], "kind"),
        *_what_hurts(found, found.units, "unit"),
        *_worst_quality(found),
        *_what_is_safe(found),
        *(sentence for name in CLAIMED for sentence in _claimed(found, name)),
    ]


def give_warnings(found: Sensitivity) -> list[str]:
    """Why estimates of this record may rank wrongly, and what to do; empty where the proxy was checked and agrees.

    The proxy that the costs are scaled from is `options.proxy`; where a record does not say, the one that agrees best.
    """
    checked = [c for c in found.correlations if c.against == "loss"]
    used = found.record.get("options", {}).get("proxy")
    chosen = [c for c in checked if c.proxy == used] or checked
    if not chosen:
        return [
            "No proxy was checked against measured changes of the loss: estimates (~) may rank units wrongly; raise --sample."
        ]
    best = max(chosen, key=lambda c: -2.0 if c.spearman is None else c.spearman)
    reason = _distrust(best)
    if not reason:
        return []
    return [
        f"The {best.proxy} proxy {reason}: {describe(best)}. Estimates (~) may rank units wrongly: trust measured cells only, and "
        "measure more with a larger --top and --sample, or give more speech."
    ]


def _distrust(correlation: Correlation) -> str:
    if correlation.spearman is None:
        return "could not be checked against the measured loss"
    if correlation.spearman < LOW_SPEARMAN:
        return f"agrees too little with the measured loss: its rank correlation is below {LOW_SPEARMAN:g}"
    if correlation.low is None or correlation.low < LOW_END:
        return f"is not checked well enough: the interval of its rank correlation begins below {LOW_END:g}"
    return ""


# ---------------------------------------------------------------- what hurts


def begins_to_hurt(found: Sensitivity, row: Row) -> Option | None:
    """The dense option of most bits that raises the loss by more than `hurts_from`; None where none does."""
    limit = hurts_from(found)
    return next((o for o in found.dense if (cost := row.cost(o)) is not None and cost > limit), None)


def _what_hurts(found: Sensitivity, rows: Sequence[Row], noun: str) -> list[str]:
    """A sentence on each of the most sensitive rows, those that hurt at most bits first."""
    ranked = by_sensitivity(rows, ranking_option(found))
    hurting = [(row, start) for row in ranked if (start := begins_to_hurt(found, row))]
    hurting.sort(key=lambda pair: -pair[1].num_bits)  # stable: by cost among those that begin alike
    fewest = found.dense[-1].name if found.dense else ""
    if not hurting:
        which = "No kind of units hurts, all of them at once," if noun == "kind" else "No single unit hurts"
        return [f"{which} even at {fewest}."] if fewest and rows else []
    sentences = []
    for row, start in hurting[:MOST]:
        text = f"{_named(found, row)}: hurts from {start.name} down ({_figures(found, row.cells[start.name])})"
        above = [o for o in found.dense if o.num_bits > start.num_bits and row.cost(o) is not None]
        leave = f"at {above[-1].name} ({_figures(found, row.cells[above[-1].name])})" if above else "in float"
        sentences.append(f"{text}; leave {leave}.")
    if len(hurting) > MOST:
        sentences.append(f"{len(hurting) - MOST} more of {len(rows)} {noun}s hurt at {fewest}, if not before.")
    return sentences


def _named(found: Sensitivity, row: Row) -> str:
    """A row with its share of the weights' bytes, which is what leaving it in float would cost."""
    total = sum(unit.size_bytes_float for unit in found.units)
    share = f"{percent(row.size_bytes_float / total, '')} of the weights" if row.size_bytes_float and total else ""
    name = printable(row.name)
    if row.num_units > 1:
        return f"{name[:1].upper()}{name[1:]}, all {row.num_units} units at once" + (f" ({share})" if share else "")
    return f"{name} ({', '.join(filter(None, (printable(row.kind), share)))})"


def _figures(found: Sensitivity, cell: Cell) -> str:
    """loss +0.0153 nats per token, +12 %, WER +0.52 points, measured."""
    if cell.cost is None:
        return "not known"
    parts = [f"loss {nats(cell.cost)} {found.unit_of_loss}"]
    if found.loss:
        parts.append(percent(cell.cost / found.loss))
    if cell.quality is not None:
        parts.append(_quality(found, cell.quality))
    return ", ".join([*parts, "measured" if cell.is_exact else "estimated"])


def _quality(found: Sensitivity, change: float) -> str:
    """The change of wer in points, or of au_fa_fr in full."""
    if found.quality_name == "wer":
        return f"WER {quality_text('wer', change)} points"
    return f"AU FA-FR {nats(change)}"


def _worst_quality(found: Sensitivity) -> list[str]:
    """The largest measured change of wer or au_fa_fr by one unit."""
    cells = [
        (cell.quality, unit, name)
        for unit in found.units
        for name, cell in unit.cells.items()
        if cell.quality is not None
    ]
    if not cells or found.quality is None:
        return []
    change, unit, name = max(cells, key=lambda item: item[0])
    if found.quality_name == "wer":
        ends = f"WER from {found.quality:.2%} to {found.quality + change:.2%}".replace("%", " %")
    else:
        ends = f"AU FA-FR from {plain(found.quality)} to {plain(found.quality + change)}"
    return [
        f"Largest measured change by one unit: {ends}, {_named(found, unit)} at {name}; {len(cells)} cells were measured so."
    ]


# ---------------------------------------------------------------- what is safe


def _what_is_safe(found: Sensitivity) -> list[str]:
    """How many units bear the fewest bits, and which kinds bear them all at once; the same with the sparsest pattern."""
    sentences = []
    dense = found.dense[-1:]
    sparse = found.options[-1:] if found.options and found.options[-1].pattern else ()
    for option in (*dense, *sparse):
        known = [(unit, cost) for unit in found.units if (cost := unit.cost(option)) is not None]
        limit = SAFE_UP_TO * found.loss if found.loss else hurts_from(found) / 5
        safe = [cost for _, cost in known if cost <= limit]
        text = f"At {option.name}, {len(safe)} of {len(known)} units raise the loss by at most {plain(limit)} {found.unit_of_loss} each"
        text += f" ({percent(SAFE_UP_TO, '')} of the loss)" if found.loss else ""
        if safe:
            text += f", {nats(sum(safe))} in sum"
        kinds = [kind for kind in found.kinds if (c := kind.cost(option)) is not None and c <= hurts_from(found)]
        if kinds:
            told = "; ".join(f"{printable(k.name)} ({_figures(found, k.cells[option.name])})" for k in kinds[:MOST])
            text += f". Whole kinds that do not hurt there: {told}"
        else:
            text += ". Every kind, all its units at once, hurts there"
        sentences.append(f"{text}.")
    return sentences


# ---------------------------------------------------------------- embedding and softmax


def _claimed(found: Sensitivity, name: str) -> list[str]:
    """Whether a kind is as sensitive as is said of it: its median unit against that of all others, its ranks, its sum."""
    kind = next((kind for kind in found.kinds if kind.name.lower() == name), None)
    title = name.capitalize()
    if kind is None:
        return [f"{title}: this table has no unit of that kind."]
    option = ranking_option(found)
    ranked = [(unit, cost) for unit in by_sensitivity(found.units, option) if (cost := unit.cost(option)) is not None]
    own = [cost for unit, cost in ranked if unit.kind == kind.name]
    others = [cost for unit, cost in ranked if unit.kind != kind.name]
    if not own or not others:
        return [f"{title}: there is nothing to compare it with at {option.name}."]
    median, rest = statistics.median(own), statistics.median(others)
    rank = next(number for number, (unit, _) in enumerate(ranked, 1) if unit.kind == kind.name)
    verdict = "more" if median > MORE_FROM * max(rest, 0.0) else "less" if median * MORE_FROM < rest else ""
    text = (
        f"{title} is {verdict} sensitive than most here"
        if verdict
        else f"{title} is about as sensitive as the rest here"
    )
    which, best = ("its unit", "rank") if len(own) == 1 else (f"the median of its {len(own)} units", "highest rank")
    times = (
        f"{median / rest:.2g} times the median of the others"
        if rest > 0 < median
        else f"{nats(median)}, others {nats(rest)}"
    )
    text += f": at {option.name} {which} costs {times} ({best} {rank} of {len(ranked)}"
    figures = _figures(found, kind.cells[option.name])
    text += f"; {figures})" if kind.num_units == 1 else f"); all {kind.num_units} at once: {figures}"
    start = begins_to_hurt(found, kind)
    fewest = found.dense[-1].name if found.dense else option.name
    return [f"{text}; hurts from {start.name} down." if start else f"{text}; does not hurt even at {fewest}."]
