"""GPTQ on asymmetric grids: gptq.py's algorithm with the scales and zero points of asymmetric.py."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from asrcompress.grids import Granularity, QuantizedWeight, as_rows
from asrcompress.quantizers import asymmetric
from asrcompress.quantizers.gptq import improve
from asrcompress.quantizers.statistics import InputStatistics, require_statistics
from asrcompress.quantizers.support import Pruned, require_bits

SUPPORTED_BITS = (8, 4, 3, 2)
NEEDS_STATISTICS = True


def quantize(
    weight: Tensor,
    *,
    num_bits: int,
    granularity: Granularity,
    name: str = "weight",
    statistics: InputStatistics | None = None,
    pruned: Pruned | None = None,
    act_order: bool = False,
) -> QuantizedWeight:
    """Quantize a weight of shape (out, ...) for a small error of its output; never worse there than asymmetric.

    Arguments and errors are those of `gptq.quantize`.
    """
    require_bits("gptq_asymmetric", num_bits, SUPPORTED_BITS, name)
    rows = as_rows(weight, name)
    granularity.num_groups(rows.shape[1], name)
    statistics = require_statistics(statistics, *rows.shape, method="gptq_asymmetric", name=name)
    on_grid = partial(asymmetric.quantize, weight, num_bits=num_bits, granularity=granularity, name=name)
    return improve(rows, [on_grid], statistics, name=name, pruned=pruned, act_order=act_order)
