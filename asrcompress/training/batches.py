"""Who is in which update: the same for any number of ranks, and repeatable from the seed alone."""

from __future__ import annotations

import random
from collections.abc import Sequence

POOL = 16  # batches that are sorted by length together, so that little is padded


def epoch_batches(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Positions in batches of `batch_size`, of like lengths; another order every epoch. The last may be smaller.

    Args:
        lengths: frames of each utterance; those without a frame are in no batch.
        batch_size: utterances of an update, over all ranks.
        seed: of the order.
        epoch: from 0; each has an order of its own.
    """
    rng = random.Random(f"{seed}/{epoch}")  # noqa: S311 (an order, not a secret)
    order = [position for position, length in enumerate(lengths) if length]
    rng.shuffle(order)
    batches = []
    for start in range(0, len(order), POOL * batch_size):
        pool = sorted(order[start : start + POOL * batch_size], key=lambda position: lengths[position])
        batches += [pool[first : first + batch_size] for first in range(0, len(pool), batch_size)]
    rng.shuffle(batches)
    return batches


def share(batch: Sequence[int], rank: int, size: int) -> list[int]:
    """What falls to a rank."""
    return list(batch[rank::size])


def pieces(batch: Sequence[int], lengths: Sequence[int], most_frames: int) -> list[list[int]]:
    """A batch in pieces that run one after the other, each of `most_frames` with padding, or of one utterance."""
    found: list[list[int]] = []
    longest = 0
    for position in sorted(batch, key=lambda position: lengths[position]):
        longest = max(longest, lengths[position])
        if not found or (len(found[-1]) + 1) * longest > most_frames:
            found.append([])
            longest = lengths[position]
        found[-1].append(position)
    return found
