"""Whether Embedding and Softmax are the sensitive ones: what the table says of kinds and units, and of single parameters."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from experiments.plans_results import Plans
from experiments.tables import points, table

BITS = (8, 4, 3, 2)
EMBEDDING, SOFTMAX = "embedding", "softmax"


def kinds_table(plans: Plans) -> str:
    """Kinds down, bits across: loss and WER with all units of a kind changed at once."""
    rows = []
    for kind, options in plans.table["kinds"].items():
        units = _units(plans, kind)
        num_params = sum(unit["num_params"] for unit in units)
        size = f"{num_params:,} weights" if num_params else "activations"
        cells = [
            f"{_signed(options[f'int{bits}']['loss_change'])} · {points(options[f'int{bits}']['wer_change'])}"
            for bits in BITS
        ]
        rows.append([f"{kind}, {_count(len(units))}, {size}", *cells])
    return table(["kind", *(f"{bits} bits" for bits in BITS)], rows)


def divergences_table(plans: Plans) -> str:
    """Kinds down, bits across: divergence with all units changed at once, and the median of the units changed alone."""
    rows = []
    for kind in plans.table["kinds"]:
        cells = [
            f"{_thousandths(_kl(plans, kind, bits))} · {_thousandths(_median(plans, kind, bits))}" for bits in BITS
        ]
        rows.append([kind, *cells])
    return table(["kind", *(f"{bits} bits" for bits in BITS)], rows)


def parameters_table(plans: Plans) -> str:
    """Kinds of weights down, bits across: divergence per million parameters."""
    kinds = _kinds(plans, "weight")
    rows = [[kind, *(_thousandths(_per_million(plans, kind, bits)) for bits in BITS)] for kind in kinds]
    return table(["kind", *(f"{bits} bits" for bits in BITS)], rows)


def claims(plans: Plans) -> str:
    """The answer: embedding among weights, softmax among activations, and weights against activations."""
    return "\n".join(f"- {claim}" for claim in (_embedding(plans), _softmax(plans), _both(plans)))


def _embedding(plans: Plans) -> str:
    kinds = _kinds(plans, "weight")
    weights = [each for each in plans.table["units"] if each["target"] == "weight"]
    unit = _units(plans, EMBEDDING)[0]
    num_params = unit["num_params"]
    share = num_params / sum(each["num_params"] for each in weights)
    whole, single, per, times = [], [], [], []
    for bits in BITS:
        option, density = f"int{bits}", {kind: _per_million(plans, kind, bits) for kind in kinds}
        whole.append(_rank([_kl(plans, kind, bits) for kind in kinds], _kl(plans, EMBEDDING, bits)))
        single.append(_rank([each["kl"][option] for each in weights], unit["kl"][option]))
        per.append(_rank(list(density.values()), density[EMBEDDING]))
        times.append(f"{density[EMBEDDING] / max(density[kind] for kind in kinds if kind != EMBEDDING):.3g}")
    by_option: dict[str | None, list[str]] = {}
    for made in plans.plans():
        by_option.setdefault(made.embedding, []).append(made.label.removeprefix("plan "))
    chosen = list(by_option.items())
    given = "; ".join(f"`{option}`" + (f" at {', '.join(sizes)}" if chosen[1:] else "") for option, sizes in chosen)
    if set(whole) | set(single) | set(per) == {1}:
        verdict = "true here, among weights"
    elif set(per) == {1}:
        verdict = "true here of a single parameter, not always of the weight as a whole"
    else:
        verdict = "not true here"
    saved = 3 * num_params // 4
    return (
        f"**Embedding: {verdict}.** Its table (tied to the output projection) has {num_params:,} weights, {100 * share:.2f} % of those that can "
        f"be packed. At {_list(BITS)} bits its divergence is number {_list(whole)} of the {len(kinds)} kinds of weights, all units of a kind at "
        f"once; number {_list(single)} of the {len(weights)} single weights; and, per parameter, number {_list(per)} of the kinds, with "
        f"{_list(times)} times that of the costliest other kind. 2 bits instead of 8 save {saved:,} bytes there, "
        f"{100 * saved / plans.float_size_bytes:.2f} % of the float model. The plans by divergence give it {given}."
    )


def _softmax(plans: Plans) -> str:
    kinds = _kinds(plans, "activations")
    everything = [each for each in plans.table["units"] if each["target"] == "activations"]
    units = _units(plans, SOFTMAX)
    whole, single = [], []
    for bits in BITS:
        option = f"int{bits}"
        whole.append(_rank([_kl(plans, kind, bits) for kind in kinds], _kl(plans, SOFTMAX, bits)))
        costliest = max(each["kl"][option] for each in units)
        single.append(_rank([each["kl"][option] for each in everything], costliest))
    first = max(
        kinds, key=lambda kind: sum(_kl(plans, kind, bits) == max(_kl(plans, k, bits) for k in kinds) for bits in BITS)
    )
    times = [f"{_kl(plans, first, bits) / _kl(plans, SOFTMAX, bits):.3g}" for bits in BITS]
    verdict = "true here, among activations" if first == SOFTMAX else f"not true here; {first} is the sensitive kind"
    compared = "" if first == SOFTMAX else f"; that of {first} is {_list(times)} times as large"
    return (
        f"**Softmax: {verdict}.** The weights that come out ({_count(len(units))}) on an integer grid: at {_list(BITS)} bits their divergence is "
        f"number {_list(whole)} of the {len(kinds)} kinds of activations, all units of a kind at once{compared}. The costliest of its units is "
        f"number {_list(single)} of {len(everything)}."
    )


def _both(plans: Plans) -> str:
    kinds = plans.table["kinds"]
    ranked = []
    for bits in BITS:
        order = sorted(kinds, key=lambda kind: -_kl(plans, kind, bits))
        ranked.append(f"{bits} bits: {', '.join(order)}")
    return f"**All kinds**, from the costliest. {'. '.join(ranked)}."


def _kinds(plans: Plans, target: str) -> list[str]:
    """Kinds of a target, in the table's order."""
    return list(dict.fromkeys(unit["kind"] for unit in plans.table["units"] if unit["target"] == target))


def _units(plans: Plans, kind: str) -> list[dict[str, Any]]:
    return [unit for unit in plans.table["units"] if unit["kind"] == kind]


def _kl(plans: Plans, kind: str, bits: int) -> float:
    """Measured, all units of a kind at once."""
    return float(plans.table["kinds"][kind][f"int{bits}"]["kl"])


def _per_million(plans: Plans, kind: str, bits: int) -> float:
    return 1e6 * _kl(plans, kind, bits) / sum(unit["num_params"] for unit in _units(plans, kind))


def _median(plans: Plans, kind: str, bits: int) -> float:
    return statistics.median(unit["kl"][f"int{bits}"] for unit in _units(plans, kind))


def _rank(values: Sequence[float], value: float) -> int:
    """1 for the largest."""
    return 1 + sum(each > value for each in values)


def _thousandths(value: float) -> str:
    """Three digits, but nothing below a millionth."""
    if 0 < abs(value) < 1e-6:
        return "< 0.001"
    return f"{1000 * value:.0f}" if abs(value) >= 1 else f"{1000 * value:.3g}"


def _signed(value: float) -> str:
    text = _thousandths(value)
    return f"+{text}" if value > 0 and not text.startswith("<") else text


def _count(number: int) -> str:
    return "1 unit" if number == 1 else f"{number} units"


def _list(values: Sequence[object]) -> str:
    """2, 3 and 4; ranks as they are."""
    return f"{', '.join(map(str, values[:-1]))} and {values[-1]}"
