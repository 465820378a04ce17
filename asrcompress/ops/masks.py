"""The zeros that weights of an artifact have by a mask: what the next step keeps where nothing else is said."""

from __future__ import annotations

from torch import Tensor

from asrcompress.artifact import ArtifactContent
from asrcompress.grids import as_rows, nonzero_codes
from asrcompress.group_codes import pack_groups
from asrcompress.patterns import UNSTRUCTURED, Pattern, Unstructured
from asrcompress.quantizers.support import Pruned

Kept = tuple[Tensor, Pattern | Unstructured]  # (rows, columns) bool, True where kept, and its pattern


def kept_of(content: ArtifactContent | None, name: str) -> Kept | None:
    """What an artifact's weight keeps; None where it is dense, or there is no artifact.

    A group of codes that has fewer than its pattern keeps has its first zeros besides, as they are stored.
    """
    if content is None:
        return None
    if name in content.sparse:
        sparse = content.sparse[name]
        return sparse.mask, sparse.pattern or UNSTRUCTURED
    weight = content.quantized.get(name)
    if weight is None or weight.pattern is None:
        return None
    mask = nonzero_codes(weight.codes, weight.zero_point)
    return (mask if weight.pattern == UNSTRUCTURED else pack_groups(mask, weight.pattern)[0]), weight.pattern


def pruned_by(kept: Kept, weight: Tensor, name: str) -> Pruned:
    """A weight of shape (out, ...) with what is not kept as 0."""
    mask, pattern = kept
    return Pruned(as_rows(weight, name), mask, pattern)
