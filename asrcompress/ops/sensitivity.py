"""sensitivity: the table of a model as a record, its pictures, and a plan within a byte budget or a limit on quality.

The parts are in sensitivity_table.py (what is estimated, what is measured), trials.py (journal and ranks), sensitivity_record.py
(JSON) and sensitivity_plan.py. Under torchrun every rank computes the proxies, ranks share the trials, and rank 0 writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.files import atomic_write, check_outputs, sha256_file, write_json
from asrcompress.ops.candidates import Candidates, input_statistics
from asrcompress.ops.gradients import Effect
from asrcompress.ops.journal import Journal, fingerprint
from asrcompress.ops.load import (
    Source,
    count_params,
    describe,
    environment,
    open_source,
    require_model_file,
)
from asrcompress.ops.observe import float_source
from asrcompress.ops.plan_file import PlanFacts, write_plan
from asrcompress.ops.plan_sizes import FileSizes
from asrcompress.ops.probe import Measurement, Probe
from asrcompress.ops.probe_data import ProbeData, read_probe_data
from asrcompress.ops.ranks import Ranks, connect
from asrcompress.ops.sensitivity_config import SensitivityConfig
from asrcompress.ops.sensitivity_plan import Planned, Target, choices, make_plan, plan_facts, write_down
from asrcompress.ops.sensitivity_record import PROXY, Results, correlations, group_records, proxy_scale, unit_records
from asrcompress.ops.sensitivity_table import Table, choose_trials, estimate, find_units
from asrcompress.ops.trials import Trial, run_trials
from asrcompress.ops.units import Unit
from asrcompress.report import render_sensitivity
from asrcompress.report.advice import give_advice, give_warnings
from asrcompress.report.sensitivity_rows import read_sensitivity
from asrcompress.sidecar import build, sidecar_path

Progress = Callable[[int, int], None]
PICTURES = ("html", "svg")
PROXIES = "proxies"  # their key in the journal


@dataclass(frozen=True)
class SensitivityData:
    """Speech with references, as for `eval`; utterances that run together."""

    data: Path
    split: str | None = None
    keyword: str | None = None
    audio_root: Path | None = None
    batch_size: int = 16


@dataclass(frozen=True)
class Outputs:
    """The files of a run: the table, what shows it, and the plan."""

    table: Path
    pictures: dict[str, Path]
    plan: Path | None

    @classmethod
    def beside(cls, model: Path, output: str | Path | None, *, has_plan: bool) -> Outputs:
        """By the name of the table, which is the model's unless it is given."""
        table = Path(output) if output else sidecar_path(model, "sensitivity")
        if table.suffix != ".json":
            raise AsrCompressError(f"-o {table}: the table is JSON; give a name that ends in .json")
        plan = table.with_suffix(".plan.toml") if has_plan else None
        return cls(table, {name: table.with_suffix(f".{name}") for name in PICTURES}, plan)

    @property
    def paths(self) -> list[Path]:
        """All of them."""
        return [self.table, *self.pictures.values(), *([self.plan] if self.plan else [])]


@dataclass(frozen=True)
class SensitivityResult:
    """What was written. chosen: options by name of the weight, as the plan has them."""

    path: Path
    record: dict[str, Any]
    plan_path: Path | None = None
    facts: PlanFacts | None = None
    chosen: dict[str, str | None] | None = None


def run(
    path: str | Path,
    given: SensitivityData,
    config: SensitivityConfig,
    *,
    target: Target | None = None,
    output: str | Path | None = None,
    data_dir: Path | None = None,
    trust: bool = False,
    force: bool = False,
    stage: Callable[[str], Progress] = lambda label: lambda done, total: None,
) -> SensitivityResult | None:
    """Estimate, measure, write the table, its pictures and, with a target, the plan.

    Args:
        path: checkpoint or artifact.
        given: speech.
        config: options.
        target: of a plan.
        output: of the table; by default beside the model.
        data_dir: of the SentencePiece model, where it is not beside the checkpoint.
        trust: let a checkpoint run code.
        force: replace files.
        stage: gives the progress of what is done now, by its name.

    Returns:
        None on a rank that only helped.

    Raises:
        AsrCompressError: unreadable input, an option that does not fit, a target out of reach. Nothing is written then, except
            for the journal of finished trials, which the next run takes up.
    """
    path = Path(path)
    require_model_file(path)
    if not given.data.exists():
        raise AsrCompressError(f"{given.data}: no such file or folder; --data names speech with references")
    outputs = Outputs.beside(path, output, has_plan=target is not None)
    check_outputs(outputs.paths, [path, given.data], force=force)
    source = open_source(path, data_dir=data_dir, trust=trust)
    data = read_probe_data(
        source, given.data, limit=config.limit, split=given.split, keyword=given.keyword,
        audio_root=given.audio_root, data_dir=data_dir,
    )  # fmt: skip
    key = fingerprint(_inputs(source, data, config, given))
    with connect() as ranks:
        journal = Journal(outputs.table.with_name(f"{outputs.table.name}.journal"), key, rank=ranks.rank)
        table, candidates = _table(source, data, config, journal, ranks, stage)

        @cache
        def probe() -> Probe:
            return Probe(source, table.units, candidates, data, batch_size=given.batch_size)

        trials = [Trial("float", {}, decode=True), *choose_trials(table.units, table.effects, config)]
        baseline, *found = run_trials(trials, probe, journal, ranks, stage("trials"))
        if ranks.rank > 0:
            return None
        results = {trial.key: measured for trial, measured in zip(trials[1:], found, strict=True)}
        record = _record(source, data, config, table, baseline, results)
        planned = None
        if target:
            sizes = _sizes(source, data, config, candidates, table.units, probe())
            size = record["model"]["model_size_bytes"]
            planned = make_plan(choices(table, record), sizes, probe(), target, size, stage("plan"))
        result = _write(source, config, record, planned, baseline, outputs, force=force)
        journal.remove()
    return result


