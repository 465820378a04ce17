"""The record of a sensitivity run: proxies and trials as the JSON that docs/sidecar.schema.json describes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from asrcompress.metrics.rank_correlation import spearman
from asrcompress.ops.candidates import calibration_positions
from asrcompress.ops.load import Source, count_params, describe, environment
from asrcompress.ops.probe import Measurement
from asrcompress.ops.probe_data import ProbeData
from asrcompress.ops.sensitivity_config import SensitivityConfig
from asrcompress.ops.sensitivity_table import Effects, Table, cell_key, cells_of, group_key
from asrcompress.ops.units import Option, Unit, group_units
from asrcompress.patterns import pattern_name
from asrcompress.report.advice import give_advice, give_warnings
from asrcompress.report.sensitivity_rows import read_sensitivity
from asrcompress.sidecar import build

PROXY = "fisher"  # that costs are scaled from
Results = Mapping[str, Measurement]


def unit_records(table: Table, baseline: Measurement, results: Results, scale: float) -> list[dict[str, Any]]:
    """A record per unit, with one per option: sizes, proxies, what was measured, and the cost."""
    records = []
    for unit in table.units:
        options = []
        for name, option in cells_of(unit, table.effects):
            effect, measured = table.effects[name, option], results.get(cell_key(name, option))
            changes = _changes(baseline, measured)
            options.append(
                {
                    "option": str(option),
                    "num_bits": option.num_bits,
                    "pattern": pattern_name(option.pattern) if option.pattern else None,
                    "size_bytes": table.sizes.get((name, option)),
                    "fisher": effect.loss,
                    "kl_proxy": effect.kl,
                    **changes,
                    "cost": effect.loss * scale if measured is None else changes["loss_change"],
                }
            )
        about = {key: getattr(unit, key) for key in ("name", "kind", "block", "target", "num_params")}
        size = 4 * unit.num_params if unit.target == "weight" else None
        records.append(about | {"size_bytes_float": size, "options": options})
    return records


def group_records(
    table: Table, baseline: Measurement, results: Results, options: Sequence[Option]
) -> dict[str, list[dict[str, Any]]]:
    """Kinds and blocks: sums of their units' proxies, and what was measured of all at once."""
    return {
        by: [
            {
                "name": name,
                "num_units": len(members),
                "options": [
                    found
                    for option in options
                    if (found := _group_option(by, name, option, members, table.effects, baseline, results))
                ],
            }
            for name, members in group_units(table.units, by).items()
        ]
        for by in ("kind", "block")
    }


def _group_option(
    by: str,
    name: str,
    option: Option,
    members: Sequence[Unit],
    effects: Effects,
    baseline: Measurement,
    results: Results,
) -> dict[str, Any] | None:
    found = [effects[unit.name, option] for unit in members if (unit.name, option) in effects]
    if not found:
        return None
    return {
        "option": str(option),
        "fisher": sum(effect.loss for effect in found),
        "kl_proxy": sum(effect.kl for effect in found),
        **_changes(baseline, results.get(group_key(by, name, option))),
    }


def _changes(baseline: Measurement, measured: Measurement | None) -> dict[str, float | None]:
    """What was measured, less what the float model has; None where it was not."""
    quality = "wer" if baseline.au_fa_fr is None else "au_fa_fr"
    before, after = getattr(baseline, quality), None if measured is None else getattr(measured, quality)
    return {
        "loss_change": None if measured is None else measured.loss - baseline.loss,
        "kl": None if measured is None else measured.kl,
        f"{quality}_change": None if before is None or after is None else after - before,
    }


def correlations(units: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rank correlation of each proxy with what was measured, over all measured cells."""
    cells = [option for unit in units for option in unit["options"]]
    found = []
    quality = "wer" if "wer_change" in cells[0] else "au_fa_fr"
    for proxy, key in (("fisher", "fisher"), ("kl", "kl_proxy")):
        for against, measured in (("loss", "loss_change"), (quality, f"{quality}_change")):
            pairs = [(cell[key], cell[measured]) for cell in cells if cell[measured] is not None]
            one, other = zip(*pairs, strict=True) if pairs else ((), ())
            found.append({"proxy": proxy, "against": against} | asdict(spearman(one, other)))
    return found


def proxy_scale(table: Table, baseline: Measurement, results: Results, quantity: str) -> float:
    """What a proxy is multiplied by to be of the size of what was measured: the median ratio where both are positive.

    Args:
        table: with the proxies.
        baseline: the float model.
        results: by key of the trial.
        quantity: `loss` or `kl`, of the effect and of the measurement.
    """
    ratios = []
    for (name, option), effect in table.effects.items():
        measured, proxy = results.get(cell_key(name, option)), getattr(effect, quantity)
        change = getattr(measured, quantity) - getattr(baseline, quantity) if measured else 0.0
        if proxy > 0 and change > 0:
            ratios.append(change / proxy)
    return statistics.median(ratios) if ratios else 1.0


def make_record(
    source: Source,
    data: ProbeData,
    config: SensitivityConfig,
    table: Table,
    baseline: Measurement,
    results: Results,
    *,
    batch_size: int,
) -> dict[str, Any]:
    """The sidecar, with what it says in words.

    Args:
        source: of the model.
        data: that was measured on.
        config: what was asked.
        table: rows and proxies.
        baseline: the float model.
        results: by key of the trial.
        batch_size: utterances that ran together.
    """
    scale = proxy_scale(table, baseline, results, "loss")
    units = unit_records(table, baseline, results, scale)
    found = correlations(units)
    quality = "wer" if baseline.au_fa_fr is None else "au_fa_fr"
    metrics = {"loss": baseline.loss, quality: getattr(baseline, quality), "num_trials": len(results)}
    metrics |= {
        f"spearman_{pair['proxy']}" + ("" if pair["against"] == "loss" else f"_{pair['against']}"): pair["spearman"]
        for pair in found
    }
    record = build(
        "sensitivity",
        model=describe(source, count_params(source)),
        metrics=metrics,
        environment=environment("cpu"),
        data=data.describe()
        | {
            "num_left_out": baseline.num_left_out,
            "num_calibration": len(calibration_positions(data, config)) if config.looks_at_inputs else 0,
        },
        options=config.to_json()
        | {"keyword": data.keyword, "batch_size": batch_size}
        | {"proxy": PROXY, "proxy_scale": scale, "kl_scale": proxy_scale(table, baseline, results, "kl")},
        units=units,
        groups=group_records(table, baseline, results, config.options()),
        correlation=found,
        advice=[],
        warnings=[],
    )
    shown = read_sensitivity(record)
    return record | {
        "advice": give_advice(shown),
        "warnings": [*_left_out(baseline, data), *give_warnings(shown)],
    }


def _left_out(baseline: Measurement, data: ProbeData) -> list[str]:
    """A warning where some utterances have no part in the loss."""
    if not baseline.num_left_out:
        return []
    return [
        f"{baseline.num_left_out} of {len(data.features)} utterances have no part in the loss, its estimates and what follows "
        "from them: their audio is shorter than one window of the model, or has fewer frames than CTC needs for their reference. "
        "Errors in words count them."
    ]
