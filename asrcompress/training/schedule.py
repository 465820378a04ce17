"""What changes over a training: the learning rate, and when masks are chosen anew. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

MASK_SCHEDULES = ("one-shot", "few-shot", "every-step")


def learning_rate(update: int, num_updates: int, *, peak: float, warmup: int, floor: float = 0.01) -> float:
    """Linear from 0 over `warmup` updates, then a cosine down to `floor` x `peak` (Loshchilov and Hutter 2017, arXiv 1608.03983).

    Args:
        update: the update's number, from 0.
        num_updates: of the whole training.
        peak: the largest.
        warmup: updates.
        floor: share of `peak` at the end.
    """
    if update < warmup:
        return peak * (update + 1) / warmup
    done = (update - warmup) / max(num_updates - warmup, 1)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


@dataclass(frozen=True)
class MaskSchedule:
    """When masks are chosen anew.

    kind: one-shot, before training; few-shot, every `interval` updates; every-step. until: share of the training after
    which masks stay.
    """

    kind: str = "one-shot"
    interval: int = 50
    until: float = 0.7

    def is_due(self, update: int, num_updates: int) -> bool:
        """Whether masks are chosen anew before this update, from 0."""
        if self.kind == "one-shot" or not 0 < update < self.until * num_updates:
            return False
        return self.kind == "every-step" or update % self.interval == 0

    @property
    def is_dense(self) -> bool:
        """Whether dropped weights are trained, too, since they may come back."""
        return self.kind != "one-shot"
