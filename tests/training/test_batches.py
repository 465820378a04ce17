"""Batches: everyone once an epoch, or by weight, whatever the number of ranks; repeatable; no piece larger than it may be."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.training.batches import POOL, epoch_batches, pieces, share, share_weights

lengths_lists = st.lists(st.integers(0, 3000), max_size=200)


@given(lengths_lists, st.integers(1, 40), st.integers(0, 3), st.integers(0, 5))
def test_everyone_who_has_a_frame_is_in_one_batch_of_an_epoch(lengths, batch_size, seed, epoch):
    batches = epoch_batches(lengths, batch_size, seed=seed, epoch=epoch)
    assert sorted(position for batch in batches for position in batch) == [p for p, n in enumerate(lengths) if n]
    sizes = sorted(len(batch) for batch in batches)
    assert all(size == batch_size for size in sizes[1:])  # the smallest is what is left over
    assert len(batches) == -(-sum(1 for n in lengths if n) // batch_size)


@given(lengths_lists, st.integers(1, 40))
def test_the_same_seed_and_epoch_give_the_same_batches(lengths, batch_size):
    one = epoch_batches(lengths, batch_size, seed=1, epoch=2)
    assert one == epoch_batches(list(lengths), batch_size, seed=1, epoch=2)


def test_every_epoch_and_seed_has_an_order_of_its_own():
    lengths = [100 + position for position in range(60)]
    orders = [epoch_batches(lengths, 4, seed=seed, epoch=epoch) for seed in (1, 11) for epoch in (0, 1, 11)]
    assert all(one != other for place, one in enumerate(orders) for other in orders[place + 1 :])


def test_utterances_of_like_lengths_are_together_and_batches_are_not_in_order_of_length():
    lengths = [(37 * position) % 1000 + 1 for position in range(8 * POOL)]
    batches = epoch_batches(lengths, 8, seed=1, epoch=0)
    spreads = [max(lengths[p] for p in batch) - min(lengths[p] for p in batch) for batch in batches]
    assert max(spreads) < 200
    first = [lengths[batch[0]] for batch in batches]
    assert first != sorted(first)
    assert first != sorted(first, reverse=True)


def drawn(weights: list[float], batch_size: int = 8, **options) -> Counter:
    batches = epoch_batches([100] * len(weights), batch_size, weights=weights, **{"seed": 1, "epoch": 0} | options)
    return Counter(position for batch in batches for position in batch)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=150).filter(any), st.integers(0, 3), st.integers(0, 5))
def test_each_is_drawn_as_often_as_its_weight_says_rounded_up_or_down(weights, seed, epoch):
    counts = drawn(weights, seed=seed, epoch=epoch)
    assert counts.total() == len(weights)
    for position, weight in enumerate(weights):
        due = len(weights) * weight / sum(weights)
        assert math.floor(due - 1e-9) <= counts[position] <= math.ceil(due + 1e-9)
    for kind in set(weights):  # and all of one weight together, too
        due = len(weights) * kind * weights.count(kind) / sum(weights)
        count = sum(counts[position] for position, weight in enumerate(weights) if weight == kind)
        assert math.floor(due - 1e-9) <= count <= math.ceil(due + 1e-9)


@given(lengths_lists, st.integers(1, 40), st.integers(0, 5))
def test_with_equal_weights_everyone_comes_once_in_as_many_batches(lengths, batch_size, epoch):
    options = {"seed": 1, "epoch": epoch}
    batches = epoch_batches(lengths, batch_size, weights=[0.3] * len(lengths), **options)
    assert sorted(position for batch in batches for position in batch) == [p for p, n in enumerate(lengths) if n]
    assert len(batches) == len(epoch_batches(lengths, batch_size, **options))


def test_rounding_up_or_down_is_by_chance_so_that_over_epochs_all_of_one_weight_are_drawn_alike():
    weights = [1.0] * 40 + [2.5] * 20
    total = sum((drawn(weights, epoch=epoch) for epoch in range(200)), Counter())
    for position, weight in enumerate(weights):
        assert total[position] == pytest.approx(200 * 60 * weight / sum(weights), abs=35)  # 5 deviations at most


def test_those_who_are_rounded_up_together_are_others_in_every_epoch():
    counts = [drawn([1.0] * 20 + [2.0] * 10, epoch=epoch) for epoch in range(30)]
    assert len({tuple(count[position] for position in range(30)) for count in counts}) > 25


def test_who_is_drawn_several_times_is_never_twice_in_a_batch_where_there_is_room():
    weights = [1.0] * 300 + [5.0] * 20
    batches = epoch_batches([100] * 320, 8, seed=1, epoch=0, weights=weights)
    assert max(drawn(weights).values()) > 3
    assert all(len(set(batch)) == len(batch) for batch in batches)


def test_draws_are_the_same_again_and_of_another_order_in_another_epoch():
    weights = [1.0, 2.0, 3.0] * 20
    one, again, other = (epoch_batches([7] * 60, 4, seed=1, epoch=epoch, weights=weights) for epoch in (0, 0, 1))
    assert one == again != other


@given(st.lists(st.booleans(), min_size=2, max_size=300), st.floats(0.05, 0.95))
def test_the_chosen_are_the_share_of_the_draws_that_was_asked_for(chosen, part):
    if len(set(chosen)) < 2:
        with pytest.raises(ValueError, match="are chosen"):
            share_weights(chosen, [1] * len(chosen), part)
        return
    counts = drawn(share_weights(chosen, [1] * len(chosen), part))
    assert sum(counts[p] for p, c in enumerate(chosen) if c) == pytest.approx(part * len(chosen), abs=1.001)


def test_who_has_no_frame_does_not_count_for_the_share():
    chosen, lengths = [True] * 10 + [False] * 10, [1] * 5 + [0] * 5 + [1] * 10
    weights = share_weights(chosen, lengths, 0.4)
    batches = epoch_batches(lengths, 4, seed=1, epoch=0, weights=weights)
    positions = [position for batch in batches for position in batch]
    assert len(positions) == 15
    assert sum(chosen[position] for position in positions) == 6
    assert all(lengths[position] for position in positions)


@given(st.lists(st.integers(), unique=True), st.integers(1, 9))
def test_shares_of_the_ranks_partition_a_batch(batch, size):
    shares = [share(batch, rank, size) for rank in range(size)]
    assert sorted(p for one in shares for p in one) == sorted(batch)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@settings(max_examples=200)
@given(st.lists(st.integers(1, 500), max_size=60), st.integers(1, 4000))
def test_pieces_partition_a_batch_and_are_no_larger_than_allowed_unless_of_one(lengths, most_frames):
    batch = list(range(len(lengths)))
    found = pieces(batch, lengths, most_frames)
    assert sorted(p for piece in found for p in piece) == batch
    assert all(found)
    for piece in found:
        assert len(piece) == 1 or len(piece) * max(lengths[p] for p in piece) <= most_frames


def test_a_batch_that_fits_is_one_piece():
    assert pieces([2, 0, 1], [10, 30, 20], 90) == [[0, 2, 1]]
    assert pieces([2, 0, 1], [10, 30, 20], 89) == [[0, 2], [1]]
    assert pieces([], [10], 90) == []


@pytest.mark.parametrize("most_frames", (1, 10))
def test_utterances_that_are_too_long_alone_run_alone(most_frames):
    assert pieces([0, 1, 2], [50, 40, 60], most_frames) == [[1], [0], [2]]
