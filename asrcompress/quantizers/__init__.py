"""Ways to find codes and scales for a weight: name -> module, loaded when asked for.

A quantizer is a module with SUPPORTED_BITS, NEEDS_STATISTICS and a function
`quantize(weight, *, num_bits, granularity, name, statistics) -> QuantizedWeight`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from asrcompress.errors import AsrCompressError

QUANTIZERS = {
    "rtn": "asrcompress.quantizers.rtn",
    "mse": "asrcompress.quantizers.mse",
    "gptq": "asrcompress.quantizers.gptq",
    "asymmetric": "asrcompress.quantizers.asymmetric",
    "gptq_asymmetric": "asrcompress.quantizers.gptq_asymmetric",
    "gptq_ls": "asrcompress.quantizers.gptq_ls",
    "binary": "asrcompress.quantizers.binary",
    "auto": "asrcompress.quantizers.auto",
}


def get_quantizer(method: str) -> Callable:
    """The quantizer called `method`. Raises AsrCompressError with the known names."""
    return _module(method).quantize


def needs_statistics(method: str) -> bool:
    """Whether `method` needs the statistics of the weight's inputs, from calibration data."""
    return bool(_module(method).NEEDS_STATISTICS)


def supported_bits(method: str) -> tuple[int, ...]:
    """The numbers of bits that `method` has a grid for."""
    return tuple(_module(method).SUPPORTED_BITS)


def _module(method: str) -> ModuleType:
    if method not in QUANTIZERS:
        raise AsrCompressError(f"method '{method}' is not known; use one of {', '.join(sorted(QUANTIZERS))}")
    return import_module(QUANTIZERS[method])
