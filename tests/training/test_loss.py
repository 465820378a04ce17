"""The distance from the teacher, against SciPy and against the cross entropy that it is at bottom."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from asrcompress.training.loss import distillation


def scores(seed: int, steps: int, units: int = 5) -> torch.Tensor:
    return 2 * torch.randn(steps, units, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_scipy(student, teacher, num_tokens, temperature: float) -> float:
    total = 0.0
    for ours, theirs, count in zip(student, teacher, num_tokens, strict=True):
        p, q = (softmax(rows.numpy() / temperature, axis=-1) for rows in (theirs, ours))
        total += count * rel_entr(p, q).sum(axis=-1).mean()
    return total * temperature**2


@pytest.mark.parametrize("temperature", (0.5, 1.0, 4.0))
def test_it_is_the_divergence_of_softened_distributions(temperature):
    student = [scores(1, 4).log_softmax(-1), scores(2, 7).log_softmax(-1)]
    teacher = [scores(3, 4).log_softmax(-1), scores(4, 7).log_softmax(-1)]
    found = distillation(student, teacher, [3, 9], temperature=temperature)
    assert float(found) == pytest.approx(by_scipy(student, teacher, [3, 9], temperature), rel=1e-9)
    assert float(found) > 0.5
    swapped = distillation(teacher, student, [3, 9], temperature=temperature)
    assert float(swapped) != pytest.approx(float(found), rel=1e-3)


def test_the_teacher_itself_is_at_no_distance():
    teacher = [scores(3, 6).log_softmax(-1)]
    assert float(distillation(teacher, teacher, [2], temperature=3.0)) == pytest.approx(0, abs=1e-12)


def test_a_teacher_that_is_sure_makes_it_the_cross_entropy():
    """KL(p || q) = H(p, q) - H(p), and a sure teacher has no entropy: as with references, a loss a token where a step is a token."""
    target = torch.tensor([2, 0, 4])
    sure = torch.full((3, 5), -60.0, dtype=torch.float64).scatter(1, target[:, None], 0.0).log_softmax(-1)
    student = scores(5, 3).log_softmax(-1)
    found = distillation([student], [sure], [3], temperature=1.0)
    assert float(found) == pytest.approx(float(torch.nn.functional.nll_loss(student, target, reduction="sum")))


def test_gradients_are_those_of_probabilities_at_temperature_one():
    """Hinton et al.: d / d logit = T (q - p) at temperature T, for each step's share of the utterance."""
    logits, teacher = scores(6, 4).requires_grad_(), scores(7, 4).log_softmax(-1)
    for temperature in (1.0, 5.0):
        logits.grad = None
        distillation([logits.log_softmax(-1)], [teacher], [8], temperature=temperature).backward()
        p, q = (torch.from_numpy(softmax(x.detach().numpy() / temperature, axis=-1)) for x in (teacher, logits))
        assert torch.allclose(logits.grad, temperature * (q - p) * 8 / 4)


def test_an_utterance_counts_as_its_tokens_however_many_steps_it_has():
    ours, theirs = scores(1, 1).log_softmax(-1), scores(2, 1).log_softmax(-1)
    short = distillation([ours], [theirs], [5], temperature=1.0)
    long = distillation([ours.repeat(40, 1)], [theirs.repeat(40, 1)], [5], temperature=1.0)
    assert float(long) == pytest.approx(float(short))
    assert float(distillation([ours], [theirs], [10], temperature=1.0)) == pytest.approx(2 * float(short))


def test_utterances_that_do_not_belong_together_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        distillation([scores(1, 2)], [scores(1, 2), scores(2, 2)], [1], temperature=1.0)


def test_an_impossible_unit_of_the_student_is_an_infinite_distance_and_of_the_teacher_none():
    ours, theirs = (torch.tensor([values], dtype=torch.float64).log() for values in ([0.5, 0.5], [1.0, 1e-300]))
    assert float(distillation([ours], [theirs], [1], temperature=1.0)) == pytest.approx(float(np.log(2)))
