"""Integer versions of Linear and of lookups: Embedding and learned positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.integers.grid import Grid
from asrcompress.integers.products import FixedWeight
from asrcompress.integers.rescale import fixed_points, shift_right, to_codes
from asrcompress.integers.sites import Sites
from asrcompress.integers.tensor import from_float, grid_tensor
from asrcompress.modules.weight import FloatWeight, GridOf, IntegerWeight, apply_weight, as_bias, check_activations


class IntegerLinear(nn.Module):
    """y = x W^T + b with packed W (out, in); see modules/weight.py for `activations`."""

    fixed: FixedWeight | None = None

    def __init__(self, weight: FloatWeight, bias: Tensor | None, *, activations: str = "none") -> None:
        super().__init__()
        self.packed = weight
        self.bias = as_bias(bias)
        self.activations = check_activations(activations)
        self.out_features, self.in_features = weight.shape

    def fix(self, grid_of: GridOf) -> None:
        """Make the constants of the static grids."""
        if isinstance(self.packed, IntegerWeight):
            self.fixed = self.packed.constants(self.bias, grid_of("in"), grid_of("out"))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        return apply_weight(self.packed, x, self.bias, self.activations, self.fixed)


class IntegerEmbedding(nn.Module):
    """A table of packed rows: a lookup and one scale; it multiplies no matrices."""

    sites: Sites | None = None
    fixed: tuple[Tensor, int, Grid] | None = None

    def __init__(self, weight: FloatWeight, *, padding_idx: int | None) -> None:
        super().__init__()
        self.packed = weight
        self.num_embeddings, self.embedding_dim = weight.shape
        self.padding_idx = padding_idx

    def fix(self, grid_of: GridOf) -> None:
        """Make the constants of the static grid: multipliers (rows or 1, groups), one shift."""
        grid = grid_of("out")
        if grid is not None and isinstance(self.packed, IntegerWeight):
            self.fixed = (*fixed_points(self.packed.scale.double() / grid.scale)[:2], grid)

    def forward(self, index: Tensor) -> Tensor:
        """index (...) int -> (..., embedding_dim)."""
        return self.look_up(index)

    def look_up(self, index: Tensor) -> Tensor:
        """The rows of these numbers."""
        if self.sites is None:
            return self.packed.rows(index)
        if self.sites.record is not None:
            return from_float(self.sites, self.packed.rows(index), "out")
        site = self.sites.next_site("out")
        if self.fixed is None or not isinstance(self.packed, IntegerWeight):
            self.sites.grid(site)  # says which site calibration missed
            raise ValueError(f"{site}: its constants were not made")
        multiplier, shift, grid = self.fixed
        flat, zero_point = index.reshape(-1), self.packed.zero_point
        codes = self.packed.codes[flat].to(torch.int64)
        groups = multiplier.shape[1]
        codes = codes.reshape(len(flat), groups, codes.shape[1] // groups)
        if zero_point is not None:
            codes = codes - (zero_point if zero_point.shape[0] == 1 else zero_point[flat]).to(torch.int64).unsqueeze(-1)
        factors = multiplier if multiplier.shape[0] == 1 else multiplier[flat]
        out = to_codes(shift_right(codes * factors.unsqueeze(-1), shift), grid)
        return grid_tensor(out.reshape(*index.shape, self.embedding_dim), grid, self.sites)


class IntegerLearnedPositions(IntegerEmbedding):
    """Replaces Fairseq's LearnedPositionalEmbedding: rows by position, padding left out of the count."""

    def forward(self, input: Tensor, incremental_state: Any = None, positions: Tensor | None = None) -> Tensor:
        """input (batch, time) tokens -> (batch, time, embedding_dim), or (1, 1, embedding_dim) of the last when incremental."""
        if positions is None:
            offset = self.padding_idx or 0
            if incremental_state is not None:
                positions = torch.full((1, 1), offset + input.shape[1], dtype=torch.int64, device=input.device)
            else:
                positions = count_positions(input, offset)
        if positions.numel() and int(positions.max()) >= self.num_embeddings:
            raise AsrCompressError(
                f"a sequence of {input.shape[1]} is longer than the model's positions, {self.num_embeddings - 1 - (self.padding_idx or 0)}; "
                "give shorter audio"
            )
        return self.look_up(positions)


def count_positions(tokens: Tensor, padding_idx: int) -> Tensor:
    """(batch, time) tokens -> positions counted from padding_idx + 1; padding stays at padding_idx, as in Fairseq."""
    mask = tokens.ne(padding_idx).to(torch.int64)
    return torch.cumsum(mask, dim=1) * mask + padding_idx
