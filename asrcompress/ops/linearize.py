"""What a change of a weight would do to a keyword model: exact losses of its linearised logit.

A keyword model has one number a clip, the difference of its two logits. Its gradient by every weight, clip by clip, says how
far a change moves each clip; loss and divergence then follow without further approximation, which matters since trained spotters
are certain of almost every clip. One pass forward and back: inputs and output gradients of every product are caught and
multiplied per clip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from asrcompress.integers.sites import Sites
from asrcompress.modules.swap import find_weights, swap
from asrcompress.modules.weight import FloatWeight
from asrcompress.ops.gradients import Effect
from asrcompress.ops.load import Source, build_model
from asrcompress.ops.observe import Alteration, Ranges, build_observed
from asrcompress.ops.probe_data import ProbeData, require_loss
from asrcompress.ops.units import Unit

Progress = Callable[[int, int], None]
BATCH_SIZE = 128
NUM_RANGED = 64  # clips that ranges of activations are from
MAX_BYTES = 2**30  # of gradients; a larger set is thinned out evenly


@dataclass(frozen=True)
class Linearized:
    """jacobians: by weight, (clips, elements), of the logit difference keyword - other. logits: (clips,) float64. labels: (clips,) bool.
    shifts: (clips,) by unit of activations and bits, what fewer bits move each clip's difference by."""

    jacobians: Mapping[str, Tensor]
    logits: Tensor
    labels: Tensor
    shifts: Mapping[tuple[str, int], Tensor] = field(default_factory=dict)

    def effects(self, name: str, changes: Tensor) -> list[Effect]:
        """For each of `changes`, (options, elements), of a weight."""
        return [self._effect(shift) for shift in (changes.float() @ self.jacobians[name].T).double()]

    def activation_effects(self) -> dict[tuple[str, int], Effect]:
        """By unit of activations and bits."""
        return {key: self._effect(shift.double()) for key, shift in self.shifts.items()}

    def _effect(self, shift: Tensor) -> Effect:
        sign = torch.where(self.labels, 1.0, -1.0).double()
        loss = F.softplus(-sign * (self.logits + shift)) - F.softplus(-sign * self.logits)
        keyword = F.logsigmoid(self.logits).exp() * (F.logsigmoid(self.logits) - F.logsigmoid(self.logits + shift))
        other = F.logsigmoid(-self.logits).exp() * (F.logsigmoid(-self.logits) - F.logsigmoid(-self.logits - shift))
        return Effect(float(loss.mean()), float((keyword + other).mean()))


