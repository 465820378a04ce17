"""Distances from the teacher, against SciPy and against the cross entropy that one is at bottom."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from asrcompress.training.loss import attention_divergence, distillation, hidden_error, weigh_steps


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


def maps(seed: int, *shape: int) -> torch.Tensor:
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).softmax(-1)


def test_attention_is_compared_row_by_row_as_scipy_has_it():
    ours, theirs = maps(1, 2, 3, 5), maps(2, 2, 3, 5)
    found = attention_divergence(ours, theirs)
    assert np.allclose(found, rel_entr(theirs.numpy(), ours.numpy()).sum(axis=-1), rtol=1e-9)
    assert float(attention_divergence(theirs, theirs).abs().max()) < 1e-12


def test_attention_to_what_is_masked_or_padding_costs_nothing():
    """A causal map and one with padded keys and queries: the zeros of both are no infinity, in values and gradients."""
    scores = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    ours = scores.masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf).softmax(-1)
    theirs = torch.zeros(1, 4, 4, dtype=torch.float64)
    theirs[0, :3, :3] = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]])
    found = attention_divergence(ours, theirs)
    assert found[0, 3] == 0
    assert float(found[0, 0]) == pytest.approx(0, abs=1e-12)
    assert float(found[0, 2]) == pytest.approx(
        rel_entr(theirs[0, 2, :3].numpy(), ours[0, 2, :3].detach().numpy()).sum()
    )
    found.sum().backward()
    assert torch.isfinite(scores.grad).all()
    assert not scores.grad[0, 3].any()


def test_a_student_that_does_not_look_where_its_teacher_does_pays_a_finite_price():
    ours, theirs = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.5, 0.5]]])
    assert float(attention_divergence(ours, theirs)) == pytest.approx(
        0.5 * np.log(0.5) + 0.5 * np.log(0.5 / 1e-9), rel=1e-5
    )


def test_hidden_outputs_are_compared_by_shape_and_not_by_size():
    ours, theirs = (torch.randn(2, 3, 400, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    found = hidden_error(ours, theirs)
    for row, correlation in zip(
        found.flatten(), map(np.corrcoef, ours.flatten(0, 1), theirs.flatten(0, 1)), strict=True
    ):
        assert float(row) == pytest.approx(
            2 * (1 - correlation[0, 1]), rel=1e-3
        )  # of normal values, what they lack in common
    assert torch.allclose(hidden_error(100 * ours + 7, theirs), found, rtol=1e-3)
    assert float(hidden_error(theirs, theirs).max()) < 1e-9
    assert float(hidden_error(-theirs, theirs).mean()) == pytest.approx(4, rel=1e-3)


def test_steps_of_padding_count_nothing_and_tokens_do():
    errors = torch.tensor([[1.0, 3.0, 5.0], [2.0, torch.nan, 9.0]])
    assert float(weigh_steps(errors, [3, 1], [4, 10])) == pytest.approx(4 * 3 + 10 * 2)
