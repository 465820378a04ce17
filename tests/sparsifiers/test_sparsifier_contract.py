"""What every sparsifier in the table promises, whatever its method."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.patterns import LARGEST_GROUP, keep_largest
from asrcompress.quantizers.statistics import MAX_COLUMNS, InputStatistics
from asrcompress.sparsifiers import SPARSIFIERS, needs_statistics, prune

every_sparsifier = pytest.mark.parametrize("sparsifier", sorted(SPARSIFIERS))


def make_statistics(columns, groups=1, seed=0):
    """Correlated inputs of very different sizes, as activations are."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) * torch.randn(columns, generator=generator).exp()
    statistics = InputStatistics.empty(groups, columns)
    statistics.add(torch.randn(4 * columns, groups, columns, generator=generator) @ mix + 0.3)
    return statistics


@st.composite
def weights_and_patterns(draw):
    """A weight of few different values, so that ties are the rule, and a pattern that divides its columns."""
    group_m = draw(st.integers(2, LARGEST_GROUP))
    rows, groups = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    values = draw(st.sampled_from([(0.0,), (1.0,), (-1.0, 1.0), (0.0, 0.5, -0.5), tuple(i / 7 for i in range(-7, 8))]))
    flat = draw(st.lists(st.sampled_from(values), min_size=rows * groups * group_m, max_size=rows * groups * group_m))
    return torch.tensor(flat).reshape(rows, -1), (draw(st.integers(1, group_m - 1)), group_m)


@every_sparsifier
@settings(max_examples=60, derandomize=True, deadline=None)
@given(weights_and_patterns())
def test_every_group_keeps_exactly_n_even_under_ties(sparsifier, drawn):
    weight, (keep_n, group_m) = drawn
    before = weight.clone()
    statistics = make_statistics(weight.shape[1])
    pruned = prune(weight, (keep_n, group_m), sparsifier=sparsifier, statistics=statistics)
    assert pruned.mask.dtype == torch.bool
    assert (pruned.mask.reshape(-1, group_m).sum(dim=1) == keep_n).all()
    assert pruned.pattern == (keep_n, group_m)
    assert not pruned.rows[~pruned.mask].any()
    assert torch.isfinite(pruned.rows).all()
    assert torch.equal(weight, before)
    again = prune(weight, (keep_n, group_m), sparsifier=sparsifier, statistics=statistics)
    assert torch.equal(again.mask, pruned.mask)
    assert torch.equal(again.rows, pruned.rows)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(weights_and_patterns())
def test_rank_decides_and_of_equals_the_first_stays(drawn):
    score, (keep_n, group_m) = drawn
    expected = torch.zeros_like(score, dtype=torch.bool)
    for row in range(score.shape[0]):
        for begin in range(0, score.shape[1], group_m):
            places = sorted(range(begin, begin + group_m), key=lambda place: (-float(score[row, place]), place))
            expected[row, places[:keep_n]] = True
    assert torch.equal(keep_largest(score, keep_n, group_m), expected)


@every_sparsifier
def test_with_nothing_to_choose_by_the_first_places_stay(sparsifier):
    pruned = prune(torch.zeros(3, 8), (2, 4), sparsifier=sparsifier, statistics=InputStatistics.unknown(8))
    assert pruned.mask.tolist() == [[True, True, False, False] * 2] * 3


@every_sparsifier
def test_a_negated_weight_is_pruned_alike_and_a_convolution_is_seen_as_rows(sparsifier):
    weight, statistics = torch.randn(4, 12, generator=torch.Generator().manual_seed(0)), make_statistics(12)
    plus, minus, conv = (
        prune(each, (1, 4), sparsifier=sparsifier, statistics=statistics)
        for each in (weight, -weight, weight.reshape(4, 2, 2, 3))
    )
    assert torch.equal(plus.mask, minus.mask)
    assert torch.equal(plus.rows, -minus.rows)
    assert torch.equal(plus.rows, conv.rows)


@pytest.mark.parametrize("sparsifier", ["magnitude", "wanda"])
def test_what_is_kept_is_kept_as_it_is(sparsifier):
    weight = torch.randn(4, 12, generator=torch.Generator().manual_seed(1))
    pruned = prune(weight, (2, 4), sparsifier=sparsifier, statistics=make_statistics(12))
    assert torch.equal(pruned.rows[pruned.mask], weight[pruned.mask])
    assert not pruned.by_column


