"""SparseGPT: groups choose one after the other, and kept weights make up for dropped ones.

Frantar and Alistarh 2023, arXiv 2301.00774. The objective is the layer's output error. With a quantizer that goes column by
column, too (gptq), the choice is made in its pass: see `Pruned.by_column`.
"""

from __future__ import annotations

from torch import Tensor

from asrcompress.patterns import Pattern
from asrcompress.quantizers import sweep
from asrcompress.quantizers.statistics import InputStatistics, require_statistics
from asrcompress.quantizers.support import Pruned
from asrcompress.sparsifiers import wanda

NEEDS_STATISTICS = True


def sparsify(
    rows: Tensor, pattern: Pattern, *, name: str = "weight", statistics: InputStatistics | None = None
) -> Pruned:
    """Prune (rows, columns) for a small error of the output on the calibration inputs.

    Where the statistics are diagonal (above 4096 columns), no column can make up for another, and the result is wanda's.

    Raises:
        AsrCompressError: no statistics, or such as say nothing.
    """
    statistics = require_statistics(statistics, *rows.shape, method="sparsegpt", name=name, option="sparsifier")
    if statistics.is_diagonal:
        return wanda.sparsify(rows, pattern, name=name, statistics=statistics)
    pruned, mask = sweep.prune(rows, statistics.second_moment, pattern=pattern, name=name)
    return Pruned(pruned, mask, pattern, by_column=True)
