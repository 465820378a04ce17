"""sensitivity: the table of a model as a record, its pictures, and a plan within a byte budget or a limit on quality.

The parts are in sensitivity_table.py (what is estimated, what is measured), trials.py (journal and ranks), sensitivity_record.py
(JSON) and sensitivity_plan.py. Under torchrun every rank computes the proxies, ranks share the trials, and rank 0 writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from asrcompress import __version__
from asrcompress.errors import AsrCompressError
from asrcompress.files import check_outputs
from asrcompress.ops.candidates import Candidates, find_candidates
from asrcompress.ops.gradients import Effect
from asrcompress.ops.journal import Journal, fingerprint
from asrcompress.ops.load import (
    Source,
    environment,
    open_source,
    require_model_file,
)
from asrcompress.ops.observe import float_source
from asrcompress.ops.probe import Probe
from asrcompress.ops.probe_data import ProbeData
from asrcompress.ops.ranks import Ranks, connect
from asrcompress.ops.sensitivity_config import SensitivityConfig
from asrcompress.ops.sensitivity_files import (
    Outputs,
    SensitivityData,
    SensitivityResult,
    were_being_written,
    write_all,
)
from asrcompress.ops.sensitivity_plan import (
    Target,
    choices,
    file_sizes,
    float_size_bytes,
    make_plan,
    require_reachable,
)
from asrcompress.ops.sensitivity_record import make_record
from asrcompress.ops.sensitivity_table import Stage, Table, choose_trials, estimate, table_units
from asrcompress.ops.trials import Trial, run_trials

PROXIES = "proxies"  # their key in the journal


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
    stage: Stage = lambda label: lambda done, total: None,
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
    force = force or were_being_written(outputs)
    check_outputs(outputs.paths, [path, given.data], force=force)
    source = open_source(path, data_dir=data_dir, trust=trust)
    data = given.read(source, config, data_dir)
    key = fingerprint(_inputs(source, data, config, given))
    with connect() as ranks:
        journal = Journal(outputs.journal, key, rank=ranks.rank)
        table, candidates = _table(source, data, config, journal, ranks, stage)

        @cache
        def probe() -> Probe:
            return Probe(source, table.units, candidates, data, batch_size=given.batch_size)

        if target and ranks.rank == 0:
            size = float_size_bytes(source)
            sizes = file_sizes(source, data, config, candidates, table.units, probe)
            require_reachable(table.units, table.sizes, sizes, target, size)
        trials = [Trial("float", {}, decode=True), *choose_trials(table.units, table.effects, config)]
        baseline, *found = run_trials(trials, probe, journal, ranks, stage("exact trials"))
        if ranks.rank > 0:
            return None
        results = {trial.key: measured for trial, measured in zip(trials[1:], found, strict=True)}
        record = make_record(source, data, config, table, baseline, results, batch_size=given.batch_size)
        planned = (
            make_plan(choices(record, target.objective), sizes, probe(), target, size, stage("plans"))
            if target
            else None
        )
        return write_all(source, config, record, planned, baseline, outputs, journal, force=force)


def _inputs(source: Source, data: ProbeData, config: SensitivityConfig, given: SensitivityData) -> dict[str, Any]:
    """What results depend on: a journal of something else is not taken up."""
    about = {key: value for key, value in environment("cpu").items() if key in ("torch", "num_threads")}
    targets = [target.tolist() for target in data.targets]
    return {
        "version": __version__,
        "targets_sha256": hashlib.sha256(repr(targets).encode()).hexdigest(),
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
    stage: Stage,
) -> tuple[Table, Candidates]:
    """Units, proxies and sizes, and what finds the codes. Proxies are rank 0's, or the journal's."""

    def alive(label: str) -> Callable[[int, int], None]:
        bar = stage(label)

        def progress(done: int, total: int) -> None:
            ranks.beat()
            bar(done, total)

        return progress

    floats = float_source(source)
    units = table_units(floats, data, config)
    candidates = find_candidates(source, data, config, alive)
    found = journal.results.get(PROXIES)
    if found is None and ranks.rank == 0:
        effects = estimate(floats, data, units, candidates, config, alive)
        sizes = file_sizes(source, data, replace(config, level="stored"), candidates, units)
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
