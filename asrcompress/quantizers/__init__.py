"""Ways to find codes and scales for a weight: name -> module, loaded when asked for.

A quantizer is a function `quantize(weight, *, num_bits, granularity, name) -> QuantizedWeight`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from asrcompress.errors import AsrCompressError

QUANTIZERS = {"rtn": "asrcompress.quantizers.rtn"}


def get_quantizer(method: str) -> Callable:
    """The quantizer called `method`. Raises AsrCompressError with the known names."""
    if method not in QUANTIZERS:
        raise AsrCompressError(f"method '{method}' is not known; use one of {', '.join(sorted(QUANTIZERS))}")
    return import_module(QUANTIZERS[method]).quantize
