"""Ways to choose which weights an N:M pattern keeps: name -> module, loaded when asked for.

A sparsifier is a module with NEEDS_STATISTICS and a function `sparsify(rows, pattern, *, name, statistics) -> Pruned`.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.grids import as_rows
from asrcompress.patterns import Pattern, require_whole_groups
from asrcompress.quantizers.statistics import InputStatistics
from asrcompress.quantizers.support import Pruned

SPARSIFIERS = {
    "magnitude": "asrcompress.sparsifiers.magnitude",
    "wanda": "asrcompress.sparsifiers.wanda",
    "sparsegpt": "asrcompress.sparsifiers.sparsegpt",
}


def prune(
    weight: Tensor,
    pattern: Pattern,
    *,
    sparsifier: str,
    name: str = "weight",
    statistics: InputStatistics | None = None,
) -> Pruned:
    """Prune a weight of shape (out, ...), seen as (rows, columns): keep_n of every group_m columns stay, in every row.

    Raises:
        AsrCompressError: NaN or infinity, fewer than 2 dimensions, columns that do not divide into groups, no such
            sparsifier, or no statistics where it needs them.
    """
    rows = as_rows(weight, name)
    require_whole_groups(rows.shape[1], pattern, name)
    pruned: Pruned = _module(sparsifier).sparsify(rows, pattern, name=name, statistics=statistics)
    return pruned


def needs_statistics(sparsifier: str) -> bool:
    """Whether `sparsifier` needs the statistics of the weight's inputs, from calibration data."""
    return bool(_module(sparsifier).NEEDS_STATISTICS)


def _module(sparsifier: str) -> ModuleType:
    if sparsifier not in SPARSIFIERS:
        raise AsrCompressError(f"sparsifier '{sparsifier}' is not known; use one of {', '.join(sorted(SPARSIFIERS))}")
    return import_module(SPARSIFIERS[sparsifier])
