"""Sparse floats: a weight of which some values are kept, as they are, and the others are 0. Pure tensors.

What is worth keeping is decided in sparsifiers/; sparse weights of few bits are QuantizedWeights with a pattern (grids.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asrcompress.patterns import Pattern


@dataclass(frozen=True)
class SparseWeight:
    """A float weight with a mask.

    values: (rows, columns) float32, float16 or bfloat16; 0 where dropped. A kept value may be 0, too.
    mask: (rows, columns) bool, True where kept; with a pattern exactly keep_n of every group_m neighbours in a row.
    shape: the weight's own shape; rows x columns elements.
    pattern: (keep_n, group_m); None where the kept ones are anywhere (unstructured).
    method: the sparsifier that chose, where that is not simply the one asked for.
    """

    values: Tensor
    mask: Tensor
    shape: tuple[int, ...]
    pattern: Pattern | None = None
    method: str | None = None

    def dequantize(self) -> Tensor:
        """The weight in its own shape, as float32: what a model without sparse modules computes with."""
        return self.values.to(torch.float32).reshape(self.shape)
