"""Keep the largest weights of each group. Looks at no data."""

from __future__ import annotations

import torch
from torch import Tensor

from asrcompress.patterns import Pattern, keep_largest
from asrcompress.quantizers.statistics import InputStatistics
from asrcompress.quantizers.support import Pruned

NEEDS_STATISTICS = False


def sparsify(
    rows: Tensor, pattern: Pattern, *, name: str = "weight", statistics: InputStatistics | None = None
) -> Pruned:
    """Prune (rows, columns) by |w|; of equals, the first is kept."""
    mask = keep_largest(rows.abs(), *pattern)
    return Pruned(torch.where(mask, rows, 0.0), mask, pattern)
