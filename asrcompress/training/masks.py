"""Masks that are chosen anew while a model is trained, and how much they change.

A weight counts as much as the weight's magnitude times, where it is known, the size of its input (Wanda, arXiv 2306.11695).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from asrcompress.patterns import Pattern, keep_largest


@dataclass(frozen=True)
class Chooser:
    """How the mask of a weight is chosen.

    pattern: (keep_n, group_m); None for the `num_kept` that count most of the whole weight.
    num_kept: of the weight, where there is no pattern.
    size: (columns,) or (groups, columns), of inputs; None where all count the same.
    """

    pattern: Pattern | None
    num_kept: int
    size: Tensor | None = None

    def choose(self, weight: Tensor) -> Tensor:
        """weight (rows, ...) -> mask (rows, columns), exact in every group; of equals the first is kept."""
        score = weight.detach().reshape(weight.shape[0], -1).abs()
        if self.size is not None:
            size = self.size.to(score.device)
            if size.dim() == 2:  # a grouped convolution's rows see the inputs of their group
                size = size.repeat_interleave(len(score) // len(size), dim=0)
            score = score * size
        if self.pattern is not None:
            return keep_largest(score, *self.pattern)
        order = score.flatten().argsort(descending=True, stable=True)
        mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
        mask[order[: self.num_kept]] = True
        return mask.reshape(score.shape)


def divergence(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """The share of mask bits that differ (sparse architecture divergence, Zhou et al. 2021, arXiv 2102.04010)."""
    changed = sum(int((before[name] != mask).sum()) for name, mask in after.items())
    return changed / max(sum(mask.numel() for mask in after.values()), 1)
