"""Keep the weights that add most to the output: magnitude times the size of the input. Sun et al. 2023, arXiv 2306.11695.

Changes no weight that it keeps. A fraction of zeros is taken of every output row by itself, as in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asrcompress.patterns import keep_largest
from asrcompress.quantizers.statistics import InputStatistics, require_statistics
from asrcompress.quantizers.support import Pruned
from asrcompress.sparsifiers.ranking import Choice, keep_ranked, kept_of, only

NEEDS_STATISTICS = True


def sparsify(
    rows: Tensor, choice: Choice, *, name: str = "weight", statistics: InputStatistics | None = None
) -> Pruned:
    """Prune (rows, columns) by |w| x the square root of the input's second moment; of equals, the first is kept.

    Where all inputs of a group are always 0 (without a pattern: all inputs of a row), the choice is that of magnitude.
    Without a pattern rows keep equally many, but for one more in some where the fraction does not come out even.

    Raises:
        AsrCompressError: no statistics, or such as say nothing.
    """
    statistics = require_statistics(statistics, *rows.shape, method="wanda", name=name, option="sparsifier")
    second = statistics.second_moment
    diagonal = second if statistics.is_diagonal else second.diagonal(dim1=1, dim2=2)
    together = choice[1] if isinstance(choice, tuple) else rows.shape[1]
    size = diagonal.clamp_min(0).sqrt().unsqueeze(1).unflatten(-1, (-1, together))
    size = torch.where(size.amax(dim=-1, keepdim=True) > 0, size, 1.0).flatten(-2)
    score = (rows.abs().reshape(len(size), -1, rows.shape[1]) * size).reshape(rows.shape)
    if isinstance(choice, tuple):
        mask = keep_largest(score, *choice)
    else:
        mask = keep_ranked(score, kept_of(choice, [rows.shape[1]] * len(rows)))
    return only(rows, mask, choice)
