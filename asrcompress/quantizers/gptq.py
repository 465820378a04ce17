"""GPTQ: codes one column at a time, each column's error made up for by the columns still to come.

After Frantar et al. 2022, arXiv 2210.17323, algorithm 1; sweep.py goes through the columns. The objective is the
layer's output error. Symmetric grids. Where a pattern drops weights, their errors are made up for in the same pass as
those of rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from asrcompress.grids import (
    Granularity,
    QuantizedWeight,
    as_rows,
    code_range,
    dequantize,
    quant_max,
)
from asrcompress.patterns import Pattern
from asrcompress.quantizers import mse, rtn
from asrcompress.quantizers.asymmetric import search_grid
from asrcompress.quantizers.mse import search_scale, storable
from asrcompress.quantizers.statistics import InputStatistics, require_statistics, row_errors
from asrcompress.quantizers.support import Pruned, require_bits
from asrcompress.quantizers.sweep import choose, inverse_factor, prune, sweep

SUPPORTED_BITS = (8, 4, 3, 2)
NEEDS_STATISTICS = True
OnGrid = Callable[..., QuantizedWeight]  # quantize, of all but `pruned`


def quantize(
    weight: Tensor,
    *,
    num_bits: int,
    granularity: Granularity,
    name: str = "weight",
    statistics: InputStatistics | None = None,
    pruned: Pruned | None = None,
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
        pruned: what a pattern leaves of the weight. Errors count from the whole weight: kept weights make up for dropped ones.
        act_order: take columns with large inputs first. Scales of groups are then found beforehand.

    Raises:
        AsrCompressError: no statistics, NaN or infinity, fewer than 2 dimensions, groups that do not divide, 1 bit.
    """
    require_bits("gptq", num_bits, SUPPORTED_BITS, name)
    rows = as_rows(weight, name)
    granularity.num_groups(rows.shape[1], name)
    statistics = require_statistics(statistics, *rows.shape, method="gptq", name=name)
    grids = [
        partial(method.quantize, weight, num_bits=num_bits, granularity=granularity, name=name) for method in (rtn, mse)
    ]
    return improve(rows, grids, statistics, name=name, pruned=pruned, act_order=act_order)


def improve(
    rows: Tensor,
    grids: Sequence[OnGrid],
    statistics: InputStatistics,
    *,
    name: str,
    pruned: Pruned | None = None,
    act_order: bool = False,
) -> QuantizedWeight:
    """The best, row by row, of what `grids` make of the weight, and of GPTQ on the grids of the last of them.

    Where the statistics are diagonal there is no GPTQ, and the result names the method of the last.
    """
    candidates = [on_grid(pruned=pruned) for on_grid in grids]
    if statistics.is_diagonal:
        method = "mse" if candidates[-1].zero_point is None else "asymmetric"
        return replace(best_rows(rows, candidates, statistics), method=method)
    moment, mask = statistics.second_moment, None
    if pruned is not None:
        mask = pruned.mask
        if not pruned.by_column:  # kept weights grow when they make up for dropped ones, and their grid with them
            larger = replace(pruned, whole=prune(rows, moment, mask=mask, name=name)[0])
            candidates.append(grids[-1](pruned=larger))
    start = candidates[-1]
    candidates.append(compensate(rows, start, moment, name=name, mask=mask, act_order=act_order))
    if pruned is not None and pruned.by_column and isinstance(pruned.pattern, tuple) and not act_order:
        candidates.append(compensate(rows, start, moment, name=name, pattern=pruned.pattern))
    return best_rows(rows, candidates, statistics)


def compensate(
    rows: Tensor,
    start: QuantizedWeight,
    second_moment: Tensor,
    *,
    name: str = "weight",
    act_order: bool = False,
    mask: Tensor | None = None,
    pattern: Pattern | None = None,
) -> QuantizedWeight:
    """Algorithm 1 of the paper, for all groups of rows of a convolution at once.

    Args:
        rows: (rows, columns) float32.
        start: the weight on grids that are kept, except per group: there they are searched anew when a group begins.
        second_moment: (groups, columns, columns).
        name: for messages.
        act_order: as in `quantize`.
        mask: (rows, columns) bool, what is kept. The rest gets the code of 0, and its errors are made up for.
        pattern: (keep_n, group_m) in the place of a mask: what is kept is chosen as in `sweep.prune`, by weights that
            make up for rounding, too. Not with act_order.
    """
    count, columns = rows.shape
    low, high = code_range(start.num_bits, symmetric=start.zero_point is None)
    left = rows.reshape(second_moment.shape[0], -1, columns)
    steps = _by_column(start.scale, count, columns).reshape(left.shape)
    zeros = _by_column(torch.zeros(1, 1) if start.zero_point is None else start.zero_point, count, columns)
    zeros = zeros.reshape(left.shape)
    kept = None if mask is None else mask.reshape(left.shape)
    if pattern is not None:
        kept = torch.ones_like(left, dtype=torch.bool)
    order = None
    if act_order:
        order = second_moment.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
        by_row = order.unsqueeze(1).expand_as(left)
        left, steps, zeros = (tensor.gather(2, by_row) for tensor in (left, steps, zeros))
        kept = None if kept is None else kept.gather(2, by_row)
        second_moment = second_moment.gather(1, order.unsqueeze(2).expand_as(second_moment))
        second_moment = second_moment.gather(2, order.unsqueeze(1).expand_as(second_moment))
    size = None if act_order else start.granularity.group_size
    codes = torch.empty_like(left)

    def rounded(column: int, later: Tensor, pivots: Tensor) -> Tensor:
        """What stands in for a column: its code x its step."""
        if pattern is not None and kept is not None:
            _choose(kept, pattern, size, column, later, pivots)
        if size and column % size == 0:
            here = slice(column, column + size)
            group = later[..., :size] if kept is None else later[..., :size] * kept[..., here]
            steps[..., here], zeros[..., here] = _search(group, start)
        step, zero = steps[..., column], zeros[..., column]
        code = ((later[..., 0] / step).round_() + zero).clamp_(low, high)
        if kept is not None:
            code = torch.where(kept[..., column], code, zero)
        codes[..., column] = code
        return (code - zero) * step

    unit = math.lcm(size or 1, pattern[1] if pattern else 1)
    sweep(left, inverse_factor(second_moment, name), rounded, unit=unit)
    if order is not None:
        codes = torch.empty_like(codes).scatter_(2, order.unsqueeze(1).expand_as(codes), codes)
    scale, zero_point = start.scale, start.zero_point
    if size:
        scale = steps.reshape(count, columns)[:, ::size].to(scale.dtype)
        zero_point = None if zero_point is None else zeros.reshape(count, columns)[:, ::size].to(torch.int8)
    codes = codes.to(torch.int8).reshape(count, columns)
    return replace(start, codes=codes, scale=scale, zero_point=zero_point)


def _choose(kept: Tensor, pattern: Pattern, size: int | None, column: int, later: Tensor, pivots: Tensor) -> None:
    """Choose what is kept of the group that begins at a column, and beforehand, for their scale's sake, of all that begin
    among the next `size` columns."""
    group_m = pattern[1]
    if size and column % size == 0:
        ahead = -column % group_m
        if ahead < size:
            choose(
                kept, pattern, column + ahead, later[..., ahead:], pivots[..., ahead:], -(-(size - ahead) // group_m)
            )
    elif column % group_m == 0:
        choose(kept, pattern, column, later, pivots)


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
