"""Keep the largest weights of each group, or of the matrix. Looks at no data."""

from __future__ import annotations

from torch import Tensor

from asrcompress.patterns import keep_largest
from asrcompress.quantizers.statistics import InputStatistics
from asrcompress.quantizers.support import Pruned
from asrcompress.sparsifiers.ranking import Choice, keep_ranked, kept_of, only

NEEDS_STATISTICS = False


def sparsify(
    rows: Tensor, choice: Choice, *, name: str = "weight", statistics: InputStatistics | None = None
) -> Pruned:
    """Prune (rows, columns) by |w|; of equals, the first is kept."""
    if isinstance(choice, tuple):
        mask = keep_largest(rows, *choice, of_magnitude=True)
    else:
        kept = kept_of(choice, [rows.numel()])
        mask = keep_ranked(rows.reshape(1, -1), kept, of_magnitude=True).reshape(rows.shape)
    return only(rows, mask, choice)
