"""SparseGPT: columns go one after the other, and kept weights make up for dropped ones.

Frantar and Alistarh 2023, arXiv 2301.00774. The objective is the layer's output error. Every group of a pattern chooses when
its turn comes; a fraction of zeros is taken of all rows of a block of columns together, when the block's turn comes. With a
quantizer that goes column by column, too (gptq), a pattern's choice is made in its pass: see `Pruned.by_column`.
"""

from __future__ import annotations

from torch import Tensor

from asrcompress.patterns import UNSTRUCTURED
from asrcompress.quantizers import sweep
from asrcompress.quantizers.statistics import InputStatistics, require_statistics
from asrcompress.quantizers.support import Pruned
from asrcompress.sparsifiers import wanda
from asrcompress.sparsifiers.ranking import Choice, keep_ranked, kept_of

NEEDS_STATISTICS = True
BLOCK = sweep.BLOCK  # columns that choose together, as in the paper


def sparsify(
    rows: Tensor, choice: Choice, *, name: str = "weight", statistics: InputStatistics | None = None
) -> Pruned:
    """Prune (rows, columns) for a small error of the output on the calibration inputs.

    Where the statistics are diagonal (above 4096 columns), no column can make up for another, and the result is wanda's.

    Raises:
        AsrCompressError: no statistics, or such as say nothing.
    """
    statistics = require_statistics(statistics, *rows.shape, method="sparsegpt", name=name, option="sparsifier")
    if statistics.is_diagonal:
        return wanda.sparsify(rows, choice, name=name, statistics=statistics)
    moment = statistics.second_moment
    if isinstance(choice, tuple):
        pruned, mask = sweep.prune(rows, moment, pattern=choice, name=name)
        return Pruned(pruned, mask, choice, by_column=True)
    pruned, mask = sweep.prune(rows, moment, choose_block=_by_blocks(rows, len(moment), choice), name=name)
    return Pruned(pruned, mask, UNSTRUCTURED)


def _by_blocks(rows: Tensor, groups: int, sparsity: float) -> sweep.ChooseBlock:
    """What a block keeps: its share of the fraction, counted over all rows that have the same inputs."""
    columns, height = rows.shape[1], len(rows) // groups
    begins = range(0, columns, BLOCK)
    sizes = [height * min(BLOCK, columns - begin) for _ in range(groups) for begin in begins]
    kept = kept_of(sparsity, sizes)

    def choose(column: int, left: Tensor, pivots: Tensor) -> Tensor:
        counts = kept[column // BLOCK :: len(begins)]
        score = (left.abs() / pivots).reshape(groups, -1)
        return keep_ranked(score, counts).reshape(left.shape)

    return choose
