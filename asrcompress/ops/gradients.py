"""What a change of a weight would do to the loss, told from gradients: no run of the changed model is needed.

Second order, with the empirical Fisher information F for the curvature (the mean square of gradients about their mean, over
groups of utterances): a change d of a weight moves the loss by g d + d F d / 2, and half of d F d is what the model's
output diverges by (LeCun et al. 1989, Optimal Brain Damage; Martens 2014, arXiv 1412.1193, sections 5 and 9). One pass
forward and back over the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asrcompress.models.criterion import negative_log_likelihood
from asrcompress.ops.load import Source, build_model
from asrcompress.ops.probe_data import ProbeData, require_loss

Progress = Callable[[int, int], None]
MAX_GROUPS = 32  # of utterances, whose gradients are kept apart


@dataclass(frozen=True)
class Effect:
    """What a change is expected to do: to the loss, and as divergence of the output; nats a token."""

    loss: float
    kl: float


@dataclass(frozen=True)
class Taylor:
    """Gradients of the references' negative log-likelihood, by name of the weight.

    groups: (groups, elements), summed over the tokens of each group of utterances. num_tokens: (groups,).
    """

    groups: Mapping[str, Tensor]
    num_tokens: Tensor

    def effects(self, name: str, changes: Tensor) -> list[Effect]:
        """For each of `changes`, (options, elements), of a weight."""
        return expand(changes.float() @ self.groups[name].T, self.num_tokens)


def expand(slopes: Tensor, num_tokens: Tensor) -> list[Effect]:
    """Second-order effects from directional derivatives.

    Args:
        slopes: (options, groups), the derivative of each group's summed loss along each change.
        num_tokens: (groups,), tokens of each.
    """
    slopes, tokens = slopes.double(), num_tokens.double()
    total, count = tokens.sum(), len(tokens)
    first = slopes.sum(dim=1) / total
    spread = slopes - first.unsqueeze(1) * tokens
    second = spread.square().sum(dim=1) / total * (count / max(count - 1, 1))
    return [Effect(float(slope + half), float(half)) for slope, half in zip(first, second / 2, strict=True)]


def weight_gradients(
    source: Source,
    data: ProbeData,
    names: Sequence[str],
    *,
    batch_size: int = 16,
    progress: Progress = lambda done, total: None,
) -> Taylor:
    """One pass forward and back over the data.

    Args:
        source: of the model.
        data: with references; utterances without a frame are left out.
        names: of the weights.
        batch_size: utterances that run together.
        progress: told of batches.

    Raises:
        AsrCompressError: the loss is no number, or there is none.
    """
    family, spec = source.family, source.spec
    model = build_model(source).module.requires_grad_(False)
    weights = [model.get_parameter(name).requires_grad_(True) for name in names]
    batches = by_length(data.features, batch_size)
    count = min(len(batches), MAX_GROUPS)
    groups = [torch.zeros(count, weight.numel()) for weight in weights]
    num_tokens = torch.zeros(count, dtype=torch.float64)
    for number, positions in enumerate(batches):
        progress(number, len(batches))
        targets = [data.targets[position] for position in positions]
        found = family.log_probs(spec, model, [data.features[position] for position in positions], targets)
        losses, tokens = negative_log_likelihood(family, spec, found, targets)
        loss = losses.sum()
        require_loss(source, data, float(loss.detach()), 1)
        # A weight that only training uses is not reached, nor is any where all are such.
        gradients = (
            torch.autograd.grad(loss, weights, allow_unused=True) if loss.requires_grad else [None] * len(weights)
        )
        group = number * count // len(batches)
        num_tokens[group] += int(tokens.sum())
        for stack, gradient in zip(groups, gradients, strict=True):
            if gradient is not None:
                stack[group] += gradient.reshape(-1)
    require_loss(source, data, 0.0, int(num_tokens.sum()))
    progress(len(batches), len(batches))
    return Taylor(dict(zip(names, groups, strict=True)), num_tokens)


def by_length(features: Sequence[Tensor], batch_size: int) -> list[list[int]]:
    """Positions in batches, short utterances first, those without a frame in none."""
    order = sorted(
        (position for position, frames in enumerate(features) if len(frames)),
        key=lambda position: features[position].shape[0],
    )
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
