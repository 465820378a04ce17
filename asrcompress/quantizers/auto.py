"""Per layer, the method with the smallest output error on the calibration inputs."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

from torch import Tensor

from asrcompress.grids import Granularity, QuantizedWeight, as_rows, dequantize
from asrcompress.quantizers.statistics import InputStatistics, output_error, require_statistics
from asrcompress.quantizers.support import Pruned, require_bits

SUPPORTED_BITS = (8, 4, 3, 2, 1)
NEEDS_STATISTICS = True
# Simplest first: of equals, the first is taken. Asymmetric grids cost a zero point per scale, which 8 bits do not need.
CANDIDATES = ("rtn", "mse", "gptq")
LOW_BIT_CANDIDATES = (*CANDIDATES, "asymmetric", "gptq_asymmetric")


def quantize(
    weight: Tensor,
    *,
    num_bits: int,
    granularity: Granularity,
    name: str = "weight",
    statistics: InputStatistics | None = None,
    pruned: Pruned | None = None,
) -> QuantizedWeight:
    """Quantize a weight of shape (out, ...) by each method and keep the best; its name is the result's `method`.

    At 1 bit there is only binary.

    Raises:
        AsrCompressError: no statistics, NaN or infinity, fewer than 2 dimensions, or groups that do not divide.
    """
    require_bits("auto", num_bits, SUPPORTED_BITS, name)
    rows = as_rows(weight, name)
    granularity.num_groups(rows.shape[1], name)
    statistics = require_statistics(statistics, *rows.shape, method="auto", name=name)
    found: list[tuple[float, int, QuantizedWeight]] = []
    for method in candidates(num_bits):
        module = import_module(f"asrcompress.quantizers.{method}")
        packed = module.quantize(
            weight, num_bits=num_bits, granularity=granularity, name=name, statistics=statistics, pruned=pruned
        )
        packed = replace(packed, method=packed.method or method)
        error = output_error(rows, dequantize(packed.codes, packed.scale, packed.zero_point), statistics)
        found.append((error, len(found), packed))
    return min(found)[-1]


def candidates(num_bits: int) -> tuple[str, ...]:
    """The methods that are tried at `num_bits`."""
    if num_bits == 1:
        return ("binary",)
    return LOW_BIT_CANDIDATES if num_bits <= 4 else CANDIDATES
