"""What a sensitivity run reads and writes besides the model: speech, the table, its pictures, the plan."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.files import atomic_write, sha256_file, write_json
from asrcompress.ops.journal import Journal
from asrcompress.ops.load import Source
from asrcompress.ops.plan_file import PlanFacts, write_plan
from asrcompress.ops.probe import Measurement
from asrcompress.ops.probe_data import ProbeData, read_probe_data
from asrcompress.ops.sensitivity_config import SensitivityConfig
from asrcompress.ops.sensitivity_plan import Planned, plan_facts, write_down
from asrcompress.report import render_sensitivity
from asrcompress.report.sensitivity_rows import read_sensitivity
from asrcompress.sidecar import sidecar_path

PICTURES = ("html", "svg")
WRITING = "writing"  # in the journal: files of these names are this run's own


@dataclass(frozen=True)
class SensitivityData:
    """Speech with references, as for `eval`; utterances that run together."""

    data: Path
    split: str | None = None
    keyword: str | None = None
    audio_root: Path | None = None
    batch_size: int = 16

    def read(self, source: Source, config: SensitivityConfig, data_dir: Path | None) -> ProbeData:
        """The speech of a source's task."""
        return read_probe_data(
            source, self.data, limit=config.limit, split=self.split, keyword=self.keyword,
            audio_root=self.audio_root, data_dir=data_dir,
        )  # fmt: skip


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

    @property
    def journal(self) -> Path:
        """What the names of the journal begin with."""
        return self.table.with_name(f"{self.table.name}.journal")


@dataclass(frozen=True)
class SensitivityResult:
    """What was written. chosen: options by name of the weight, as the plan has them."""

    path: Path
    record: dict[str, Any]
    plan_path: Path | None = None
    facts: PlanFacts | None = None
    chosen: dict[str, str | None] | None = None


def write_all(
    source: Source,
    config: SensitivityConfig,
    record: dict[str, Any],
    planned: Planned | None,
    baseline: Measurement,
    outputs: Outputs,
    journal: Journal,
    *,
    force: bool,
) -> SensitivityResult:
    """The table, what shows it, and the plan, which names the table by its sha256; then the journal goes.

    Killed on the way, the next run finds in the journal that it may replace what this one left.
    """
    journal.add(WRITING, [path.name for path in outputs.paths])
    result = _write(source, config, record, planned, baseline, outputs, force=force)
    journal.remove()
    return result


def journal_files(model: str | Path, output: str | Path | None) -> list[Path]:
    """What a run of these that was broken off left, to go on from."""
    return Journal.files_of(Outputs.beside(Path(model), output, has_plan=False).journal)


def were_being_written(outputs: Outputs) -> bool:
    """Whether the files that are there are what a run left that was killed while it wrote them.

    That it was a run of the same inputs is checked when the journal is opened.
    """
    there = {path.name for path in outputs.paths if os.path.lexists(path)}
    return bool(there) and there <= set(Journal.peek(outputs.journal, WRITING) or ())


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
    chosen = chosen_options(planned) if planned else None
    shown = read_sensitivity(record)
    for name, path in outputs.pictures.items():
        with atomic_write(path, force=force) as handle:
            handle.write(render_sensitivity(name, shown, chosen).encode())
    write_json(outputs.table, record, force=force)
    if planned is None or outputs.plan is None:
        return SensitivityResult(outputs.table, record)
    facts, chosen = write_one(source, config, record, planned, baseline, outputs.table, outputs.plan, force=force)
    return SensitivityResult(outputs.table, record, outputs.plan, facts, chosen)


def write_one(
    source: Source,
    config: SensitivityConfig,
    record: dict[str, Any],
    planned: Planned,
    baseline: Measurement,
    table_path: Path,
    output: Path,
    *,
    force: bool,
) -> tuple[PlanFacts, dict[str, str | None]]:
    """The plan, which names its table by the sha256."""
    facts = plan_facts(planned, source, baseline, sha256_file(table_path))
    num_params = {unit["name"]: unit.get("num_params") or 0 for unit in record["units"]}
    write_plan(output, write_down(planned, config, facts, num_params), force=force)
    return facts, chosen_options(planned)


def chosen_options(planned: Planned) -> dict[str, str | None]:
    """The plan's options by name of the weight, as a table names them."""
    return {name: None if option is None else str(option) for name, option in planned.plan.choice.items()}
