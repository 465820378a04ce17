"""Column by column: what stands in for a column, and its error made up for by the columns still to come.

After Frantar et al. 2022, arXiv 2210.17323, algorithm 1: with H = sum x x^T of the calibration inputs and U the upper
Cholesky factor of H^-1, column j's error divided by U[j, j] is taken off the later columns in proportion to row j of U.
The objective is the layer's output error. gptq.py rounds columns, sparsegpt prunes them; here is what both do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.patterns import Pattern, keep_largest

DAMPING = 0.01  # of the mean of H's diagonal, as in the paper
BLOCK = 128  # columns whose updates of later ones are applied together

# (column, left, pivots) -> what stands in for the column, (groups, rows). `left` holds it and the later columns of its
# block as they are by now, (groups, rows, columns left), and may not be changed; pivots are their U[j, j], (groups, 1, columns left).
StandIn = Callable[[int, Tensor, Tensor], Tensor]
# (column, left, pivots) -> what is kept of the BLOCK columns that begin there, (groups, rows, columns left) bool.
ChooseBlock = Callable[[int, Tensor, Tensor], Tensor]


def sweep(rows: Tensor, factor: Tensor, stand_in: StandIn, *, unit: int = 1) -> None:
    """Call `stand_in` for each column in turn, and take its error off the columns after it.

    Args:
        rows: (groups, rows, columns) float32; left alone.
        factor: (groups, columns, columns), U of `inverse_factor`.
        stand_in: as above.
        unit: a block is a multiple of it, so that this many columns from a multiple of it on lie in one block.
    """
    left = rows.clone()
    columns = rows.shape[-1]
    width = max(BLOCK // unit, 1) * unit
    for begin in range(0, columns, width):
        end = min(begin + width, columns)
        block, upper = left[..., begin:end].clone(), factor[:, begin:end, begin:end]
        pivots = upper.diagonal(dim1=1, dim2=2).unsqueeze(1)
        errors = torch.empty_like(block)
        for place in range(end - begin):
            found = stand_in(begin + place, block[..., place:], pivots[..., place:])
            error = (block[..., place] - found) / pivots[..., place]
            block[..., place + 1 :] -= error.unsqueeze(-1) * upper[:, place, place + 1 :].unsqueeze(1)
            errors[..., place] = error
        left[..., end:] -= errors @ factor[:, begin:end, end:]


def prune(
    rows: Tensor,
    second_moment: Tensor,
    *,
    mask: Tensor | None = None,
    pattern: Pattern | None = None,
    choose_block: ChooseBlock | None = None,
    name: str = "weight",
) -> tuple[Tensor, Tensor]:
    """Drop weights, and let the kept ones of later columns make up for them; nothing is rounded.

    Either `mask` says what is kept or `pattern` does: then each group chooses when its first column is reached, by
    w^2 / U[j, j]^2 (Frantar and Alistarh 2023, arXiv 2301.00774, section 3.2); or `choose_block` does for BLOCK columns.

    Args:
        rows: (rows, columns) float32.
        second_moment: (groups, columns, columns).
        mask: (rows, columns) bool.
        pattern: (keep_n, group_m); columns divide by group_m.
        choose_block: see there.
        name: for messages.

    Returns:
        The pruned rows, (rows, columns) float32, and what was kept, bool.
    """
    grouped = rows.reshape(second_moment.shape[0], -1, rows.shape[1])
    kept = torch.ones_like(grouped, dtype=torch.bool) if mask is None else mask.reshape(grouped.shape)
    pruned = torch.empty_like(grouped)

    def stand_in(column: int, left: Tensor, pivots: Tensor) -> Tensor:
        if pattern is not None and column % pattern[1] == 0:
            choose(kept, pattern, column, left, pivots)
        if choose_block is not None and column % BLOCK == 0:
            kept[..., column : column + BLOCK] = choose_block(column, left, pivots)
        pruned[..., column] = torch.where(kept[..., column], left[..., 0], 0.0)
        return pruned[..., column]

    sweep(grouped, inverse_factor(second_moment, name), stand_in, unit=pattern[1] if pattern else 1)
    return pruned.reshape(rows.shape), kept.reshape(rows.shape)


def choose(kept: Tensor, pattern: Pattern, column: int, left: Tensor, pivots: Tensor, count: int = 1) -> None:
    """Choose what `count` groups from `column` on keep, in place: the largest |w| / U[j, j]."""
    size = count * pattern[1]
    kept[..., column : column + size] = keep_largest(left[..., :size].abs() / pivots[..., :size], *pattern)


def inverse_factor(second_moment: Tensor, name: str) -> Tensor:
    """U, upper triangular, with U^T U = (H + damping)^-1 up to a factor: (groups, columns, columns).

    With J the reversal of columns and J H J = L L^T, U = J L^-1 J: one factorization and no inverse of H.

    Raises:
        AsrCompressError: no damping up to the mean of the diagonal makes H positive definite (it is no sum of x x^T).
    """
    diagonal = second_moment.diagonal(dim1=1, dim2=2).mean(dim=1)
    # A group whose inputs are all 0 has nothing to make up for: any H is right.
    diagonal = torch.where(diagonal > 0, diagonal, torch.ones_like(diagonal))
    reverse = second_moment.flip(1, 2) / diagonal.reshape(-1, 1, 1)
    identity = torch.eye(second_moment.shape[1], dtype=reverse.dtype)
    damping = DAMPING
    while damping <= 1:
        lower, failed = torch.linalg.cholesky_ex(reverse + damping * identity)
        if not failed.any():
            return invert_lower(lower).flip(1, 2)
        damping *= 10
    raise AsrCompressError(
        f"{name}: its calibration inputs have no usable second moment; use other data for --calibrate"
    )


def invert_lower(lower: Tensor) -> Tensor:
    """The inverse of (groups, n, n) lower triangular, by halves: most of the work is products of matrices."""
    count = lower.shape[-1]
    if count <= BLOCK:
        identity = torch.eye(count, dtype=lower.dtype).expand_as(lower)
        return torch.linalg.solve_triangular(lower, identity, upper=False)
    half = count // 2
    inverse = torch.zeros_like(lower)
    first, last = invert_lower(lower[:, :half, :half]), invert_lower(lower[:, half:, half:])
    inverse[:, :half, :half], inverse[:, half:, half:] = first, last
    inverse[:, half:, :half] = -last @ (lower[:, half:, :half] @ first)
    return inverse