def keyword_gradients(
    source: Source,
    data: ProbeData,
    names: Sequence[str],
    *,
    units: Sequence[Unit] = (),
    bits: Sequence[int] = (),
    progress: Progress = lambda done, total: None,
) -> Linearized:
    """Gradients of each clip's logit difference by each weight, and slopes along fewer bits of activations.

    Args:
        source: of a keyword model.
        data: clips.
        names: of weights that can be packed.
        units: of activations.
        bits: of their grids.
        progress: told of clips.

    Raises:
        AsrCompressError: a logit is no number.
    """
    watched = Watched(source, names, units)
    elements = sum(weight.values.numel() for weight in watched.weights.values())
    count = max(1, min(len(data.features), MAX_BYTES // (4 * elements)))
    clips = [index * len(data.features) // count for index in range(count)]
    changes = watched.changes([data.features[clip] for clip in clips[:: max(1, count // NUM_RANGED)]], bits)
    weight_axes, site_axes = watched.batch_axes(data.features[0])
    jacobians = {name: torch.empty(count, weight.values.numel()) for name, weight in watched.weights.items()}
    shifts = {(unit.name, num_bits): torch.zeros(count) for unit in units for num_bits in bits}
    logits: list[Tensor] = []
    for begin in range(0, count, BATCH_SIZE):
        progress(begin, count)
        here = slice(begin, begin + BATCH_SIZE)
        difference = watched.run([data.features[clip] for clip in clips[here]])
        require_loss(source, data, float(difference.detach().sum()), len(difference))
        products, passed = watched.gradients(difference)
        for name, calls in products.items():
            caught = [
                (x.movedim(axis, 0), gradient.movedim(axis, 0))
                for (x, gradient), axis in zip(calls, weight_axes[name], strict=True)
                if gradient is not None
            ]
            jacobians[name][here] = per_clip(caught, watched.weights[name].values.shape[0]) if caught else 0.0
        for (site, values, gradient), axis in zip(passed, site_axes, strict=True):
            for num_bits, change in changes.items():
                if gradient is not None:
                    slope = ((change(site, values) - values) * gradient).movedim(axis, 0).flatten(1).sum(dim=1)
                    shifts[watched.unit_of[site], num_bits][here] += slope
        logits.append(difference.detach())
    progress(count, count)
    labels = torch.tensor([bool(data.targets[clip][0]) for clip in clips])
    return Linearized(jacobians, torch.cat(logits).double(), labels, shifts)


class Watched:
    """A keyword model whose products, and values at the sites of some units, are caught as it runs."""

    def __init__(self, source: Source, names: Sequence[str], units: Sequence[Unit]) -> None:
        self.source = source
        self.unit_of = {site: unit.name for unit in units for site in unit.sites}
        plain = build_model(source).module
        # What has a twin is swapped whole; of that, what is named is caught.
        swapped = {
            site.name: FloatWeight(plain.get_parameter(site.name).detach())
            for site in find_weights(plain)
            if not site.tied_to
        }
        self.weights = {name: swapped[name] for name in names}
        self._sites = Sites()
        if units:
            self._model = build_observed(source, self._sites, weights=swapped)
        else:
            self._model = swap(plain, swapped).eval()
        self._model.requires_grad_(False)
        self._products: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._passed: list[tuple[str, Tensor]] = []

    def changes(self, clips: Sequence[Tensor], bits: Sequence[int]) -> dict[int, Alteration]:
        """What each number of bits does at the sites, by the ranges of these clips."""
        if not self.unit_of:
            return {}
        ranges = Ranges()
        self._sites.alter = ranges
        with torch.no_grad():
            self.source.family.log_probs(self.source.spec, self._model, list(clips), None)
        return {num_bits: Alteration(dict.fromkeys(self.unit_of, num_bits), ranges) for num_bits in bits}

    def run(self, clips: Sequence[Tensor]) -> Tensor:
        """The logit difference of each clip: (clips,), differentiable by all that is caught."""
        self._products, self._passed = {name: [] for name in self.weights}, []
        self._sites.alter = self._hear
        for name, weight in self.weights.items():
            weight.watcher = partial(self._watch, name)
        found = torch.stack(self.source.family.log_probs(self.source.spec, self._model, list(clips), None)).squeeze(1)
        return found[:, 1] - found[:, 0]

    def gradients(
        self, difference: Tensor
    ) -> tuple[dict[str, list[tuple[Tensor, Tensor | None]]], list[tuple[str, Tensor, Tensor | None]]]:
        """Of the run: inputs and gradients of every product, by weight; sites, values and gradients. None: not reached."""
        caught = [out for calls in self._products.values() for _, out in calls] + [values for _, values in self._passed]
        found = iter(torch.autograd.grad(difference.sum(), caught, allow_unused=True))
        products: dict[str, list[tuple[Tensor, Tensor | None]]] = {
            name: [(x, next(found)) for x, _ in calls] for name, calls in self._products.items()
        }
        return products, [(site, values.detach(), next(found)) for site, values in self._passed]

    def batch_axes(self, clip: Tensor) -> tuple[dict[str, list[int]], list[int]]:
        """The dimension over clips of each product's result and of each value, call by call: in which two and three clips differ."""
        shapes: list[tuple[dict[str, list[torch.Size]], list[torch.Size]]] = []
        for count in (2, 3):
            self.run([clip] * count)
            products = {name: [out.shape for _, out in calls] for name, calls in self._products.items()}
            shapes.append((products, [values.shape for _, values in self._passed]))
        (two, passed), (three, passed_by_three) = shapes
        axes = {name: [_axis(*pair) for pair in zip(two[name], three[name], strict=True)] for name in two}
        return axes, [_axis(*pair) for pair in zip(passed, passed_by_three, strict=True)]

    def _watch(self, name: str, x: Tensor, out: Tensor) -> Tensor:
        out = out if out.requires_grad else out.detach().requires_grad_()
        self._products[name].append((x.detach(), out))
        return out

    def _hear(self, site: str, values: Tensor) -> Tensor:
        if site in self.unit_of:
            values = values if values.requires_grad else values.detach().requires_grad_()
            self._passed.append((site, values))
        return values


def _axis(two: torch.Size, three: torch.Size) -> int:
    return next(dim for dim, sizes in enumerate(zip(two, three, strict=True)) if sizes == (2, 3))


def per_clip(caught: Sequence[tuple[Tensor, Tensor]], rows: int) -> Tensor:
    """Gradients of a weight, clip by clip: the sum over tokens of g x^T, (clips, elements).

    Args:
        caught: inputs (clips, ..., columns), or (clips, ..., groups, columns) of a grouped convolution, and gradients of the
            results (clips, ..., rows), product by product.
        rows: of the weight.
    """
    inputs, gradients = [], []
    for x, gradient in caught:
        if not x.is_floating_point():
            raise ValueError("a keyword model that looks rows of a weight up")
        grouped = x if x.dim() == gradient.dim() + 1 else x.unsqueeze(-2)
        inputs.append(grouped.reshape(len(x), -1, *grouped.shape[-2:]))
        gradients.append(gradient.reshape(len(x), -1, gradient.shape[-1]))
    x, gradient = torch.cat(inputs, dim=1), torch.cat(gradients, dim=1)
    groups = x.shape[2]
    gradient = gradient.reshape(len(x), -1, groups, rows // groups)
    return torch.matmul(gradient.permute(0, 2, 3, 1), x.transpose(1, 2)).reshape(len(x), -1)
