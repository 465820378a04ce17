"""GPTQ: codes one column at a time, each column's error made up for by the columns still to come.

After Frantar et al. 2022, arXiv 2210.17323, algorithm 1: with H = sum x x^T of the calibration
inputs and U the upper Cholesky factor of H^-1, column j's error divided by U[j, j] is taken off the
later columns in proportion to row j of U. The objective is the layer's output error. Symmetric grids.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.grids import (
    Granularity,
    QuantizedWeight,
    as_rows,
    code_range,
    dequantize,
    quant_max,
)
from asrcompress.quantizers import mse, rtn
from asrcompress.quantizers.asymmetric import search_grid
from asrcompress.quantizers.mse import search_scale, storable
from asrcompress.quantizers.statistics import InputStatistics, require_statistics, row_errors
from asrcompress.quantizers.support import require_bits

SUPPORTED_BITS = (8, 4, 3, 2)
NEEDS_STATISTICS = True
DAMPING = 0.01  # of the mean of H's diagonal, as in the paper
BLOCK = 128  # columns whose updates of later ones are applied together


def quantize(
    weight: Tensor,
    *,
    num_bits: int,
    granularity: Granularity,
    name: str = "weight",
    statistics: InputStatistics | None = None,
    act_order: bool = False,
) -> QuantizedWeight:
    """Quantize a weight of shape (out, ...) for a small error of its output on the calibration inputs.

    A row for which rtn or mse has the smaller output error is theirs, so the result is never worse
    (at per_tensor, which has one scale for all rows, the whole weight). Scales are mse's; in groups
    they are found when a group is reached, on weights that hold the errors of the columns before.

    Args:
        weight: (out, ...).
        num_bits: 8, 4, 3 or 2.
        granularity: who shares a scale.
        name: for messages.
        statistics: of the weight's inputs. If they are diagonal (above 4096 columns), no column can make up for
            another: the better of mse and rtn is returned for each row, and `method` of the result says mse.
        act_order: take columns with large inputs first. Scales of groups are then found beforehand.

    Raises:
        AsrCompressError: no statistics, NaN or infinity, fewer than 2 dimensions, groups that do not divide, 1 bit.
    """
    require_bits("gptq", num_bits, SUPPORTED_BITS, name)
    rows = as_rows(weight, name)
    granularity.num_groups(rows.shape[1], name)
    statistics = require_statistics(statistics, *rows.shape, method="gptq", name=name)
    candidates = [
        method.quantize(weight, num_bits=num_bits, granularity=granularity, name=name) for method in (rtn, mse)
    ]
    return improve(rows, candidates, statistics, name=name, act_order=act_order)


def improve(
    rows: Tensor, candidates: list[QuantizedWeight], statistics: InputStatistics, *, name: str, act_order: bool
) -> QuantizedWeight:
    """The best, row by row, of `candidates` and of GPTQ on the grids of the last of them.

    Where the statistics are diagonal there is no GPTQ, and the result names the method of the last.
    """
    if statistics.is_diagonal:
        method = "mse" if candidates[-1].zero_point is None else "asymmetric"
        return replace(best_rows(rows, candidates, statistics), method=method)
    found = compensate(rows, candidates[-1], statistics.second_moment, name=name, act_order=act_order)
    return best_rows(rows, [*candidates, found], statistics)


def compensate(
    rows: Tensor, start: QuantizedWeight, second_moment: Tensor, *, name: str = "weight", act_order: bool = False
) -> QuantizedWeight:
    """Algorithm 1 of the paper, for all groups of rows of a convolution at once.

    Args:
        rows: (rows, columns) float32.
        start: the weight on grids that are kept, except per group: there they are searched anew when a group begins.
        second_moment: (groups, columns, columns).
        name: for messages.
        act_order: as in `quantize`.
    """
    count, columns = rows.shape
    low, high = code_range(start.num_bits, symmetric=start.zero_point is None)
    left = rows.reshape(second_moment.shape[0], -1, columns).clone()
    steps = _by_column(start.scale, count, columns).reshape(left.shape)
    zeros = _by_column(torch.zeros(1, 1) if start.zero_point is None else start.zero_point, count, columns)
    zeros = zeros.reshape(left.shape)
    order = None
    if act_order:
        order = second_moment.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
        by_row = order.unsqueeze(1).expand_as(left)
        left, steps, zeros = (tensor.gather(2, by_row) for tensor in (left, steps, zeros))
        second_moment = second_moment.gather(1, order.unsqueeze(2).expand_as(second_moment))
        second_moment = second_moment.gather(2, order.unsqueeze(1).expand_as(second_moment))
    factor = inverse_factor(second_moment, name)
    size = None if act_order else start.granularity.group_size
    width = max(BLOCK // size, 1) * size if size else BLOCK
    codes = torch.empty_like(left)
    for begin in range(0, columns, width):
        end = min(begin + width, columns)
        block, upper = left[..., begin:end].clone(), factor[:, begin:end, begin:end]
        errors = torch.empty_like(block)
        for place in range(end - begin):
            column = begin + place
            if size and column % size == 0:
                here = slice(column, column + size)
                steps[..., here], zeros[..., here] = _search(block[..., place : place + size], start)
            value, step, zero = block[..., place], steps[..., column], zeros[..., column]
            code = ((value / step).round_() + zero).clamp_(low, high)
            codes[..., column] = code
            error = (value - (code - zero) * step) / upper[:, place, place].unsqueeze(-1)
            block[..., place + 1 :] -= error.unsqueeze(-1) * upper[:, place, place + 1 :].unsqueeze(1)
            errors[..., place] = error
        left[..., end:] -= errors @ factor[:, begin:end, end:]
    if order is not None:
        codes = torch.empty_like(codes).scatter_(2, order.unsqueeze(1).expand_as(codes), codes)
    scale, zero_point = start.scale, start.zero_point
    if size:
        scale = steps.reshape(count, columns)[:, ::size].to(scale.dtype)
        zero_point = None if zero_point is None else zeros.reshape(count, columns)[:, ::size].to(torch.int8)
    codes = codes.to(torch.int8).reshape(count, columns)
    return replace(start, codes=codes, scale=scale, zero_point=zero_point)


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


def _by_column(values: Tensor, rows: int, columns: int) -> Tensor:
    """The scale or zero point of every element: (rows, columns) float32, its own memory."""
    return values.float().repeat_interleave(columns // values.shape[1], dim=1).expand(rows, columns).contiguous()


def _search(group: Tensor, start: QuantizedWeight) -> tuple[Tensor, Tensor]:
    """The grid of (..., size) weights, of the kind of `start`: scale and zero point (..., 1) float32."""
    if start.zero_point is not None:
        scale, zero_point = search_grid(group, start.num_bits, start.scale.dtype)
        return scale.float().unsqueeze(-1), zero_point.float().unsqueeze(-1)
    limit = quant_max(start.num_bits)
    scale = search_scale(group, storable(group.abs().amax(dim=-1) / limit, start.scale.dtype), -limit, limit)
    return scale.float().unsqueeze(-1), torch.zeros(1)


def best_rows(rows: Tensor, candidates: list[QuantizedWeight], statistics: InputStatistics) -> QuantizedWeight:
    """For each row the candidate with the smallest output error; the first of equals. At per_tensor for all rows.

    Candidates differ in codes, scales and zero points; scales are of one type, and all grids are symmetric or none is.
    """
    errors = torch.stack(
        [row_errors(rows - dequantize(each.codes, each.scale, each.zero_point), statistics) for each in candidates]
    )
    if candidates[0].granularity.kind == "per_tensor":
        return candidates[int(errors.sum(dim=1).argmin())]
    best, least = candidates[0], errors[0]
    for error, candidate in zip(errors[1:], candidates[1:], strict=True):
        better = (error < least).unsqueeze(1)
        least = torch.minimum(least, error)
        zero_point = candidate.zero_point
        if zero_point is not None and best.zero_point is not None:
            zero_point = torch.where(better, zero_point, best.zero_point)
        best = replace(
            best,
            codes=torch.where(better, candidate.codes, best.codes),
            scale=torch.where(better, candidate.scale, best.scale),
            zero_point=zero_point,
        )
    return best
