"""Each sparsifier against an independent, slower answer, and against the ones before it."""

from __future__ import annotations

import itertools

import pytest
import torch

from asrcompress.quantizers.statistics import InputStatistics, output_error
from asrcompress.sparsifiers import prune


def make(seed=0, rows=8, columns=24, tokens=400):
    """(weight, inputs, statistics), the inputs correlated."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.eye(columns) + 0.4 * torch.randn(columns, columns, generator=generator)
    inputs = torch.randn(tokens, columns, generator=generator) @ (mix * torch.rand(columns, generator=generator))
    statistics = InputStatistics.empty(1, columns)
    statistics.add(inputs)
    return torch.randn(rows, columns, generator=generator), inputs, statistics


@pytest.mark.parametrize("pattern", [(2, 4), (1, 4), (3, 8)])
@pytest.mark.parametrize("sparsifier", ["magnitude", "wanda"])
def test_the_choice_is_the_best_of_all_where_columns_do_not_matter_to_each_other(sparsifier, pattern):
    """magnitude: least squared error of the weight. wanda: of the output, if inputs were uncorrelated."""
    weight, inputs, statistics = make()
    cost = weight.double().square() * (inputs.double().square().sum(dim=0) if sparsifier == "wanda" else 1)
    best = torch.stack(
        [
            cost.reshape(8, -1, pattern[1])[..., list(dropped)].sum(dim=-1)
            for dropped in itertools.combinations(range(pattern[1]), pattern[1] - pattern[0])
        ]
    ).amin(dim=0)
    mask = prune(weight, pattern, sparsifier=sparsifier, statistics=statistics).mask
    found = (cost * ~mask).reshape(8, -1, pattern[1]).sum(dim=-1)
    assert torch.allclose(found, best, rtol=1e-5)


def reference_sparsegpt(weight, inputs, pattern):
    """In double, column by column: the inverse Hessian shrinks by elimination; each group chooses by w^2 / its diagonal."""
    hessian = inputs.double().t() @ inputs.double()
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    inverse, left = torch.linalg.inv(hessian), weight.double().clone()
    mask = torch.ones_like(weight, dtype=torch.bool)
    for column in range(weight.shape[1]):
        if column % pattern[1] == 0:
            group = slice(column, column + pattern[1])
            # Of what is left of the inverse, U[j, j]^2 is entry j once the group's columns before j are eliminated.
            small, pivots = inverse[group, group].clone(), []
            for place in range(pattern[1]):
                pivots.append(float(small[place, place]))
                small = small - torch.outer(small[:, place], small[place]) / small[place, place]
            saliency = left[:, group].square() / torch.tensor(pivots)
            order = saliency.argsort(dim=1, descending=True, stable=True)[:, : pattern[0]]
            mask[:, group] = torch.zeros_like(mask[:, group]).scatter_(1, order, True)
        error = torch.where(mask[:, column], 0.0, left[:, column]) / inverse[column, column]
        left = left - torch.outer(error, inverse[column])
        inverse = inverse - torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        inverse[column, column] = 1.0  # column is done; its row and column are 0 by now
    return left * mask, mask


@pytest.mark.parametrize(("pattern", "columns"), [((2, 4), 24), ((1, 4), 24), ((4, 8), 320), ((5, 12), 300)])
def test_sparsegpt_is_column_by_column_elimination(pattern, columns):
    weight, inputs, statistics = make(1, columns=columns, tokens=3 * columns)
    found = prune(weight, pattern, sparsifier="sparsegpt", statistics=statistics)
    rows, mask = reference_sparsegpt(weight, inputs, pattern)
    assert found.by_column
    # float32 against double: where two weights are nearly equal, a row may go another way.
    same = (found.mask == mask).all(dim=1)
    assert same.double().mean() > 0.7
    assert torch.allclose(found.rows[same].double(), rows[same], atol=1e-3)


@pytest.mark.parametrize(("pattern", "ratio"), [((2, 4), 0.7), ((1, 4), 0.85)])
def test_each_sparsifier_has_a_smaller_output_error_than_the_one_before(pattern, ratio):
    errors = {}
    for sparsifier in ("magnitude", "wanda", "sparsegpt"):
        weight, _, statistics = make(2, rows=64, columns=64, tokens=1000)
        errors[sparsifier] = output_error(
            weight, prune(weight, pattern, sparsifier=sparsifier, statistics=statistics).rows, statistics
        )
    assert errors["wanda"] < 0.9 * errors["magnitude"]
    assert errors["sparsegpt"] < ratio * errors["wanda"]


def test_with_unknown_inputs_all_are_magnitude():
    weight, unknown = make(3)[0], InputStatistics.unknown(24)
    magnitude, wanda, sparsegpt = (
        prune(weight, (2, 4), sparsifier=s, statistics=unknown) for s in ("magnitude", "wanda", "sparsegpt")
    )
    assert torch.equal(magnitude.rows, wanda.rows)
    assert torch.equal(magnitude.rows, sparsegpt.rows)
