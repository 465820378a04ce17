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
    FP16_LARGEST,
    FP16_SMALLEST_NORMAL,
    Granularity,
    QuantizedWeight,
    as_rows,
    dequantize,
    quant_max,
)
from asrcompress.quantizers import mse, rtn
from asrcompress.quantizers.mse import search_scale
from asrcompress.quantizers.statistics import InputStatistics, require_statistics, row_errors
from asrcompress.quantizers.support import require_bits

SUPPORTED_BITS = (8, 4, 3, 2)
NEEDS_STATISTICS = True
DAMPING = 0.01  # of the mean of H's diagonal, as in the paper
FLOAT32_RANGE = (torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max)
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
    if statistics.is_diagonal:
        return replace(best_rows(rows, candidates, statistics), method="mse")
    factor = inverse_factor(statistics.second_moment, name)
    candidates.append(_compensate(rows, candidates[1], factor, statistics.second_moment, act_order=act_order))
    return best_rows(rows, candidates, statistics)


def inverse_factor(second_moment: Tensor, name: str) -> Tensor:
    """U, upper triangular, with U^T U = (H + damping)^-1: (groups, columns, columns).

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
            inverse = torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False)
            return inverse.flip(1, 2)
        damping *= 10
    raise AsrCompressError(
        f"{name}: its calibration inputs have no usable second moment; use other data for --calibrate"
    )


def _compensate(
    rows: Tensor, start: QuantizedWeight, factor: Tensor, second_moment: Tensor, *, act_order: bool
) -> QuantizedWeight:
    """Algorithm 1 of the paper, for all groups of rows of a convolution at once.

    Args:
        rows: (rows, columns) float32.
        start: the weight on mse's scales, which are kept except per group.
        factor: (groups, columns, columns), of `inverse_factor`.
        second_moment: (groups, columns, columns).
        act_order: as in `quantize`.
    """
    count, columns = rows.shape
    num_bits, granularity, limit = start.num_bits, start.granularity, quant_max(start.num_bits)
    left = rows.reshape(factor.shape[0], -1, columns).clone()
    steps = _column_steps(start.scale, count, columns).reshape(left.shape).contiguous()
    order = None
    if act_order:
        order = second_moment.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
        by_row = order.unsqueeze(1).expand_as(left)
        left, steps = left.gather(2, by_row), steps.gather(2, by_row)
        moment = second_moment.gather(1, order.unsqueeze(2).expand_as(second_moment))
        factor = inverse_factor(moment.gather(2, order.unsqueeze(1).expand_as(second_moment)), "weight")
    size = granularity.group_size if granularity.group_size and not act_order else None
    width = max(BLOCK // size, 1) * size if size else BLOCK
    codes = torch.empty_like(left)
    for begin in range(0, columns, width):
        end = min(begin + width, columns)
        block, upper = left[..., begin:end].clone(), factor[:, begin:end, begin:end]
        errors = torch.empty_like(block)
        for place in range(end - begin):
            column = begin + place
            if size and column % size == 0:
                group = block[..., place : place + size]
                steps[..., column : column + size] = _group_scale(group, num_bits, start.scale.dtype).unsqueeze(-1)
            value, step = block[..., place], steps[..., column]
            code = (value / step).round_().clamp_(-limit, limit)
            codes[..., column] = code
            error = (value - code * step) / upper[:, place, place].unsqueeze(-1)
            block[..., place + 1 :] -= error.unsqueeze(-1) * upper[:, place, place + 1 :].unsqueeze(1)
            errors[..., place] = error
        left[..., end:] -= errors @ factor[:, begin:end, end:]
    if order is not None:
        codes = torch.empty_like(codes).scatter_(2, order.unsqueeze(1).expand_as(codes), codes)
    scale = start.scale
    if size:
        scale = steps.reshape(count, columns)[:, ::size].to(start.scale.dtype)
    return replace(start, codes=codes.to(torch.int8).reshape(count, columns), scale=scale)


def _column_steps(scale: Tensor, rows: int, columns: int) -> Tensor:
    """The scale of every element: (rows, columns) float32."""
    return scale.float().repeat_interleave(columns // scale.shape[1], dim=1).expand(rows, columns)


def _group_scale(group: Tensor, num_bits: int, dtype: torch.dtype) -> Tensor:
    """mse's scale for (..., size) weights, as `dtype` will hold it, in float32: (...)."""
    largest = group.abs().amax(dim=-1)
    smallest, most = (FP16_SMALLEST_NORMAL, FP16_LARGEST) if dtype == torch.float16 else FLOAT32_RANGE
    start = (largest / quant_max(num_bits)).clamp(smallest, most)
    start = torch.where(largest > 0, start, torch.ones_like(start)).to(dtype)
    return search_scale(group, start, num_bits).float()


def best_rows(rows: Tensor, candidates: list[QuantizedWeight], statistics: InputStatistics) -> QuantizedWeight:
    """For each row the candidate with the smallest output error; the first of equals. At per_tensor for all rows.

    Candidates differ in codes and scales only; the scales are of one type.
    """
    errors = torch.stack(
        [row_errors(rows - dequantize(each.codes, each.scale, each.zero_point), statistics) for each in candidates]
    )
    if candidates[0].granularity.kind == "per_tensor":
        return candidates[int(errors.sum(dim=1).argmin())]
    best, least = candidates[0], errors[0]
    for place, candidate in enumerate(candidates[1:], 1):
        better = (errors[place] < least).unsqueeze(1)
        least = torch.minimum(least, errors[place])
        codes = torch.where(better, candidate.codes, best.codes)
        best = replace(best, codes=codes, scale=torch.where(better, candidate.scale, best.scale))
    return best
