"""Who is in which update: the same for any number of ranks, and repeatable from the seed alone.

Everyone once an epoch, or by weight: then some come several times and some not at all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate

POOL = 16  # batches that are sorted by length together, so that little is padded


def epoch_batches(
    lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int, weights: Sequence[float] | None = None
) -> list[list[int]]:
    """Positions in batches of `batch_size`, of like lengths; another order every epoch. The last may be smaller.

    Args:
        lengths: frames of each utterance; those without a frame are in no batch.
        batch_size: utterances of an update, over all ranks.
        seed: of the order.
        epoch: from 0; each has an order of its own.
        weights: how often each is drawn beside the others, not all 0; None: each once. An epoch has as many draws either way.
    """
    rng = random.Random(f"{seed}/{epoch}")  # noqa: S311 (an order, not a secret)
    order = [position for position, length in enumerate(lengths) if length]
    rng.shuffle(order)
    if weights is not None and order:
        order = _draw(order, weights, rng)
    batches = []
    for start in range(0, len(order), POOL * batch_size):
        pool = sorted(order[start : start + POOL * batch_size], key=lambda position: lengths[position])
        batches += [pool[first : first + batch_size] for first in range(0, len(pool), batch_size)]
    rng.shuffle(batches)
    return batches


def share_weights(chosen: Sequence[bool], lengths: Sequence[int], chosen_share: float) -> list[float]:
    """Weights by which the chosen are this share of the draws; alike among them, and among the others.

    Raises:
        ValueError: the share is not between 0 and 1, or of those with a frame all or none are chosen.
    """
    counts = {
        kind: sum(1 for c, length in zip(chosen, lengths, strict=True) if length and c == kind) for kind in (0, 1)
    }
    if not (0 < chosen_share < 1 and all(counts.values())):
        raise ValueError(f"{counts[1]} of {sum(counts.values())} are chosen, to be a share of {chosen_share}")
    return [chosen_share / counts[1] if c else (1 - chosen_share) / counts[0] for c in chosen]


def _draw(order: Sequence[int], weights: Sequence[float], rng: random.Random) -> list[int]:
    """As many draws as there are positions: each is drawn as often as its weight says, rounded up or down by chance.

    Systematic sampling: ticks at equal distances along the weights, end to end. Equal weights lie side by side, so that their
    sums, too, are within a draw of what the weights say. What is drawn several times comes at equal distances in the epoch.
    """
    order = sorted(order, key=lambda position: weights[position])
    ends = list(accumulate(weights[position] for position in order))
    step, first = ends[-1] / len(order), rng.random()
    counts, place = [0] * len(order), 0
    for tick in range(len(order)):
        while place < len(order) - 1 and ends[place] <= (tick + first) * step:
            place += 1
        counts[place] += 1
    times = []
    for position, count in zip(order, counts, strict=True):
        start = rng.random()
        times += [((number + start) / count, position) for number in range(count)]
    return [position for _, position in sorted(times)]


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
