"""What a change of a weight would do to a keyword model: exact losses of its linearised logit.

A keyword model has one number a clip, the difference of its two logits. Its gradient by every weight, clip by clip, says how
far a change moves each clip; loss and divergence then follow without further approximation, which matters since trained spotters
are certain of almost every clip. One pass forward and back: inputs and output gradients of every product are caught and
multiplied per clip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asrcompress.modules.swap import swap
from asrcompress.modules.weight import FloatWeight
from asrcompress.ops.gradients import Effect
from asrcompress.ops.load import Source, build_model
from asrcompress.ops.probe_data import ProbeData, require_loss

Progress = Callable[[int, int], None]
Pairs = dict[str, list[tuple[Tensor, Tensor]]]
BATCH_SIZE = 128
MAX_BYTES = 2**30  # of gradients; a larger set is thinned out evenly


@dataclass(frozen=True)
class Linearized:
    """jacobians: by weight, (clips, elements), of the logit difference keyword - other. logits: (clips,) float64. labels: (clips,) bool."""

    jacobians: Mapping[str, Tensor]
    logits: Tensor
    labels: Tensor

    def effects(self, name: str, changes: Tensor) -> list[Effect]:
        """For each of `changes`, (options, elements), of a weight."""
        return [self._effect(shift) for shift in (changes.float() @ self.jacobians[name].T).double()]

    def _effect(self, shift: Tensor) -> Effect:
        sign = torch.where(self.labels, 1.0, -1.0).double()
        loss = F.softplus(-sign * (self.logits + shift)) - F.softplus(-sign * self.logits)
        keyword = F.logsigmoid(self.logits).exp() * (F.logsigmoid(self.logits) - F.logsigmoid(self.logits + shift))
        other = F.logsigmoid(-self.logits).exp() * (F.logsigmoid(-self.logits) - F.logsigmoid(-self.logits - shift))
        return Effect(float(loss.mean()), float((keyword + other).mean()))


def keyword_gradients(
    source: Source, data: ProbeData, names: Sequence[str], *, progress: Progress = lambda done, total: None
) -> Linearized:
    """Gradients of each clip's logit difference by each weight, of a family of keyword models.

    Raises:
        AsrCompressError: a logit is no number.
    """
    plain = build_model(source).module
    weights = {name: FloatWeight(plain.get_parameter(name).detach()) for name in names}
    model = swap(plain, weights).eval().requires_grad_(False)
    elements = sum(weight.values.numel() for weight in weights.values())
    count = max(1, min(len(data.features), MAX_BYTES // (4 * elements)))
    clips = [index * len(data.features) // count for index in range(count)]
    axes = _batch_axes(source, model, weights, data.features[0])
    jacobians = {name: torch.empty(count, weight.values.numel()) for name, weight in weights.items()}
    logits: list[Tensor] = []
    for begin in range(0, count, BATCH_SIZE):
        progress(begin, count)
        batch = [data.features[clip] for clip in clips[begin : begin + BATCH_SIZE]]
        pairs, difference = _run(source, model, weights, batch)
        require_loss(source, data, float(difference.detach().sum()), len(batch))
        results = [out for calls in pairs.values() for _, out in calls]
        gradients = iter(torch.autograd.grad(difference.sum(), results, allow_unused=True))
        for name, calls in pairs.items():
            caught = [
                (x.movedim(axis, 0), gradient.movedim(axis, 0))
                for (x, _), gradient, axis in zip(calls, gradients, axes[name], strict=False)
                if gradient is not None
            ]
            rows = jacobians[name][begin : begin + len(batch)]
            rows[:] = per_clip(caught, weights[name].values.shape[0]) if caught else 0.0
        logits.append(difference.detach())
    progress(count, count)
    labels = torch.tensor([bool(data.targets[clip][0]) for clip in clips])
    return Linearized(jacobians, torch.cat(logits).double(), labels)


def _run(
    source: Source, model: nn.Module, weights: Mapping[str, FloatWeight], batch: Sequence[Tensor]
) -> tuple[Pairs, Tensor]:
    """Inputs and results of every product, by weight, and the logit difference of each clip."""
    pairs: Pairs = {name: [] for name in weights}

    def watch(name: str) -> Callable[[Tensor, Tensor], Tensor]:
        def watcher(x: Tensor, out: Tensor) -> Tensor:
            out = out if out.requires_grad else out.detach().requires_grad_()
            pairs[name].append((x.detach(), out))
            return out

        return watcher

    for name, weight in weights.items():
        weight.watcher = watch(name)
    found = torch.stack(source.family.log_probs(source.spec, model, list(batch), None)).squeeze(1)
    return pairs, found[:, 1] - found[:, 0]


def _batch_axes(
    source: Source, model: nn.Module, weights: Mapping[str, FloatWeight], clip: Tensor
) -> dict[str, list[int]]:
    """The dimension over clips of each product's result, call by call: the one that two and three clips differ in."""
    two, three = (_run(source, model, weights, [clip] * count)[0] for count in (2, 3))
    return {
        name: [
            next(dim for dim, sizes in enumerate(zip(a.shape, b.shape, strict=True)) if sizes == (2, 3))
            for (_, a), (_, b) in zip(two[name], three[name], strict=True)
        ]
        for name in weights
    }


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
