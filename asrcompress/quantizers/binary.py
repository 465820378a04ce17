"""One bit: the sign of each weight times a scale.

The scale is the mean magnitude of the weights that share it, which is the least-squares optimum for
signs (Rastegari et al. 2016, XNOR-Net, arXiv 1603.05279, section 3.1). Looks at no data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity, QuantizedWeight, as_rows, by_scale, narrow_scale
from asrcompress.quantizers.statistics import InputStatistics

SUPPORTED_BITS = (1,)
NEEDS_STATISTICS = False


def quantize(
    weight: Tensor,
    *,
    num_bits: int,
    granularity: Granularity,
    name: str = "weight",
    statistics: InputStatistics | None = None,
) -> QuantizedWeight:
    """Quantize a weight of shape (out, ...) to codes -1 and 1; 0 counts as positive.

    Weights that share a scale and are all 0 have scale 0: there is no code for them.

    Raises:
        AsrCompressError: NaN or infinity, fewer than 2 dimensions, groups that do not divide, or more than 1 bit.
    """
    if num_bits != 1:
        raise AsrCompressError(f"{name}: --method binary has 1 bit, not {num_bits}; use --bits 1 or another --method")
    rows = as_rows(weight, name)
    mean = by_scale(rows, granularity, name).abs().mean(dim=-1)
    scale = narrow_scale(mean)
    scale = torch.where(mean > 0, scale, torch.zeros_like(scale))
    codes = torch.where(rows < 0, -1, 1).to(torch.int8)
    return QuantizedWeight(codes, scale, 1, granularity, tuple(weight.shape))
