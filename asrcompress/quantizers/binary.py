"""One bit: the sign of each weight times a scale.

The scale is the mean magnitude of the weights that share it, which is the least-squares optimum for
signs (Rastegari et al. 2016, XNOR-Net, arXiv 1603.05279, section 3.1). Looks at no data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity, QuantizedWeight, by_scale, narrow_scale
from asrcompress.quantizers.statistics import InputStatistics
from asrcompress.quantizers.support import Pruned, remaining

SUPPORTED_BITS = (1,)
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
    """Quantize a weight of shape (out, ...) to codes -1 and 1; 0 counts as positive. What a pattern drops has the code 0.

    Weights that share a scale and are all 0 have scale 0: there is no code for them.

    Raises:
        AsrCompressError: NaN or infinity, fewer than 2 dimensions, groups that do not divide, or more than 1 bit.
    """
    if num_bits != 1:
        raise AsrCompressError(f"{name}: --method binary has 1 bit, not {num_bits}; use --bits 1 or another --method")
    rows, pattern = remaining(weight, pruned, name)
    kept = torch.ones_like(rows) if pruned is None else pruned.mask.float()
    count = by_scale(kept, granularity, name).sum(dim=-1)
    mean = by_scale(rows, granularity, name).abs().sum(dim=-1) / count.clamp_min(1)
    scale = narrow_scale(mean)
    scale = torch.where(mean > 0, scale, torch.zeros_like(scale))
    codes = torch.where(rows < 0, -kept, kept).to(torch.int8)
    return QuantizedWeight(codes, scale, 1, granularity, tuple(weight.shape), pattern=pattern)
