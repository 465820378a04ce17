"""Batches: everyone once an epoch, whatever the number of ranks; repeatable; no piece larger than it may be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.training.batches import POOL, epoch_batches, pieces, share

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
