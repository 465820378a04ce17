"""Keep the weights that add most to the output: magnitude times the size of the input. Sun et al. 2023, arXiv 2306.11695.

Changes no weight that it keeps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asrcompress.patterns import Pattern, keep_largest
from asrcompress.quantizers.statistics import InputStatistics, require_statistics
from asrcompress.quantizers.support import Pruned

NEEDS_STATISTICS = True


def sparsify(
    rows: Tensor, pattern: Pattern, *, name: str = "weight", statistics: InputStatistics | None = None
) -> Pruned:
    """Prune (rows, columns) by |w| x the square root of the input's second moment; of equals, the first is kept.

    Where all inputs of a group are always 0, the choice is that of magnitude.

    Raises:
        AsrCompressError: no statistics, or such as say nothing.
    """
    statistics = require_statistics(statistics, *rows.shape, method="wanda", name=name, option="sparsifier")
    second = statistics.second_moment
    diagonal = second if statistics.is_diagonal else second.diagonal(dim1=1, dim2=2)
    size = diagonal.clamp_min(0).sqrt().unsqueeze(1).unflatten(-1, (-1, pattern[1]))
    size = torch.where(size.amax(dim=-1, keepdim=True) > 0, size, 1.0).flatten(-2)
    score = rows.abs().reshape(len(size), -1, rows.shape[1]) * size
    mask = keep_largest(score, *pattern).reshape(rows.shape)
    return Pruned(torch.where(mask, rows, 0.0), mask, pattern)
