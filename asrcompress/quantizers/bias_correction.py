"""Bias correction: the mean of what rounding a weight adds to its output, for the bias to take up.

Nagel et al. 2019, arXiv 1906.04721, section 4.2, with E[x] from calibration data instead of
batch normalization's statistics. Changes no code and no scale.
"""

from __future__ import annotations

from torch import Tensor

from asrcompress.grids import QuantizedWeight, as_rows, dequantize
from asrcompress.quantizers.statistics import InputStatistics


def bias_shift(weight: Tensor, quantized: QuantizedWeight, statistics: InputStatistics) -> Tensor:
    """(W - W~) E[x]: what to add to the float bias so that the output's mean over the calibration inputs stays.

    Args:
        weight: (out, ...), the float weight.
        quantized: what stands for it, W~.
        statistics: of its inputs; only their mean is used.

    Returns:
        (rows,) float32.
    """
    rows = as_rows(weight)
    difference = rows.double() - dequantize(quantized.codes, quantized.scale, quantized.zero_point).double()
    grouped = difference.reshape(statistics.total.shape[0], -1, rows.shape[1])
    return (grouped @ statistics.mean.unsqueeze(-1)).reshape(-1).float()
