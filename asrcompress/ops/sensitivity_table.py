"""sensitivity: what each part of a model would lose under each option; estimated for all, measured for those that matter.

Proxies from gradients (gradients.py, linearize.py, activation_effects.py) fill the whole table; exact trials (probe.py) measure
the units that the proxy ranks first, a random sample of the others, and groups of one kind or block at once; the rank
correlation of the two says how far the proxies can be trusted. Trials are journalled and shared by ranks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from asrcompress.errors import AsrCompressError
from asrcompress.integers.sites import Sites
from asrcompress.modules.swap import find_weights, swap
from asrcompress.modules.weight import FloatWeight
from asrcompress.ops.activation_effects import activation_effects
from asrcompress.ops.candidates import Candidates
from asrcompress.ops.compress import select
from asrcompress.ops.gradients import Effect, Taylor, weight_gradients
from asrcompress.ops.linearize import Linearized, keyword_gradients
from asrcompress.ops.load import Source, build_model
from asrcompress.ops.observe import Ranges, build_observed
from asrcompress.ops.probe_data import ProbeData
from asrcompress.ops.recipe import QuantizeConfig
from asrcompress.ops.sensitivity_config import SensitivityConfig
from asrcompress.ops.trials import Trial
from asrcompress.ops.units import MIN_ACTIVATION_BITS, Option, Unit, activation_units, group_units, weight_units

Progress = Callable[[int, int], None]
Stage = Callable[[str], Progress]
BATCH_SIZE = 16  # utterances whose gradients are summed
MIN_GROUPS = 8  # that the curvature is told from, where there are so many utterances
Effects = dict[tuple[str, Option], Effect]


@dataclass(frozen=True)
class Table:
    """Rows, columns and proxies. sizes: bytes of a weight's option in a file."""

    units: tuple[Unit, ...]
    effects: Effects
    sizes: dict[tuple[str, Option], int]


def table_units(source: Source, data: ProbeData, config: SensitivityConfig) -> list[Unit]:
    """The rows that a configuration asks for, each with an option or more."""
    activations = config.activations and any(num_bits >= MIN_ACTIVATION_BITS for num_bits in config.bits)
    return find_units(source, data, activations=activations, exclude=config.exclude)


def find_units(source: Source, data: ProbeData, *, activations: bool, exclude: Sequence[str] = ()) -> list[Unit]:
    """Weights that can be packed, but for those that a glob fits, and, if wanted, activations at the sites that one utterance passes.

    Raises:
        AsrCompressError: a glob fits no weight, no weight is left, or one of several that are only packed together, or an activation
            is no number.
    """
    model = build_model(source).module
    left = {site.name for site in select(find_weights(model), QuantizeConfig(exclude=tuple(exclude)))}
    units = [unit for unit in weight_units(model) if unit.name in left]
    if exclude:  # where it goes through a module that is packed whole or not at all, no plan could be carried out
        whole = build_model(source).module
        swap(whole, {name: FloatWeight(whole.get_parameter(name).detach()) for name in left})
    if not activations:
        return units
    ranges = Ranges()
    first = next(position for position, frames in enumerate(data.features) if len(frames))
    with torch.no_grad():
        observed = build_observed(source, Sites(alter=ranges))
        source.family.log_probs(source.spec, observed, [data.features[first]], [data.targets[first]])
    norms = [name for name, module in model.named_modules() if "Norm" in type(module).__name__]
    return units + activation_units(ranges.observers, model, norms)


