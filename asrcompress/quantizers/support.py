"""What quantizers share: refusing bits that a method has no grid for."""

from __future__ import annotations

from asrcompress.errors import AsrCompressError


def require_bits(method: str, num_bits: int, supported: tuple[int, ...], name: str) -> None:
    """Raise, with the way out, when `method` has no grid of `num_bits`."""
    if num_bits in supported:
        return
    if num_bits == 1:
        raise AsrCompressError(f"{name}: --method {method} needs 2 bits or more; use --method binary for 1 bit")
    raise AsrCompressError(
        f"{name}: --method {method} has {' or '.join(map(str, supported))} bits, not {num_bits}; use another --method or --bits"
    )
