"""Positions that are computed, not learned, at level integer-only: sinusoids as tables of 16-bit codes.

Fairseq's modules compute them in float, longer ones when they meet a longer input; here the table is made before
the model runs, for every position that the model is made for.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.integers.crossing import enter_integers
from asrcompress.integers.grid import Grid
from asrcompress.integers.sites import Sites
from asrcompress.integers.tensor import grid_tensor, observed
from asrcompress.modules.linear import count_positions

UNIT_GRID = Grid(2.0**-15, 0, 16)  # for numbers from -1 to 1


class _Table(nn.Module):
    sites: Sites | None = None
    table: Tensor
    entries: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table.detach().float(), persistent=False)
        self.register_buffer(
            "entries",
            enter_integers(table.detach().float(), UNIT_GRID.scale, 0, 16).clamp_min(-32767),
            persistent=False,
        )

    def rows(self, index: Any) -> Tensor:
        """Rows of the table, as what the model runs on."""
        if self.sites is None:
            return self.table[index]
        if self.sites.record is not None:
            return observed(self.table[index], self.sites)
        return grid_tensor(self.entries[index], UNIT_GRID, self.sites)

    def require(self, length: int, longest: int) -> None:
        """Raise when an input needs more positions than there are."""
        if length > longest:
            raise AsrCompressError(
                f"an input of {length} frames or tokens is longer than the model's {longest} positions; give shorter audio"
            )


class IntegerSinusoids(_Table):
    """Replaces Fairseq's SinusoidalPositionalEmbedding."""

    def __init__(self, module: Any) -> None:
        super().__init__(module.weights)
        self.padding_idx, self.embedding_dim = module.padding_idx, module.embedding_dim
        self.max_positions = self.table.shape[0] - module.padding_idx - 1

    def forward(
        self, input: Tensor, incremental_state: Any = None, timestep: Tensor | None = None, positions: Any = None
    ) -> Tensor:
        """input (batch, time), tokens or a padding mask -> (batch, time, dim); of the last step when incremental."""
        batch, length = input.shape
        self.require(length, self.max_positions)
        if incremental_state is not None:
            where = int(timestep.view(-1)[0]) + 1 if timestep is not None else length
            return self.rows(slice(self.padding_idx + where, self.padding_idx + where + 1)).expand(batch, 1, -1)
        index = count_positions(input, self.padding_idx)
        return self.rows(index.reshape(-1)).view(batch, length, -1)


class IntegerRelativePositions(_Table):
    """Replaces Fairseq's RelPositionalEncoding: one row a distance, from far left to far right."""

    def __init__(self, module: Any) -> None:
        super().__init__(module.pe[0])

    def forward(self, x: Tensor) -> Tensor:
        """x (time, batch, dim) -> (2 time - 1, 1, dim)."""
        middle, length = self.table.shape[0] // 2, x.shape[0]
        self.require(length, middle + 1)
        return self.rows(slice(middle - length + 1, middle + length)).unsqueeze(1)