def estimate(
    source: Source,
    data: ProbeData,
    units: Sequence[Unit],
    candidates: Candidates,
    config: SensitivityConfig,
    stage: Stage = lambda label: lambda done, total: None,
) -> Effects:
    """The proxies of every unit and option: one pass of gradients for weights, one for activations.

    Args:
        source: of a float model.
        data: with references.
        units: rows.
        candidates: codes of weights.
        config: options.
        stage: gives the progress of what is done now, by its name.

    Raises:
        AsrCompressError: the model has no loss on the data, or an estimate is no number.
    """
    weights = [unit for unit in units if unit.target == "weight"]
    names = [unit.name for unit in weights]
    others = [unit for unit in units if unit.target != "weight"]
    bits = [num_bits for num_bits in config.bits if others and others[0].allows(Option(num_bits))]
    found: Linearized | Taylor
    batch_size = max(1, min(BATCH_SIZE, len(data.features) // MIN_GROUPS))
    if source.family.TASK == "keyword":
        found = keyword_gradients(source, data, names, units=others, bits=bits, progress=stage("gradients"))
    else:
        found = weight_gradients(source, data, names, batch_size=batch_size, progress=stage("gradients of weights"))
    effects: Effects = {}
    candidates.prepare()
    progress = stage("codes of weights")
    for number, unit in enumerate(weights):
        progress(number, len(weights))
        packed = candidates.of(unit)
        weight = candidates.weights[unit.name].reshape(-1).float()
        changes = torch.stack([each.dequantize().reshape(-1) - weight for each in packed.values()])
        effects |= {
            (unit.name, option): effect
            for option, effect in zip(packed, found.effects(unit.name, changes), strict=True)
        }
    progress(len(weights), len(weights))
    if isinstance(found, Linearized):
        slopes = found.activation_effects()
    elif others:
        slopes = activation_effects(
            source, data, others, bits, batch_size=batch_size, progress=stage("gradients of activations")
        )
    else:
        slopes = {}
    effects |= {(name, Option(num_bits)): effect for (name, num_bits), effect in slopes.items()}
    for (name, option), effect in effects.items():
        if not (math.isfinite(effect.loss) and math.isfinite(effect.kl)):
            raise AsrCompressError(
                f"{source.path}: {name}: what {option} does to it is beyond all numbers; the checkpoint is broken"
            )
    return effects


def choose_trials(units: Sequence[Unit], effects: Effects, config: SensitivityConfig) -> list[Trial]:
    """What is measured: the units that matter most whole, a random sample of the other cells, and groups at each number of bits.

    Units matter by the largest divergence that the proxy expects of any of their options; weights and activations are
    ranked apart, since they are compressed for different reasons. Blocks are measured by their loss alone.
    """
    top: list[Unit] = []
    for target in ("weight", "activations"):
        rows = [unit for unit in units if unit.target == target]
        rows.sort(key=lambda unit: -max(effects[cell].kl for cell in cells_of(unit, effects)))
        top += rows[: config.top]
    chosen = {unit.name for unit in top}
    cells = [cell for unit in units if unit.name in chosen for cell in cells_of(unit, effects)]
    others = [cell for unit in units if unit.name not in chosen for cell in cells_of(unit, effects)]
    sample = random.Random(config.seed).sample(range(len(others)), min(config.sample, len(others)))  # noqa: S311
    cells += [others[place] for place in sorted(sample)]
    trials = [Trial(cell_key(name, option), {name: option}, decode=True) for name, option in cells]
    for by in ("kind", "block"):
        for name, members in group_units(units, by).items():
            rows = members if by == "kind" else [unit for unit in members if unit.target == "weight"]
            for option in config.options():
                changes = {unit.name: option for unit in rows if unit.allows(option)}
                if changes and option.pattern is None:
                    trials.append(Trial(group_key(by, name, option), changes, decode=by == "kind"))
    return trials


def cells_of(unit: Unit, effects: Effects) -> list[tuple[str, Option]]:
    """The cells of a row that have an effect."""
    return [cell for cell in effects if cell[0] == unit.name]


def cell_key(name: str, option: Option) -> str:
    """What the journal calls the trial of one cell."""
    return f"unit {name} {option}"


def group_key(by: str, name: str, option: Option) -> str:
    """What the journal calls the trial of a group."""
    return f"{by} {name} {option}"
