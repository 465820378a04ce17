"""Round-to-nearest weight quantization.

Symmetric; the scale maps the largest magnitude to the largest code. Looks at no data.
"""

from __future__ import annotations

from torch import Tensor

from asrcompress.grids import Granularity, QuantizedWeight, as_rows, encode, max_abs, narrow_scale, quant_max


def quantize(weight: Tensor, *, num_bits: int, granularity: Granularity, name: str = "weight") -> QuantizedWeight:
    """Quantize a weight of shape (out, ...) to `num_bits`, every code within half a step.

    Raises:
        AsrCompressError: NaN or infinity, fewer than 2 dimensions, or groups that do not divide.
    """
    rows = as_rows(weight, name)
    scale = narrow_scale(max_abs(rows, granularity, name) / quant_max(num_bits))
    return QuantizedWeight(encode(rows, scale, num_bits), scale, num_bits, granularity, tuple(weight.shape))
