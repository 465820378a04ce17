"""Distances from a teacher: of outputs, of attention maps, of layer outputs. Differentiable; pure tensors.

All are in nats or in squared units a step, and count an utterance as much as it has tokens, however many steps it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def distillation(
    student: Sequence[Tensor], teacher: Sequence[Tensor], num_tokens: Sequence[int], *, temperature: float
) -> Tensor:
    """KL(teacher || student) of softened distributions, times the square of the temperature (Hinton et al. 2015, arXiv 1503.02531).

    Args:
        student: (steps, vocabulary) log-probabilities each.
        teacher: likewise, without a gradient.
        num_tokens: of each reference; an utterance counts as much as it has tokens, however many steps it has.
        temperature: above 1, small probabilities count more.

    Returns:
        The sum over utterances of tokens x the mean over steps, in nats.
    """
    total = student[0].new_zeros(())
    for ours, theirs, count in zip(student, teacher, num_tokens, strict=True):
        p, q = (theirs / temperature).log_softmax(dim=-1), (ours / temperature).log_softmax(dim=-1)
        total = total + torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True) * (count / max(len(ours), 1))
    return total * temperature**2


LEAST_WEIGHT = 1e-9  # as which a student's smaller attention counts, so that what it never looks at costs no infinity


def attention_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of attention maps, as in Aguilar et al. 2020 (arXiv 1910.03723).

    Args:
        student: (batch, queries, keys) weights, rows that sum to 1.
        teacher: likewise, without a gradient; rows and columns of padding are 0, and cost nothing.

    Returns:
        (batch, queries) in nats.
    """
    own = student.clamp_min(LEAST_WEIGHT).log()
    return (torch.xlogy(teacher, teacher) - teacher * own).sum(dim=-1)


def hidden_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of layer outputs, after each step of both was given mean 0 and variance 1: at least 0, at most 4.

    As in TinyBERT (Jiao et al. 2020, arXiv 1909.10351, equation 8), but for what it is normalised by: 2 is what two outputs
    that know nothing of each other have, in any layer of any model.

    Args:
        student: (batch, steps, width).
        teacher: likewise, without a gradient.

    Returns:
        (batch, steps).
    """
    width = (student.shape[-1],)
    normal = torch.nn.functional.layer_norm
    return (normal(student, width) - normal(teacher, width)).square().mean(dim=-1)


def weigh_steps(errors: Tensor, lengths: Sequence[int], num_tokens: Sequence[int]) -> Tensor:
    """The sum over utterances of tokens x the mean over steps.

    Args:
        errors: (batch, steps), padding included.
        lengths: steps of each utterance.
        num_tokens: of each.
    """
    ends, tokens = (torch.tensor(list(values), device=errors.device) for values in (lengths, num_tokens))
    inside = torch.arange(errors.shape[1], device=errors.device) < ends[:, None]
    return (torch.where(inside, errors, 0).sum(dim=1) / ends.clamp_min(1) * tokens).sum()
