"""What an update makes smaller: the task's own criterion and the distance from the teacher. Differentiable; pure tensors."""

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
