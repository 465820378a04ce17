"""Round-to-nearest weight quantization.

Symmetric; the scale maps the largest magnitude to the largest code. Looks at no data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asrcompress.grids import (
    Granularity,
    QuantizedWeight,
    as_rows,
    encode,
    max_abs,
    narrow_scale,
    not_finite,
    quant_max,
)
from asrcompress.quantizers.statistics import InputStatistics
from asrcompress.quantizers.support import Pruned, require_bits

SUPPORTED_BITS = (8, 4, 3, 2)
NEEDS_STATISTICS = False


def quantize(
    weight: Tensor,
    *,
    num_bits: int,
    granularity: Granularity,
    name: str = "weight",
    statistics: InputStatistics | None = None,
    pruned: Pruned | None = None,
) -> QuantizedWeight:
    """Quantize a weight of shape (out, ...) to `num_bits`, every code within half a step.

    Raises:
        AsrCompressError: NaN or infinity, fewer than 2 dimensions, groups that do not divide, or 1 bit.
    """
    require_bits("rtn", num_bits, SUPPORTED_BITS, name)
    if pruned is None:
        rows, mask, pattern = as_rows(weight, name, is_checked=True), None, None
    else:
        rows, mask, pattern = pruned.whole, pruned.mask, pruned.pattern
    largest = max_abs(rows, granularity, name, mask)
    if not torch.isfinite(largest).all():
        raise not_finite(name)
    scale = narrow_scale(largest / quant_max(num_bits))
    codes = encode(rows, scale, num_bits, mask=mask)
    return QuantizedWeight(codes, scale, num_bits, granularity, tuple(weight.shape), pattern=pattern)
