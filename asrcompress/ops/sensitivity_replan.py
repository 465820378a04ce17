"""Another plan from a sensitivity table that is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.files import check_outputs
from asrcompress.ops.candidates import find_candidates
from asrcompress.ops.load import open_source, require_model_file
from asrcompress.ops.observe import float_source
from asrcompress.ops.plan import UnitChoices
from asrcompress.ops.probe import Probe
from asrcompress.ops.sensitivity_config import SensitivityConfig
from asrcompress.ops.sensitivity_files import SensitivityData, SensitivityResult, write_one
from asrcompress.ops.sensitivity_plan import Target, choices, file_sizes, float_size_bytes, make_plan
from asrcompress.ops.sensitivity_table import Stage, table_units
from asrcompress.ops.units import Unit
from asrcompress.report.sensitivity_rows import read_sensitivity
from asrcompress.sidecar import read


def replan(
    path: str | Path,
    given: SensitivityData,
    table_path: Path,
    target: Target,
    *,
    output: str | Path | None = None,
    data_dir: Path | None = None,
    trust: bool = False,
    force: bool = False,
    stage: Stage = lambda label: lambda done, total: None,
) -> SensitivityResult:
    """Another plan from a table that is there: nothing is estimated or measured again but the plan itself.

    Args:
        path: the table's model.
        given: the table's speech; how many utterances run together is the table's to say.
        table_path: the table; its options count.
        target: of the plan.
        output: of the plan; by default beside the table, as `run` names it.
        data_dir: as for `run`.
        trust: as for `run`.
        force: as for `run`.
        stage: as for `run`.

    Raises:
        AsrCompressError: as `run`, or the table is of another model or other data.
    """
    path = Path(path)
    require_model_file(path)
    record = read(table_path).record
    if record["kind"] != "sensitivity":
        raise AsrCompressError(
            f"{table_path}: is no sensitivity table; give the file that asrcompress sensitivity wrote"
        )
    output = Path(output) if output else table_path.with_suffix(".plan.toml")
    if output.suffix != ".toml":
        raise AsrCompressError(
            f"-o {output}: with --from, a plan is written, which is TOML; give a name that ends in .toml"
        )
    check_outputs([output], [path, given.data, table_path], force=force)
    config, batch_size = _options(record, table_path)
    source = open_source(path, data_dir=data_dir, trust=trust)
    _require_same(table_path, "model", record["model"]["sha256"], source.sha256)
    data = given.read(source, config, data_dir)
    _require_same(table_path, "speech", record["data"]["sha256"], data.sha256)
    _require_same(table_path, "keyword", record["options"].get("keyword"), data.keyword)
    units = table_units(float_source(source), data, config)
    priced = _choices(record, units, config, table_path, target.objective)
    candidates = find_candidates(source, data, config, stage)
    probe = Probe(source, units, candidates, data, batch_size=batch_size)
    sizes = file_sizes(source, data, config, candidates, units, lambda: probe)
    planned = make_plan(priced, sizes, probe, target, float_size_bytes(source), stage("plans"))
    facts, chosen = write_one(source, config, record, planned, probe.baseline, table_path, output, force=force)
    return SensitivityResult(output, record, output, facts, chosen)


def _options(record: dict[str, Any], table_path: Path) -> tuple[SensitivityConfig, int]:
    """What the table was made with, checked: the options, and the utterances that ran together."""
    read_sensitivity(record, table_path)
    options = record.get("options")
    if not isinstance(options, dict):
        raise AsrCompressError(f"{table_path}: options is not an object; make the table anew")
    try:
        config = SensitivityConfig.from_json(options)
    except AsrCompressError as error:
        raise AsrCompressError(f"{table_path}: {error}; make the table anew") from error
    batch_size, scale = options.get("batch_size"), options.get("kl_scale")
    if type(batch_size) is not int or batch_size < 1 or type(scale) not in (int, float):
        raise AsrCompressError(f"{table_path}: options has no batch_size or no kl_scale; make the table anew")
    return config, batch_size


def _choices(
    record: dict[str, Any], units: Sequence[Unit], config: SensitivityConfig, table_path: Path, objective: str
) -> list[UnitChoices]:
    """The options of the table's weights, which must be those that were asked for of the model's."""
    expected = {
        (unit.name, option)
        for unit in units
        for option in config.options()
        if unit.target == "weight" and unit.allows(option)
    }
    try:
        found = choices(record, objective)
        offered = {(unit.name, priced.option) for unit in found for priced in unit.options}
        is_whole = all(priced.size_bytes > 0 for unit in found for priced in unit.options)
    except (AsrCompressError, AttributeError, KeyError, TypeError) as error:
        raise AsrCompressError(
            f"{table_path}: a weight's option lacks its size or its cost; make the table anew"
        ) from error
    if offered != expected or not is_whole:
        raise AsrCompressError(f"{table_path}: has other weights or options than it was made for; make the table anew")
    return found


def _require_same(table_path: Path, what: str, theirs: object, ours: object) -> None:
    if theirs != ours:
        raise AsrCompressError(
            f"{table_path}: was made with another {what} than is given; give that one, or make the table anew"
        )
