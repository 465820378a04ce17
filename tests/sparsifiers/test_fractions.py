"""A fraction of zeros wherever they fall: exact counts under ties, whose share is counted where, and what is kept."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.patterns import UNSTRUCTURED
from asrcompress.quantizers.statistics import MAX_COLUMNS, InputStatistics, output_error
from asrcompress.sparsifiers import SPARSIFIERS, prune
from asrcompress.sparsifiers.ranking import keep_ranked, kept_of
from tests.sparsifiers.test_sparsifier_contract import make_statistics

every_sparsifier = pytest.mark.parametrize("sparsifier", sorted(SPARSIFIERS))


@st.composite
def weights(draw):
    """A weight of few different values, so that ties are the rule."""
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 14))
    values = draw(st.sampled_from([(0.0,), (1.0,), (-1.0, 1.0), (0.0, 0.5, -0.5), tuple(i / 7 for i in range(-7, 8))]))
    flat = draw(st.lists(st.sampled_from(values), min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(flat).reshape(rows, columns)


@every_sparsifier
@settings(max_examples=60, derandomize=True, deadline=None)
@given(weights(), st.integers(1, 99))
def test_exactly_the_fraction_is_dropped_even_under_ties(sparsifier, weight, percent):
    before, statistics = weight.clone(), make_statistics(weight.shape[1])
    pruned = prune(weight, percent / 100, sparsifier=sparsifier, statistics=statistics)
    assert int((~pruned.mask).sum()) == min(round(percent / 100 * weight.numel()), weight.numel() - 1)
    assert not pruned.rows[~pruned.mask].any()
    assert torch.isfinite(pruned.rows).all()
    assert (pruned.pattern, pruned.by_column) == (UNSTRUCTURED, False)
    assert torch.equal(weight, before)
    assert torch.equal(prune(weight, percent / 100, sparsifier=sparsifier, statistics=statistics).mask, pruned.mask)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(weights(), st.data())
def test_rank_decides_and_of_equals_the_first_stays(score, data):
    rows, columns = score.shape
    counts = data.draw(st.lists(st.integers(0, columns), min_size=rows, max_size=rows))
    expected = torch.zeros_like(score, dtype=torch.bool)
    for row in range(rows):
        places = sorted(range(columns), key=lambda place: (-float(score[row, place]), place))
        expected[row, places[: counts[row]]] = True
    assert torch.equal(keep_ranked(score, counts), expected)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.integers(1, 99), st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_parts_keep_their_share_and_the_whole_is_exact(percent, sizes):
    kept = kept_of(percent / 100, sizes)
    assert sum(kept) == max(sum(sizes) - round(percent / 100 * sum(sizes)), 1)
    assert all(abs(share - size * (1 - percent / 100)) <= 1 + 1e-9 for share, size in zip(kept, sizes, strict=True))


def test_magnitude_counts_over_the_matrix_and_wanda_over_each_row():
    weight = torch.arange(1, 33.0).reshape(4, 8)
    magnitude = prune(weight, 0.5, sparsifier="magnitude").mask
    assert magnitude.tolist() == [[False] * 8] * 2 + [[True] * 8] * 2
    wanda = prune(weight, 0.5, sparsifier="wanda", statistics=InputStatistics.unknown(8)).mask
    assert wanda.tolist() == [[False] * 4 + [True] * 4] * 4


def test_sparsegpt_counts_over_a_block_of_columns():
    """The first 128 columns are ten times as large as the rest, and still drop their half."""
    weight = torch.randn(6, 300, generator=torch.Generator().manual_seed(0))
    weight[:, :128] *= 10
    pruned = prune(weight, 0.5, sparsifier="sparsegpt", statistics=make_statistics(300))
    assert [int(pruned.mask[:, begin : begin + 128].sum()) for begin in (0, 128, 256)] == [384, 384, 132]


def test_sparsegpt_counts_each_group_of_a_convolution_by_itself():
    weight = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(3))
    statistics = make_statistics(12, groups=2)
    whole = prune(weight, 0.5, sparsifier="sparsegpt", statistics=statistics)
    for group in range(2):
        part = InputStatistics(
            statistics.second_moment[group : group + 1], statistics.total[group : group + 1], statistics.count
        )
        rows = slice(3 * group, 3 * group + 3)
        alone = prune(weight[rows], 0.5, sparsifier="sparsegpt", statistics=part)
        assert torch.equal(whole.mask[rows], alone.mask)
        assert torch.allclose(whole.rows[rows], alone.rows, atol=1e-6)


def test_each_sparsifier_has_a_smaller_output_error_than_one_that_looks_at_less():
    generator = torch.Generator().manual_seed(1)
    mix = torch.eye(160) + 0.4 * torch.randn(160, 160, generator=generator)
    statistics = InputStatistics.empty(1, 160)
    statistics.add(torch.randn(800, 160, generator=generator) @ (mix * torch.rand(160, generator=generator)))
    weight = torch.randn(64, 160, generator=generator)
    errors = {
        sparsifier: output_error(
            weight, prune(weight, 0.5, sparsifier=sparsifier, statistics=statistics).rows, statistics
        )
        for sparsifier in SPARSIFIERS
    }
    assert errors["wanda"] < 0.9 * errors["magnitude"]
    assert errors["sparsegpt"] < 0.8 * errors["wanda"]


def test_a_fraction_has_a_smaller_error_than_the_pattern_that_drops_as_many():
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(4))
    free, grouped = (prune(weight, choice, sparsifier="magnitude").rows for choice in (0.5, (2, 4)))
    assert (weight - free).norm() < 0.85 * (weight - grouped).norm()


@every_sparsifier
def test_dead_inputs_leave_the_largest(sparsifier):
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(2))
    statistics = InputStatistics.empty(1, 8)
    statistics.add(torch.zeros(4, 8))
    found = prune(weight, 0.5, sparsifier=sparsifier, statistics=statistics).mask
    by_row = prune(weight, 0.5, sparsifier="wanda", statistics=InputStatistics.unknown(8)).mask
    assert torch.equal(found, by_row if sparsifier == "wanda" else prune(weight, 0.5, sparsifier="magnitude").mask)


def test_wide_weights_have_no_columns_that_make_up_for_others():
    weight, statistics = torch.randn(2, MAX_COLUMNS + 8), InputStatistics.empty(1, MAX_COLUMNS + 8)
    statistics.add(torch.randn(5, MAX_COLUMNS + 8))
    found, wanda = (prune(weight, 0.3, sparsifier=s, statistics=statistics) for s in ("sparsegpt", "wanda"))
    assert torch.equal(found.rows, wanda.rows)


@pytest.mark.parametrize("sparsity", [0.0, 1.0, -0.5, 50.0, float("nan"), float("inf")])
def test_what_is_no_fraction_is_refused(sparsity):
    with pytest.raises(AsrCompressError, match=r"^sparsity .*: use the fraction of weights to drop, such as 0\.5"):
        prune(torch.ones(2, 8), sparsity, sparsifier="magnitude")
