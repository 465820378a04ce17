"""What quantizers share: refusing bits that a method has no grid for, and what a pattern leaves of a weight."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.gather import zero_where_dropped
from asrcompress.grids import as_rows
from asrcompress.patterns import Pattern, Unstructured


@dataclass(frozen=True)
class Pruned:
    """What a sparsifier leaves of a weight.

    whole: (rows, columns) float32; what is dropped counts as 0, whatever stands there.
    mask: (rows, columns) bool, True where kept: exactly keep_n of every group_m columns where there is a pattern.
    pattern: (keep_n, group_m), or UNSTRUCTURED.
    by_column: kept weights make up for dropped ones, and every group chose when its turn came. A method that also goes
        column by column then chooses again as it goes, so that errors of pruning and rounding are made up for together.
    """

    whole: Tensor
    mask: Tensor
    pattern: Pattern | Unstructured
    by_column: bool = False

    @cached_property
    def rows(self) -> Tensor:
        """(rows, columns) float32, 0 where dropped."""
        return zero_where_dropped(self.whole, self.mask)


def remaining(weight: Tensor, pruned: Pruned | None, name: str) -> tuple[Tensor, Pattern | Unstructured | None]:
    """The (rows, columns) to find codes for, and their pattern: the weight's own, or what a sparsifier leaves of it.

    A dropped weight is 0. Every grid but that of 1 bit has a code for it, so it has no say in the scale.

    Raises:
        AsrCompressError: as `grids.as_rows`.
    """
    return (as_rows(weight, name), None) if pruned is None else (pruned.rows, pruned.pattern)


def require_bits(method: str, num_bits: int, supported: tuple[int, ...], name: str) -> None:
    """Raise, with the way out, when `method` has no grid of `num_bits`."""
    if num_bits in supported:
        return
    if num_bits == 1:
        raise AsrCompressError(f"{name}: --method {method} needs 2 bits or more; use --method binary for 1 bit")
    raise AsrCompressError(
        f"{name}: --method {method} has {' or '.join(map(str, supported))} bits, not {num_bits}; use another --method or --bits"
    )
