"""GPTQ on grids fitted by least squares, for one or many options of bits and N:M pattern at once.

Scales start from Lloyd's iterations (codes, then the scale that is best for them) weighted by the inputs' second moments; then
GPTQ (arXiv 2210.17323) rounds column by column, and where there is a pattern SparseGPT (arXiv 2301.00774) picks in the same pass
what each group keeps; last, every scale becomes the one that makes the output error least for the codes found,
(q H w) / (q H q). Grids below 8 bits have one level more on one side, whichever fits a row better: the zero point is 0 or -1.
All options of a weight share the Cholesky factor and the walk over the columns, so a sensitivity table costs little more than one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from asrcompress.grids import Granularity, QuantizedWeight, as_rows, by_scale, code_range, narrow_scale
from asrcompress.patterns import Pattern, Unstructured, keep_largest, places
from asrcompress.quantizers.statistics import InputStatistics, require_statistics
from asrcompress.quantizers.support import Pruned, require_bits
from asrcompress.quantizers.sweep import inverse_factor

SUPPORTED_BITS = (8, 4, 3, 2)
NEEDS_STATISTICS = True
BLOCK = 64  # columns whose updates of later ones are applied together
# Kept weights grow where they make up for dropped ones, and the scale with them: by so much for each halving of what is kept.
GROWTH = {2: 0.4, 3: 0.35, 4: 0.55, 8: 0.8}
ITERATIONS = 2  # of Lloyd's: more fit the grid to rounding alone, which is not what GPTQ does
# Where the largest level of a grid starts, in root mean squares of a row; found by the output error on a trained transformer.
CLIP = {2: 2.1, 3: 2.2, 4: 2.3}


def quantize(
    weight: Tensor,
    *,
    num_bits: int,
    granularity: Granularity,
    name: str = "weight",
    statistics: InputStatistics | None = None,
    pruned: Pruned | None = None,
) -> QuantizedWeight:
    """Quantize a weight of shape (out, ...) for a small error of its output on the calibration inputs.

    Args:
        weight: (out, ...).
        num_bits: 8, 4, 3 or 2.
        granularity: who shares a scale.
        name: for messages.
        statistics: of the weight's inputs.
        pruned: what a sparsifier left of it; what sparsegpt keeps is chosen anew, in the pass that rounds.

    Raises:
        AsrCompressError: no statistics, NaN or infinity, fewer than 2 dimensions, groups that do not divide, 1 bit.
    """
    option = (num_bits, pruned.pattern if pruned else None)
    masks = [pruned.mask if pruned and not pruned.by_column else None]
    return quantize_options(weight, [option], granularity=granularity, name=name, statistics=statistics, masks=masks)[0]


def quantize_options(
    weight: Tensor,
    options: Sequence[tuple[int, Pattern | Unstructured | None]],
    *,
    granularity: Granularity,
    name: str = "weight",
    statistics: InputStatistics | None = None,
    masks: Sequence[Tensor | None] | None = None,
) -> list[QuantizedWeight]:
    """The weight at each of several options (num_bits, pattern), as `quantize` makes them one by one.

    Args:
        weight: (out, ...).
        options: bits from 2 to 8, and what every group of columns keeps; UNSTRUCTURED only with a mask.
        granularity: who shares a scale.
        name: for messages.
        statistics: of the weight's inputs. If they are diagonal, no column can make up for another: the grids are fitted and
            codes rounded.
        masks: (rows, columns) bool each, where what a pattern keeps is settled; where it is None it is chosen here.
    """
    for num_bits, _ in options:
        require_bits("gptq_ls", num_bits, SUPPORTED_BITS, name)
    rows = as_rows(weight, name)
    granularity.num_groups(rows.shape[1], name)
    statistics = require_statistics(statistics, *rows.shape, method="gptq_ls", name=name)
    importance = _importance(rows, statistics)
    settled = list(masks or [None] * len(options))
    kept = [
        mask
        if mask is not None or not isinstance(pattern, tuple)
        else keep_largest(rows.square() * importance, *pattern)
        for (_, pattern), mask in zip(options, settled, strict=True)
    ]
    grids = [
        fit(rows, importance, mask, bits, granularity, name) for (bits, _), mask in zip(options, kept, strict=True)
    ]
    if statistics.is_diagonal:
        found = [_round(rows, *grid, bits, mask) for (bits, _), grid, mask in zip(options, grids, kept, strict=True)]
    else:
        found = _walk(rows, statistics.second_moment, options, grids, settled, name)
    results = []
    for (bits, pattern), steps, (scale, zero) in zip(options, found, grids, strict=True):
        if not statistics.is_diagonal and granularity.kind != "per_group":
            scale = refit(rows, steps, scale, statistics.second_moment)
        codes = (steps + (0 if zero is None else _by_column(zero.float(), *rows.shape))).to(torch.int8)
        results.append(
            QuantizedWeight(
                codes, scale, bits, granularity, tuple(weight.shape), None if zero is None else zero.to(torch.int8), pattern=pattern
            )
        )  # fmt: skip
    return results


def fit(
    rows: Tensor, importance: Tensor, mask: Tensor | None, num_bits: int, granularity: Granularity, name: str
) -> tuple[Tensor, Tensor | None]:
    """Scale (as stored) and zero point (None at 8 bits) of each group: least weighted squares over what `mask` keeps."""
    values = by_scale(rows, granularity, name)
    weights = by_scale((importance if mask is None else importance * mask).expand_as(rows), granularity, name)
    largest = (values.abs() * (weights > 0)).amax(dim=-1, keepdim=True)
    low, high = code_range(num_bits, symmetric=num_bits == 8)
    grown = 1.0 if mask is None else 1.0 - GROWTH[num_bits] * math.log2(float(mask.float().mean()))
    if num_bits not in CLIP:
        return narrow_scale((largest * grown / high).squeeze(-1)), None
    spread = ((weights * values.square()).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True).clamp_min(1e-30)).sqrt()
    start = (torch.minimum(spread * CLIP[num_bits], largest) / (high + 0.5)).clamp_min(1e-30)
    best_scale, best_zero = torch.ones_like(start), torch.zeros_like(start)
    least = torch.full_like(start, float("inf"))
    for zero in (0, -1):
        scale = start
        for _ in range(ITERATIONS):
            steps = (values / scale).round_().clamp_(low - zero, high - zero)
            weighted = weights * steps
            scale = _positive_ratio(
                (weighted * values).sum(-1, keepdim=True), (weighted * steps).sum(-1, keepdim=True), scale
            )
        steps = (values / scale).round_().clamp_(low - zero, high - zero)
        error = (weights * (values - steps * scale).square()).sum(-1, keepdim=True)
        better = error < least
        least = torch.where(better, error, least)
        best_scale, best_zero = torch.where(better, scale, best_scale), torch.where(better, float(zero), best_zero)
    stored = narrow_scale(torch.where(largest > 0, best_scale * grown, torch.zeros_like(best_scale)).squeeze(-1))
    return stored, best_zero.squeeze(-1)


def refit(rows: Tensor, steps: Tensor, scale: Tensor, second_moment: Tensor) -> Tensor:
    """The scale that makes the output error least for these codes: (q H w) / (q H q), per row, or summed where one is for all.

    Args:
        rows: (rows, columns), the weight.
        steps: (rows, columns), codes less zero points.
        scale: (rows or 1, 1), kept where that is no positive number.
        second_moment: (groups, columns, columns).
    """
    grouped = steps.reshape(second_moment.shape[0], -1, steps.shape[1])
    product = (grouped @ second_moment).reshape(steps.shape)
    above, below = (product * rows).sum(dim=1, keepdim=True), (product * steps).sum(dim=1, keepdim=True)
    if scale.shape[0] == 1:
        above, below = above.sum(dim=0, keepdim=True), below.sum(dim=0, keepdim=True)
    return narrow_scale(_positive_ratio(above, below, scale.float()))


def _walk(
    rows: Tensor,
    second_moment: Tensor,
    options: Sequence[tuple[int, Pattern | Unstructured | None]],
    grids: Sequence[tuple[Tensor, Tensor | None]],
    masks: Sequence[Tensor | None],
    name: str,
) -> list[Tensor]:
    """GPTQ and SparseGPT over the columns, all options side by side: codes less zero points, (rows, columns) float32 each.

    Columns come first in memory, (columns, options, groups of rows, rows), so that each is one contiguous piece.
    """
    count, columns = rows.shape
    groups = second_moment.shape[0]
    factor = inverse_factor(second_moment, name).permute(1, 2, 0).contiguous()  # (columns, columns, groups)
    pivots = factor.diagonal(dim1=0, dim2=1).T.reshape(columns, 1, groups, 1)
    patterns = [
        pattern if mask is None and isinstance(pattern, tuple) else None
        for (_, pattern), mask in zip(options, masks, strict=True)
    ]
    order = sorted(
        range(len(options)), key=lambda place: (patterns[place] or (0, 0))[1]
    )  # of one group size side by side
    sizes = [(patterns[place] or (0, 0))[1] for place in order]
    pruned: dict[int, tuple[slice, Tensor]] = {}
    for group_m in sorted(set(sizes) - {0}):
        members = slice(sizes.index(group_m), sizes.index(group_m) + sizes.count(group_m))
        kept = [(patterns[place] or (0, 0))[0] for place in order[members]]
        pruned[group_m] = (members, torch.tensor(kept, dtype=torch.uint8).reshape(-1, 1, 1))
    width = _block_width(list(pruned)) if pruned else BLOCK
    scale, low, high = _limits([options[place][0] for place in order], [grids[place] for place in order], groups, count)
    size = columns // len(scale)
    left = rows.T.reshape(columns, 1, groups, -1).repeat(1, len(options), 1, 1)
    steps = torch.empty_like(left)
    keep = torch.ones_like(left) if any(pattern for _, pattern in options) else None
    for place, option in enumerate(order):
        if keep is not None and (mask := masks[option]) is not None:
            keep[:, place] = mask.T.reshape(columns, groups, -1)
    for begin in range(0, columns, width):
        end = min(begin + width, columns)
        block, upper = left[begin:end], factor[begin:end, begin:end]
        errors = torch.empty_like(block)
        for place in range(end - begin):
            column = begin + place
            for group_m, (members, keep_n) in pruned.items():
                if column % group_m == 0 and keep is not None:
                    here = slice(place, place + group_m)
                    score = (block[here, members] / pivots[column : column + group_m]).abs()
                    keep[column : column + group_m, members] = (places(score) < keep_n).float()
            value = block[place]
            step = scale[column // size]
            code = (value / step).round_().clamp_(low[column // size], high[column // size])
            if keep is not None:
                code *= keep[column]
            steps[column] = code
            error = (value - code * step).div_(upper[place, place].unsqueeze(-1))
            errors[place] = error
            if place + 1 < end - begin:
                _take_off(block[place + 1 :], error, upper[place, place + 1 :])
        if end < columns:
            _update(left[end:], errors, factor[begin:end, end:])
    found = steps.permute(1, 2, 3, 0).reshape(len(options), count, columns)
    return [found[order.index(place)] for place in range(len(options))]


def _limits(
    bits: Sequence[int], grids: Sequence[tuple[Tensor, Tensor | None]], groups: int, rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, least and largest step of every option: (groups of columns, options, groups of rows, rows) each."""
    parts: tuple[list[Tensor], ...] = ([], [], [])
    for num_bits, (scale, zero) in zip(bits, grids, strict=True):
        least, most = code_range(num_bits, symmetric=zero is None)
        offset = torch.zeros_like(scale, dtype=torch.float32) if zero is None else zero
        for part, values in zip(parts, (scale.float(), least - offset, most - offset), strict=True):
            part.append(values.expand(rows, -1).T.reshape(-1, groups, rows // groups))
    scale, low, high = (torch.stack(part, dim=1).contiguous() for part in parts)
    return scale, low, high


def _take_off(later: Tensor, error: Tensor, factor: Tensor) -> None:
    """Take one column's error (options, groups, rows) off the later ones of its block, by factor (later, groups), in place."""
    if factor.shape[-1] == 1:
        later.view(later.shape[0], -1).addr_(factor[:, 0], error.reshape(-1), alpha=-1)
    else:
        later -= error * factor.unsqueeze(1).unsqueeze(-1)


def _update(later: Tensor, errors: Tensor, factor: Tensor) -> None:
    """Take the errors (block, options, groups, rows) off the later columns, by factor (block, later, groups), in place."""
    if factor.shape[-1] == 1:
        later.view(later.shape[0], -1).sub_(factor[..., 0].T @ errors.reshape(errors.shape[0], -1))
        return
    later -= torch.einsum("blg,bogr->logr", factor, errors)


def _block_width(sizes: Sequence[int]) -> int:
    """Columns of a block: groups of every pattern lie in it whole."""
    width = math.lcm(*sizes)
    return max(BLOCK // width, 1) * width


def _round(rows: Tensor, scale: Tensor, zero: Tensor | None, num_bits: int, mask: Tensor | None) -> Tensor:
    """Codes less zero points, to the nearest."""
    low, high = code_range(num_bits, symmetric=zero is None)
    offset = _by_column(torch.zeros(1, 1) if zero is None else zero, *rows.shape)
    steps = (rows / _by_column(scale.float(), *rows.shape)).round_().clamp_(low - offset, high - offset)
    return steps if mask is None else steps * mask


def _importance(rows: Tensor, statistics: InputStatistics) -> Tensor:
    """How much each column's error counts: the inputs' second moments, (rows or 1, columns), around 1 and never 0."""
    second = statistics.second_moment
    diagonal = second if statistics.is_diagonal else second.diagonal(dim1=1, dim2=2)
    diagonal = (diagonal / diagonal.mean(dim=1, keepdim=True).clamp_min(1e-30)).clamp_min(1e-3)
    return diagonal if len(diagonal) == 1 else diagonal.repeat_interleave(rows.shape[0] // len(diagonal), dim=0)


def _by_column(values: Tensor, rows: int, columns: int) -> Tensor:
    """The scale or zero point of every element: (rows or 1, groups) -> (rows, columns)."""
    return values.repeat_interleave(columns // values.shape[1], dim=1).expand(rows, columns)


def _positive_ratio(above: Tensor, below: Tensor, otherwise: Tensor) -> Tensor:
    """above / below where both are positive."""
    return torch.where((above > 0) & (below > 0), above / below.clamp_min(1e-30), otherwise)
