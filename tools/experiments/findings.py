"""What the runs say, in sentences whose numbers come from the results."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.best import SCOPES, winners
from experiments.plan import (
    KINDS,
    LEVELS_OF,
    METHODS_OF_RANGES,
    Kind,
    kind_name,
    level_names,
    operands_name,
    weights_name,
)
from experiments.results import Result, Results
from experiments.tables import paired, percent, points, size


def findings(results: Results) -> str:
    """A list, in markdown."""
    makers = (_float, _wide_weights, _three_bits, _two_bits, _levels, _operands, _kinds, _costly_kinds, _best, _checked)
    return "\n".join(f"- {maker(results)}" for maker in makers)


def _of_bits(results: Results, *bits: int, part: str = "weights") -> list[Result]:
    return [
        run
        for run in results.runs.values()
        if run.name.startswith(part) and run.recipe["num_bits"] in bits and run.recipe["granularity"] != "per_tensor"
    ]


def _names(runs: Sequence[Result]) -> str:
    return ", ".join(f"`{run.name.removeprefix('weights-')}` {percent(run.test.wer)}" for run in runs) or "none"


def _best_of(runs: Sequence[Result]) -> Result:
    return min(runs, key=lambda run: (run.test.wer, run.size_bytes))


def _float(results: Results) -> str:
    own, data = results.float_model["eval"], results.conditions["data"]["eval"]
    beam, better = results.float_model["beam5.eval"], sum(run.test.is_better for run in results.runs.values())
    return (
        f"**The yardstick.** Float makes {own.num_errors} errors in {data['num_words']:,} words: WER {percent(own.wer)} "
        f"greedy [{percent(own.low)}, {percent(own.high)}], {percent(beam.wer)} with beam 5. One error is {100 / data['num_words']:.3f} points, so "
        "differences of a few errors say nothing; what is called worse below has a paired 95 % interval above 0. "
        f"With {len(results.runs)} runs some intervals leave out 0 by chance; {better} of them lie below 0."
    )


def _wide_weights(results: Results) -> str:
    eight, four = _of_bits(results, 8), _of_bits(results, 4)
    worse = [run for run in (*eight, *four) if run.test.is_worse]
    wers = [run.test.wer for run in (*eight, *four)]
    said = "none is worse than float" if not worse else f"worse than float: {_names(worse)}"
    return (
        f"**8 and 4 bits.** Of {len(wers)} runs with scales per channel or group, {said}; their WER lies between {percent(min(wers))} and "
        f"{percent(max(wers))}. 4 bits with `rtn` take {size(results.runs[weights_name('per_channel', 4, 'rtn')].size_bytes)}."
    )


def _three_bits(results: Results) -> str:
    runs = _of_bits(results, 3)
    channel = [run for run in runs if run.recipe["granularity"] == "per_channel"]
    rtn, best = results.runs[weights_name("per_channel", 3, "rtn")], _best_of(channel)
    kept = [run for run in runs if not run.test.is_worse]
    return (
        f"**3 bits** are where the method starts to matter: per channel `rtn` has {percent(rtn.test.wer)}, `{best.recipe['method']}` "
        f"{percent(best.test.wer)}. {len(kept)} of {len(runs)} runs are not worse than float: {_names(kept)}."
    )


def _two_bits(results: Results) -> str:
    two, one = _of_bits(results, 2), _of_bits(results, 1)
    best, best_one = _best_of(two), _best_of(one)
    rtn = results.runs[weights_name("per_channel", 2, "rtn")]
    return (
        f"**2 bits and 1 bit** without training again: `rtn` per channel has {percent(rtn.test.wer)}; the best at 2 bits is "
        f"`{best.name.removeprefix('weights-')}` with {percent(best.test.wer)} in {size(best.size_bytes)}; "
        f"signs alone have {percent(best_one.test.wer)} at best."
    )


def _levels(results: Results) -> str:
    parts, worse = [], []
    for bits, method in LEVELS_OF:
        found = [results.runs[name] for name in level_names(bits, method)]
        parts.append(f"{bits} bits, `{method}`: {', '.join(percent(run.test.wer) for run in found)}")
        worse += [run for run in found[1:] if run.test.is_worse and not found[0].test.is_worse]
    runs = [run for run in results.runs.values() if run.level == "integer-only"]
    reached = [run for run in runs if run.audited == "integer-only"]
    cost = (
        f"costs something: {_names(worse)} are worse than float"
        if worse
        else "costs nothing that this test set can see"
    )
    return (
        f"**Computing on integers {cost}.** Stored, computed, integer-only: {'; '.join(parts)}. The audit proves level integer-only "
        f"for {len(reached)} of the {len(runs)} files that claim it."
    )


def _operands(results: Results) -> str:
    cells = []
    for bits in (8, 6, 5, 4):
        names = [operands_name(bits, method) for method in METHODS_OF_RANGES]
        best = _best_of([results.runs[name] for name in names if name in results.runs])
        worse = ", worse than float" if best.test.is_worse else ""
        cells.append(f"{bits} bits {percent(best.test.wer)} (`{best.recipe['calibration_method']}`{worse})")
    twelve, eight = (results.runs[f"levels-intermediate-{bits}"].test for bits in (12, 8))
    return (
        f"**Activations.** All operands of products at once, with the best of the ways to choose their ranges: {', '.join(cells)}. "
        f"Grids between products with 12 bits instead of 16: {paired(twelve)} points; with 8: {paired(eight)}."
    )


def _lowest(results: Results, kind: Kind) -> int | None:
    """The fewest bits down to which no number of bits that was tried is worse than float."""
    lowest = None
    for bits in kind.bits:
        if results.runs[kind_name(kind, bits)].test.is_worse:
            break
        lowest = bits
    return lowest


def _kinds(results: Results) -> str:
    by_bits: dict[int | None, list[str]] = {}
    for kind in KINDS:
        by_bits.setdefault(_lowest(results, kind), []).append(kind.label)
    parts = [
        f"down to {bits} bits: {'; '.join(labels)}" for bits, labels in sorted((b, n) for b, n in by_bits.items() if b)
    ]
    if None in by_bits:
        parts.append(f"worse at the first step that was tried: {'; '.join(by_bits[None])}")
    return "**One kind alone**, all else at 8 and 16 bits, is not worse than float\n  - " + "\n  - ".join(parts)


def _costly_kinds(results: Results) -> str:
    worst = []
    for kind in KINDS:
        by_cost = [(results.runs[kind_name(kind, bits)].test.delta or 0.0, kind.label, bits) for bits in kind.bits]
        worst.append(max(by_cost))
    said = "; ".join(
        f"{label} at {bits} bits ({points(delta)})" for delta, label, bits in sorted(worst, reverse=True)[:6]
    )
    return f"**What costs most**, in points of WER and among what was tried, weights rounded with `rtn`: {said}."


def _best(results: Results) -> str:
    kept: dict[str, list[str]] = {}
    found = winners(results)
    for (criterion, scope), run in found.items():
        twice = all(found.get((criterion, other)) is run for other in SCOPES)
        if not twice or scope == SCOPES[0]:
            kept.setdefault(run.name, []).append(criterion if twice else f"{criterion} ({scope})")
    parts = []
    for name, promises in kept.items():
        run = results.runs[name]
        share = f"{100 * run.size_bytes / results.float_size_bytes:.1f} % of float"
        parts.append(f"`{name}`: {size(run.size_bytes)} ({share}), {percent(run.test.wer)}: {'; '.join(promises)}")
    return "**The smallest file that keeps a promise**, greedy on the test set\n  - " + "\n  - ".join(parts)


def _checked(results: Results) -> str:
    runs = {run.name: run for run in winners(results).values()}.values()
    other = [suffix for suffix in results.float_model if suffix != "eval"]
    worse = [
        f"`{run.name}` ({suffix.removesuffix('.eval')})"
        for run in runs
        for suffix in other
        if run.evaluations[suffix].is_worse
    ]
    said = f"worse than float there: {', '.join(worse)}" if worse else "none of them is worse than float there"
    return (
        "**How far that goes.** These are the smallest of many files, picked by the test set itself, which flatters them. "
        f"So they were evaluated again, with beam 5 and on dev (whose first 64 utterances, without their texts, calibrated them): {said}."
    )
