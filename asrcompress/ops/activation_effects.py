"""What fewer bits of activations would do to the loss, told from gradients: as gradients.py does for weights.

The change at a site is what its grid of few bits leaves of the values, less the values; its slope is the sum of change times
gradient over an utterance. What a grid does to a loss is mostly chance, and another set's chance is another: the slopes are of all
the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from asrcompress.integers.sites import Sites
from asrcompress.models.criterion import negative_log_likelihood
from asrcompress.ops.gradients import Effect, by_length, expand
from asrcompress.ops.load import Source
from asrcompress.ops.observe import Alteration, Ranges, build_observed
from asrcompress.ops.probe_data import ProbeData, require_loss
from asrcompress.ops.units import Unit

Progress = Callable[[int, int], None]


def activation_effects(
    source: Source,
    data: ProbeData,
    units: Sequence[Unit],
    bits: Sequence[int],
    *,
    batch_size: int = 4,
    progress: Progress = lambda done, total: None,
) -> dict[tuple[str, int], Effect]:
    """One pass forward for the ranges of every site, one forward and back for the slopes.

    The ranges are of all the data, as those of exact trials are: on another grid values are rounded otherwise.

    Args:
        source: of a float model.
        data: with references.
        units: of activations.
        bits: of their grids.
        batch_size: utterances that run together, and whose slopes are told apart from others'.
        progress: told of batches.

    Returns:
        Effects by name of the unit and bits.

    Raises:
        AsrCompressError: an activation is no number, or the utterances have no loss.
    """
    ranges = Ranges()
    batches = by_length(data.features, batch_size)
    total = 2 * len(batches)
    with torch.no_grad():
        model = build_observed(source, Sites(alter=ranges))
        for number, positions in enumerate(batches):
            progress(number, total)
            _log_probs(source, model, data, positions)
    slopes = Slopes(units, bits, ranges, len(batches))
    model = build_observed(source, Sites(alter=slopes)).requires_grad_(False)
    tokens = torch.zeros(len(batches), dtype=torch.float64)
    for number, positions in enumerate(batches):
        progress(len(batches) + number, total)
        slopes.group = number
        targets = [data.targets[position] for position in positions]
        found = _log_probs(source, model, data, positions)
        losses, counts = negative_log_likelihood(source.family, source.spec, found, targets)
        if losses.requires_grad:  # not where no reference fits into its frames
            losses.sum().backward()  # type: ignore[no-untyped-call]
        tokens[number] = int(counts.sum())
    require_loss(source, data, 0.0, int(tokens.sum()))
    progress(total, total)
    return {key: expand(values.unsqueeze(0), tokens)[0] for key, values in slopes.slopes.items()}


class Slopes:
    """Sums of change x gradient at the sites of units, for the group of utterances that is running."""

    def __init__(self, units: Sequence[Unit], bits: Sequence[int], ranges: Ranges, num_groups: int) -> None:
        self.unit_of = {site: unit.name for unit in units for site in unit.sites}
        self.changes = {count: Alteration(dict.fromkeys(self.unit_of, count), ranges) for count in bits}
        self.slopes = {
            (unit.name, count): torch.zeros(num_groups, dtype=torch.float64) for unit in units for count in bits
        }
        self.group = 0

    def __call__(self, site: str, values: Tensor) -> Tensor:
        """Values at a site, as they are, with an ear for their gradient."""
        if not values.is_floating_point():
            return values
        if not values.requires_grad:
            values = values.detach().requires_grad_()
        if site in self.unit_of:
            values.register_hook(partial(self._hear, site, values.detach()))
        return values

    def _hear(self, site: str, values: Tensor, gradient: Tensor) -> None:
        for count, alteration in self.changes.items():
            slope = ((alteration(site, values) - values) * gradient).sum(dtype=torch.float64)
            self.slopes[self.unit_of[site], count][self.group] += slope


def _log_probs(source: Source, model: torch.nn.Module, data: ProbeData, positions: Sequence[int]) -> list[Tensor]:
    found: list[Tensor] = source.family.log_probs(
        source.spec,
        model,
        [data.features[position] for position in positions],
        [data.targets[position] for position in positions],
    )
    return found
