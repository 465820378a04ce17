"""Ways to choose which weights are kept: name -> module, loaded when asked for.

What is asked for is a Choice: an N:M pattern, or a fraction of zeros wherever they fall. A sparsifier is a module with
NEEDS_STATISTICS and a function `sparsify(rows, choice, *, name, statistics) -> Pruned`.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.grids import as_rows
from asrcompress.patterns import require_whole_groups
from asrcompress.quantizers.statistics import InputStatistics
from asrcompress.quantizers.support import Pruned
from asrcompress.sparsifiers.ranking import Choice, check_sparsity

SPARSIFIERS = {
    "magnitude": "asrcompress.sparsifiers.magnitude",
    "wanda": "asrcompress.sparsifiers.wanda",
    "sparsegpt": "asrcompress.sparsifiers.sparsegpt",
}


def prune(
    weight: Tensor,
    choice: Choice,
    *,
    sparsifier: str,
    name: str = "weight",
    statistics: InputStatistics | None = None,
) -> Pruned:
    """Prune a weight of shape (out, ...), seen as (rows, columns).

    Args:
        weight: (out, ...).
        choice: (keep_n, group_m): keep_n of every group_m columns stay, in every row. A float: the fraction of the whole
            matrix that is dropped; round(fraction x elements) of them exactly, ties or not, and never all.
        sparsifier: one of SPARSIFIERS.
        name: for messages.
        statistics: of the weight's inputs, where the sparsifier looks at them.

    Raises:
        AsrCompressError: NaN or infinity, fewer than 2 dimensions, columns that do not divide into groups, a fraction that is
            none, no such sparsifier, or no statistics where it needs them.
    """
    rows = as_rows(weight, name)
    if isinstance(choice, tuple):
        require_whole_groups(rows.shape[1], choice, name)
    else:
        check_sparsity(choice)
    pruned: Pruned = _module(sparsifier).sparsify(rows, choice, name=name, statistics=statistics)
    return pruned


def needs_statistics(sparsifier: str) -> bool:
    """Whether `sparsifier` needs the statistics of the weight's inputs, from calibration data."""
    return bool(_module(sparsifier).NEEDS_STATISTICS)


def _module(sparsifier: str) -> ModuleType:
    if sparsifier not in SPARSIFIERS:
        raise AsrCompressError(f"sparsifier '{sparsifier}' is not known; use one of {', '.join(sorted(SPARSIFIERS))}")
    return import_module(SPARSIFIERS[sparsifier])
