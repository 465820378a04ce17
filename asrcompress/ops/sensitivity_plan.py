"""From a sensitivity table to a plan: within a byte budget, or the smallest whose measured quality is within a limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.ops.candidates import Candidates
from asrcompress.ops.load import Source, describe
from asrcompress.ops.observe import float_source
from asrcompress.ops.plan import Plan, Priced, UnitChoices, solve_exactly
from asrcompress.ops.plan_file import TOLERANCE, PlanFacts, plan_config, plan_text
from asrcompress.ops.plan_search import MAX_MEASUREMENTS, smallest_within
from asrcompress.ops.plan_sizes import FileSizes
from asrcompress.ops.probe import Measurement, Probe
from asrcompress.ops.probe_data import ProbeData
from asrcompress.ops.sensitivity_config import SensitivityConfig
from asrcompress.ops.units import Option, Unit
from asrcompress.patterns import parse_pattern

Progress = Callable[[int, int], None]
OBJECTIVES = ("divergence", "loss")


@dataclass(frozen=True)
class Target:
    """What a plan is for: one of the two.

    size_ratio: of the file's bytes to those of the float model. max_relative: the largest rise of WER or AU FA-FR, measured on the
    data of the table, as a fraction of the float model's. objective: what the plan makes least, see `choices`.
    """

    size_ratio: float | None = None
    max_relative: float | None = None
    objective: str = "divergence"

    def __post_init__(self) -> None:
        if (self.size_ratio is None) == (self.max_relative is None):
            raise ValueError("one target, and only one")
        if self.objective not in OBJECTIVES:
            raise AsrCompressError(f"--objective {self.objective}: use {' or '.join(OBJECTIVES)}")
        if self.size_ratio is not None and not 0 < self.size_ratio <= 1:
            raise AsrCompressError(
                f"--target-size-ratio {self.size_ratio:g}: use a fraction above 0, up to 1, such as 0.094"
            )
        if self.max_relative is not None and not 0 <= self.max_relative < math.inf:
            raise AsrCompressError(f"--max-relative-wer {self.max_relative:g}: use a fraction such as 0.02 for 2 %")


def read_target(size_ratio: float | None, max_relative: float | None, objective: str | None = None) -> Target | None:
    """The target of the two options, or None.

    Raises:
        AsrCompressError: both are given.
    """
    if size_ratio is not None and max_relative is not None:
        raise AsrCompressError(
            "--target-size-ratio and --max-relative-wer: a plan has one target; leave one of them out"
        )
    if size_ratio is None and max_relative is None:
        if objective is not None:
            raise AsrCompressError(
                f"--objective {objective}: is of a plan; say what for with --target-size-ratio or --max-relative-wer"
            )
        return None
    return Target(size_ratio, max_relative, objective or OBJECTIVES[0])


@dataclass(frozen=True)
class Planned:
    """A plan, what was measured of it on the data of the table, and all plans that were measured on the way."""

    plan: Plan
    measured: Measurement
    budget_bytes: int
    points: list[tuple[Plan, Measurement]]
    objective: str = OBJECTIVES[0]


def float_size_bytes(source: Source) -> int:
    """Bytes of the float model, to which ratios are; of an artifact, of what it stands for."""
    if source.content is None:
        return int(describe(source, 0)["model_size_bytes"])
    tensors = {tensor.data_ptr(): tensor for tensor in float_source(source).tensors.values() if tensor.numel()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def require_reachable(
    units: Sequence[Unit],
    bytes_of: Mapping[tuple[str, Option], int],
    sizes: FileSizes,
    target: Target,
    model_size_bytes: int,
) -> None:
    """Before anything is measured: raise where not even the smallest options fit into the budget.

    Args:
        units: rows; those of weights count.
        bytes_of: what an option takes, by name of the weight.
        sizes: of whole files.
        target: of the plan; one of quality has no budget.
        model_size_bytes: of the float model.

    Raises:
        Infeasible: says how far the budget is out of reach, and what would help.
    """
    if target.size_ratio is None:
        return
    names = [unit.name for unit in units if unit.target == "weight"]
    free = [
        UnitChoices(name, tuple(Priced(option, size, 0.0) for (of, option), size in bytes_of.items() if of == name))
        for name in names
    ]
    solve_exactly(free, int(target.size_ratio * model_size_bytes), sizes.total, original_bytes=model_size_bytes)


def choices(record: Mapping[str, Any], objective: str = "divergence") -> list[UnitChoices]:
    """The options of every weight of a table with bytes and costs, in nats a token (a clip for keywords).

    By `divergence` an option costs how far the output moves from the float model's, in whatever direction. By `loss` a rise of the
    loss counts besides, so that of options that move it as far one that lowers the loss is taken; that is worth something
    where the data are much, and like the speech that the model is for.
    """
    scale = record["options"]["kl_scale"]

    def cost(cell: Mapping[str, Any]) -> float:
        rise = max(cell["cost"], 0.0) if objective == "loss" else 0.0
        return divergence_of(cell, scale) + rise

    return [
        UnitChoices(
            unit["name"], tuple(Priced(read_option(cell), cell["size_bytes"], cost(cell)) for cell in unit["options"])
        )
        for unit in record["units"]
        if unit["target"] == "weight"
    ]


def file_sizes(
    source: Source,
    data: ProbeData,
    config: SensitivityConfig,
    candidates: Candidates,
    units: Sequence[Unit],
    probe: Callable[[], Probe] | None = None,
) -> FileSizes:
    """Sizes of files that hold these very codes, calibrated on this very data.

    Args:
        source: of the model.
        data: what is measured on.
        config: options.
        candidates: codes.
        units: rows; those of weights count.
        probe: gives the one that has seen the ranges; asked at level integer-only, where it is needed.
    """
    by_name = {unit.name: unit for unit in units}
    grids = probe().grids() if probe and config.level == "integer-only" else None
    is_calibrated = bool(candidates.statistics) or grids is not None
    # As many digits as the number can have: `quantize` may be given more of the set than `--limit` left here.
    calibration = {"file": data.file, "sha256": data.sha256, "num_utterances": config.calibration_limit}
    return FileSizes(
        source,
        config.quantize_config(),
        sparsifier=config.sparsifier,
        calibration=calibration if is_calibrated else None,
        grids=grids,
        outline=lambda name, option: candidates(by_name[name], option),
    )


def read_option(cell: Mapping[str, Any]) -> Option:
    """The option of a cell of a table."""
    return Option(cell["num_bits"], parse_pattern(cell["pattern"]) if cell["pattern"] else None)


def divergence_of(cell: Mapping[str, Any], scale: float) -> float:
    """What was measured, else the proxy scaled to it."""
    return float(cell["kl_proxy"] * scale if cell["kl"] is None else cell["kl"])


def make_plan(
    units: list[UnitChoices],
    sizes: FileSizes,
    probe: Probe,
    target: Target,
    model_size_bytes: int,
    progress: Progress = lambda done, total: None,
) -> Planned:
    """Solve for the target and measure what comes out.

    Raises:
        AsrCompressError: no plan reaches it; the line says how far it is and what would help.
    """
    points: list[tuple[Plan, Measurement]] = []
    most = 1 if target.size_ratio is not None else MAX_MEASUREMENTS

    def measure(plan: Plan) -> float:
        progress(len(points), most)
        measured = probe.measure({name: option for name, option in plan.choice.items() if option}, decode=True)
        points.append((plan, measured))
        return relative_change(probe.baseline, measured)

    if target.size_ratio is not None:
        budget = int(target.size_ratio * model_size_bytes)
        plan = solve_exactly(units, budget, sizes.total, original_bytes=model_size_bytes)
        measure(plan)
        progress(most, most)
        return Planned(plan, points[-1][1], budget, points, target.objective)
    assert target.max_relative is not None  # noqa: S101 (for the type checker)
    before = probe.baseline.wer if probe.baseline.au_fa_fr is None else probe.baseline.au_fa_fr
    quality = "WER" if probe.baseline.au_fa_fr is None else "AU FA-FR"
    found = smallest_within(
        units,
        0,
        measure,
        target.max_relative,
        exact_size=sizes.total,
        what=f"relative change of {quality}" + ("" if before else ", which is 0 in float on this data,"),
    )
    progress(most, most)
    measured = next(measured for plan, measured in points if plan.choice == found.plan.choice)
    # Other calibration data give scales of another type at times, so the file may take as much more as it may miss its prediction.
    return Planned(found.plan, measured, int(found.plan.size_bytes * (1 + TOLERANCE)), points, target.objective)


def relative_change(baseline: Measurement, measured: Measurement) -> float:
    """The change of WER or AU FA-FR as a fraction of the float model's; infinite where that is 0 and this is not."""
    before, after = (each.wer if each.au_fa_fr is None else each.au_fa_fr for each in (baseline, measured))
    if before is None or after is None:
        raise ValueError("the plan was not decoded")
    if before == 0:
        return 0.0 if after == 0 else math.inf
    return after / before - 1


def plan_facts(planned: Planned, source: Source, baseline: Measurement, sensitivity_sha256: str) -> PlanFacts:
    """What the plan predicts: the sum of its options' costs, and what was measured on the table's data with all of them in place."""
    quality = "wer" if baseline.au_fa_fr is None else "au_fa_fr"
    relative = relative_change(baseline, planned.measured)
    predicted = {"cost": planned.plan.cost, "loss_change": planned.measured.loss - baseline.loss}
    if math.isfinite(relative):
        predicted[f"relative_{quality}"] = relative
    return PlanFacts(
        model=source.path.name,
        model_sha256=source.sha256,
        model_size_bytes=float_size_bytes(source),
        size_bytes=planned.plan.size_bytes,
        budget_bytes=planned.budget_bytes,
        predicted=predicted,
        sensitivity_sha256=sensitivity_sha256,
        objective=planned.objective,
    )


def write_down(planned: Planned, config: SensitivityConfig, facts: PlanFacts, num_params: Mapping[str, int]) -> str:
    """The plan as TOML."""
    chosen = plan_config(config.quantize_config(), planned.plan.choice, sparsifier=config.sparsifier)
    return plan_text(chosen, facts, num_params)