@every_sparsifier
@pytest.mark.parametrize(
    ("columns", "pattern", "message"),
    [
        (9, (2, 4), r"9 inputs do not divide into groups of 4 for 2:4; use a pattern .* such as 2:9, .*'none', or --exclude"),
        (31, (1, 4), r"31 inputs do not divide into groups of 4 for 1:4; use a rule for it with pattern = 'none', or --exc"),
        (12, (4, 8), r"12 inputs do not divide into groups of 8 for 4:8; use a pattern .* such as 4:12, "),
    ],
)  # fmt: skip
def test_columns_that_do_not_divide_name_the_layer_and_the_ways_out(sparsifier, columns, pattern, message):
    with pytest.raises(AsrCompressError, match=rf"^conv\.weight: {message}"):
        prune(torch.ones(2, columns), pattern, sparsifier=sparsifier, name="conv.weight")


@every_sparsifier
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_by_name(sparsifier, value):
    weight = torch.ones(3, 8)
    weight[1, 2] = value
    with pytest.raises(AsrCompressError, match=r"fc\.weight: holds NaN or infinity"):
        prune(weight, (2, 4), sparsifier=sparsifier, name="fc.weight", statistics=make_statistics(8))
    with pytest.raises(AsrCompressError, match="--exclude 'bias'"):
        prune(torch.ones(8), (2, 4), sparsifier=sparsifier, name="bias")


@every_sparsifier
def test_a_method_that_needs_inputs_says_how_to_get_them(sparsifier):
    if not needs_statistics(sparsifier):
        prune(torch.ones(2, 8), (2, 4), sparsifier=sparsifier)
        return
    with pytest.raises(AsrCompressError, match=rf"^w: --sparsifier {sparsifier} needs .*--calibrate DATA"):
        prune(torch.ones(2, 8), (2, 4), sparsifier=sparsifier, name="w")
    with pytest.raises(AsrCompressError, match=r"^w: no calibration input reached it; .* --sparsifier magnitude"):
        prune(torch.ones(2, 8), (2, 4), sparsifier=sparsifier, name="w", statistics=InputStatistics.empty(1, 8))


def test_an_unknown_sparsifier_is_refused_with_the_known_ones():
    with pytest.raises(
        AsrCompressError, match=r"sparsifier 'magic' is not known; use one of magnitude, sparsegpt, wanda"
    ):
        prune(torch.ones(2, 8), (2, 4), sparsifier="magic")


@every_sparsifier
@pytest.mark.parametrize("value", [0.0, 1e-20])
def test_dead_inputs_do_no_harm(sparsifier, value):
    """Where all inputs are 0, the largest weights stay."""
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(2))
    statistics = InputStatistics.empty(1, 8)
    statistics.add(torch.full((4, 8), value))
    pruned = prune(weight, (2, 4), sparsifier=sparsifier, statistics=statistics)
    assert torch.isfinite(pruned.rows).all()
    if value == 0 or sparsifier == "wanda":
        assert torch.equal(pruned.mask, prune(weight, (2, 4), sparsifier="magnitude").mask)


@every_sparsifier
def test_the_groups_of_a_convolution_are_pruned_one_by_one(sparsifier):
    weight = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(3))
    statistics = make_statistics(12, groups=2)
    whole = prune(weight, (2, 4), sparsifier=sparsifier, statistics=statistics)
    parts = [
        prune(
            weight[3 * g : 3 * g + 3],
            (2, 4),
            sparsifier=sparsifier,
            statistics=InputStatistics(
                statistics.second_moment[g : g + 1], statistics.total[g : g + 1], statistics.count
            ),
        )
        for g in range(2)
    ]
    assert torch.equal(whole.mask, torch.cat([part.mask for part in parts]))
    assert torch.allclose(whole.rows, torch.cat([part.rows for part in parts]), atol=1e-6)


def test_wide_weights_have_no_columns_that_make_up_for_others():
    columns = MAX_COLUMNS + 8
    weight, statistics = torch.randn(2, columns), InputStatistics.empty(1, columns)
    statistics.add(torch.randn(5, columns))
    found, wanda = (prune(weight, (2, 4), sparsifier=s, statistics=statistics) for s in ("sparsegpt", "wanda"))
    assert torch.equal(found.rows, wanda.rows)
    assert not found.by_column
