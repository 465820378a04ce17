"""Another plan from a sensitivity table that is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from asrcompress.errors import AsrCompressError
from asrcompress.files import check_outputs
from asrcompress.ops.candidates import find_candidates
from asrcompress.ops.load import open_source, require_model_file
from asrcompress.ops.observe import float_source
from asrcompress.ops.probe import Probe
from asrcompress.ops.sensitivity_config import SensitivityConfig
from asrcompress.ops.sensitivity_files import SensitivityData, SensitivityResult, write_one
from asrcompress.ops.sensitivity_plan import Target, choices, file_sizes, make_plan
from asrcompress.ops.sensitivity_table import find_units
from asrcompress.sidecar import read

Progress = Callable[[int, int], None]


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
    stage: Callable[[str], Progress] = lambda label: lambda done, total: None,
) -> SensitivityResult:
    """Another plan from a table that is there: nothing is estimated or measured again but the plan itself.

    Args:
        path: the table's model.
        given: the table's speech.
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
    config = SensitivityConfig.from_json(record["options"])
    source = open_source(path, data_dir=data_dir, trust=trust)
    data = given.read(source, config, data_dir)
    for what, theirs, ours in (
        ("model", record["model"]["sha256"], source.sha256),
        ("speech", record["data"]["sha256"], data.sha256),
    ):
        if theirs != ours:
            raise AsrCompressError(
                f"{table_path}: is the table of another {what}; give the one it was made with, or make it anew"
            )
    units = find_units(float_source(source), data, activations=config.activations)
    candidates = find_candidates(source, data, config, stage)
    probe = Probe(source, units, candidates, data, batch_size=given.batch_size)
    sizes = file_sizes(source, data, config, candidates, units, probe)
    planned = make_plan(choices(record), sizes, probe, target, record["model"]["model_size_bytes"], stage("plan"))
    facts, chosen = write_one(source, config, record, planned, probe.baseline, table_path, output, force=force)
    return SensitivityResult(output, record, output, facts, chosen)
