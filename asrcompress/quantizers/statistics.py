"""What a weight's inputs look like: second moments and sums over calibration data. Pure tensors.

GPTQ, `auto` and the bias correction read it. How inputs are caught inside a model is elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError

# Above it only the diagonal of the second moment is kept: at 4096 columns the whole takes 64 MiB per group of rows
# (wav2vec 2.0's positional convolution has 16 groups of 6144 columns: 2.3 GiB).
MAX_COLUMNS = 4096


@dataclass
class InputStatistics:
    """Accumulated inputs of one weight, as rows x (tokens) in the column layout of `grids.as_rows`.

    Rows of a grouped convolution's weight belong to group row // (rows / groups); else groups = 1.

    second_moment: (groups, columns, columns) float32, the sum of x x^T over tokens; beyond
        MAX_COLUMNS columns (groups, columns), its diagonal, which `is_diagonal` says.
    total: (groups, columns) float64, the sum of x.
    count: tokens.
    """

    second_moment: Tensor
    total: Tensor
    count: int = 0

    @classmethod
    def empty(cls, groups: int, columns: int) -> InputStatistics:
        """Nothing seen yet."""
        shape = (groups, columns) if columns > MAX_COLUMNS else (groups, columns, columns)
        return cls(torch.zeros(shape), torch.zeros(groups, columns, dtype=torch.float64))

    @classmethod
    def unknown(cls, columns: int) -> InputStatistics:
        """Inputs without a preference: independent, mean 0, variance 1.

        For a weight whose rows are looked up and not multiplied (an embedding): the output error is the weight's.
        """
        second = torch.ones(1, columns) if columns > MAX_COLUMNS else torch.eye(columns).unsqueeze(0)
        return cls(second, torch.zeros(1, columns, dtype=torch.float64), 1)

    @property
    def is_diagonal(self) -> bool:
        """Whether only the diagonal of the second moment is kept: inputs are then taken as uncorrelated."""
        return self.second_moment.dim() == 2

    @property
    def mean(self) -> Tensor:
        """E[x]: (groups, columns) float64."""
        return self.total / max(self.count, 1)

    def add(self, x: Tensor) -> None:
        """Count in more inputs: x (tokens, columns) for one group, or (tokens, groups, columns)."""
        groups, columns = self.total.shape
        x = x.detach().to(self.total.device).float().reshape(x.shape[0], groups, columns).transpose(0, 1)
        if self.is_diagonal:
            self.second_moment += x.square().sum(dim=1)
        else:
            self.second_moment.baddbmm_(x.transpose(1, 2), x)
        self.total += x.sum(dim=1, dtype=torch.float64)
        self.count += x.shape[1]


def require_statistics(
    statistics: InputStatistics | None, rows: int, columns: int, *, method: str, name: str, option: str = "method"
) -> InputStatistics:
    """The statistics, checked to be there, finite and of some tokens. `option` is what `method` was given with.

    Raises:
        AsrCompressError: none given, no token seen, NaN or infinity among the inputs.
        ValueError: statistics of another weight (a bug in the caller).
    """
    if statistics is None:
        raise AsrCompressError(f"{name}: --{option} {method} needs calibration data: add --calibrate DATA")
    if statistics.total.shape[1] != columns or rows % statistics.total.shape[0]:
        raise ValueError(f"{name}: statistics of {tuple(statistics.total.shape)} for {rows} x {columns} weights")
    if statistics.count == 0:
        other = "--method mse" if option == "method" else "--sparsifier magnitude"
        raise AsrCompressError(
            f"{name}: no calibration input reached it; use other data for --calibrate, {other}, or --exclude '{name}'"
        )
    if not (torch.isfinite(statistics.second_moment).all() and torch.isfinite(statistics.total).all()):
        raise AsrCompressError(f"{name}: its calibration inputs hold NaN or infinity; use other data for --calibrate")
    return statistics


def row_errors(difference: Tensor, statistics: InputStatistics) -> Tensor:
    """E (d x)^2 for every row d of `difference` (rows, columns), from the second moments: (rows,) float64."""
    groups = statistics.total.shape[0]
    grouped = difference.float().reshape(groups, -1, difference.shape[1])
    if statistics.is_diagonal:
        products = grouped * statistics.second_moment.unsqueeze(1)
    else:
        products = grouped @ statistics.second_moment
    # A negative sum is rounding: second moments have none.
    return (products * grouped).sum(dim=-1, dtype=torch.float64).clamp_min(0).reshape(-1) / max(statistics.count, 1)


def output_error(weight_rows: Tensor, dequantized_rows: Tensor, statistics: InputStatistics) -> float:
    """E ||(W - W~) x||^2 relative to E ||W x||^2, over the calibration inputs.

    Args:
        weight_rows: (rows, columns), the weight in float.
        dequantized_rows: (rows, columns), what its codes stand for.
        statistics: of the weight's inputs. Where they are diagonal, inputs count as uncorrelated.

    Returns:
        0.0 for no error; infinity for an error where W x is always 0.
    """
    weight = weight_rows.detach().float()
    error = float(row_errors(weight - dequantized_rows.float(), statistics).sum())
    size = float(row_errors(weight, statistics).sum())
    if size > 0:
        return error / size
    return 0.0 if error == 0 else float("inf")