def _inputs(source: Source, data: ProbeData, config: SensitivityConfig, given: SensitivityData) -> dict[str, Any]:
    """What results depend on: a journal of something else is not taken up."""
    about = {key: value for key, value in environment("cpu").items() if key in ("torch", "num_threads")}
    return {
        "model_sha256": source.sha256,
        "data": data.describe() | {"keyword": data.keyword},
        "options": config.to_json(),
        "batch_size": given.batch_size,
        "environment": about,
    }


def _table(
    source: Source,
    data: ProbeData,
    config: SensitivityConfig,
    journal: Journal,
    ranks: Ranks,
    stage: Callable[[str], Progress],
) -> tuple[Table, Candidates]:
    """Units, proxies and sizes, and what finds the codes. Proxies are rank 0's, or the journal's."""
    floats = float_source(source)
    units = find_units(floats, data, activations=config.activations)
    candidates = Candidates(floats.tensors, config, lambda: input_statistics(floats, data, config, stage("inputs")))
    found = journal.results.get(PROXIES)
    if found is None and ranks.rank == 0:
        bar = stage("gradients")

        def progress(done: int, total: int) -> None:
            ranks.beat()
            bar(done, total)

        effects = estimate(floats, data, units, candidates, config, progress)
        sizes = _sizes(source, data, replace(config, level="stored"), candidates, units)
        weights = {unit.name for unit in units if unit.target == "weight"}
        found = [
            [name, str(option), effect.loss, effect.kl, sizes.option(name, option) if name in weights else None]
            for (name, option), effect in effects.items()
        ]
        journal.add(PROXIES, found)
    rows = next(theirs for theirs in ranks.gather(found) if theirs is not None)
    options = {str(option): option for option in config.options()}
    cells = [(name, options[option], Effect(loss, kl), size) for name, option, loss, kl, size in rows]
    return Table(
        tuple(units),
        {(name, option): effect for name, option, effect, _ in cells},
        {(name, option): size for name, option, _, size in cells if size is not None},
    ), candidates


def _sizes(
    source: Source,
    data: ProbeData,
    config: SensitivityConfig,
    candidates: Candidates,
    units: Sequence[Unit],
    probe: Probe | None = None,
) -> FileSizes:
    """Sizes of files that hold these very codes, calibrated on this very data; at level integer-only `probe` has seen the ranges."""
    by_name = {unit.name: unit for unit in units}
    grids = probe.grids() if probe and config.level == "integer-only" else None
    is_calibrated = bool(candidates.statistics) or grids is not None
    calibration = {"file": data.file, "sha256": data.sha256, "num_utterances": config.calibration_limit}
    return FileSizes(
        source,
        config.quantize_config(),
        sparsifier=config.sparsifier,
        calibration=calibration if is_calibrated else None,
        grids=grids,
        outline=lambda name, option: candidates(by_name[name], option),
    )


def _record(
    source: Source, data: ProbeData, config: SensitivityConfig, table: Table, baseline: Measurement, results: Results
) -> dict[str, Any]:
    """The sidecar, with what it says in words."""
    scale = proxy_scale(table, baseline, results)
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
        data=data.describe() | {"num_calibration": min(config.calibration_limit, len(data.features))},
        options=config.to_json() | {"proxy": PROXY, "proxy_scale": scale},
        units=units,
        groups=group_records(table, baseline, results, config.options()),
        correlation=found,
        advice=[],
        warnings=[],
    )
    shown = read_sensitivity(record)
    return record | {"advice": give_advice(shown), "warnings": give_warnings(shown)}


def _write(
    source: Source,
    config: SensitivityConfig,
    record: dict[str, Any],
    planned: Planned | None,
    baseline: Measurement,
    outputs: Outputs,
    *,
    force: bool,
) -> SensitivityResult:
    """The table, what shows it, and the plan, which names the table by its sha256."""
    chosen: dict[str, str | None] | None = None
    if planned:
        chosen = {name: str(option) for name, option in planned.plan.choice.items() if option}
    shown = read_sensitivity(record)
    for name, path in outputs.pictures.items():
        with atomic_write(path, force=force) as handle:
            handle.write(render_sensitivity(name, shown, chosen).encode())
    write_json(outputs.table, record, force=force)
    if planned is None or outputs.plan is None:
        return SensitivityResult(outputs.table, record)
    facts = plan_facts(planned, source, baseline, record["model"]["model_size_bytes"], sha256_file(outputs.table))
    num_params = {unit["name"]: unit["num_params"] for unit in record["units"]}
    write_plan(outputs.plan, write_down(planned, config, facts, num_params), force=force)
    return SensitivityResult(outputs.table, record, outputs.plan, facts, chosen)
