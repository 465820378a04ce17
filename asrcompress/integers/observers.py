"""From observed values to grids: what calibration keeps of each site, and four ways to choose a range.

minmax covers all that was seen; percentile leaves out the outermost 0.01 % on each side; mse minimises the squared error of
rounding and clipping; kl minimises the divergence of the distribution that the codes can express (as TensorRT's
calibration does; Migacz, GTC 2017). Wide grids (above 8 bits) always cover twice what was seen.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.integers.grid import Grid

NUM_BINS = 2048
METHODS = ("minmax", "percentile", "mse", "kl")
PERCENTILE = 0.9999
HEADROOM = 2.0  # of wide grids, for values that calibration did not see
NUM_CANDIDATES = 100  # ranges that mse and kl try


class Observer:
    """A histogram of magnitudes on each side of zero, over a range that doubles when it has to."""

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.reach = 0.0  # the histogram covers -reach..reach in 2 * NUM_BINS bins
        self.counts = torch.zeros(2 * NUM_BINS, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Count in more values, of any shape.

        Raises:
            AsrCompressError: NaN or infinity.
        """
        if values.numel() == 0:
            return
        values = values.detach().float().flatten()
        low, high = (float(x) for x in torch.aminmax(values))
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            raise AsrCompressError("NaN or infinity came up in calibration")
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(-self.low, self.high)
        if largest == 0:
            return
        if self.reach == 0:
            self.reach = largest * 1.0001
        while self.reach < largest:
            pairs = self.counts.reshape(-1, 2).sum(dim=1)
            self.counts = torch.cat([torch.zeros(NUM_BINS // 2), pairs, torch.zeros(NUM_BINS // 2)]).double()
            self.reach *= 2
        self.counts += torch.histc(values, 2 * NUM_BINS, -self.reach, self.reach).double().cpu()

    def grid(self, num_bits: int, *, symmetric: bool, method: str) -> Grid:
        """The grid of `num_bits` that `method` chooses."""
        low, high = self.low, self.high
        if num_bits > 8:
            return _rounded(Grid.of_range(low * HEADROOM, high * HEADROOM, num_bits))
        if symmetric:
            low, high = -max(-low, high), max(-low, high)
        if method == "percentile" and self.reach:
            low, high = self._percentile(low, high)
        elif method in ("mse", "kl") and self.reach:
            error = self._squared_error if method == "mse" else self._divergence
            shares = [index / NUM_CANDIDATES for index in range(NUM_CANDIDATES // 5, NUM_CANDIDATES + 1)]
            grids = [Grid.of_range(low * share, high * share, num_bits, symmetric=symmetric) for share in shares]
            return _rounded(min(grids, key=error))
        return _rounded(Grid.of_range(low, high, num_bits, symmetric=symmetric))

    def _centres(self) -> Tensor:
        step = self.reach / NUM_BINS
        return (torch.arange(2 * NUM_BINS, dtype=torch.float64) + 0.5) * step - self.reach

    def _percentile(self, low: float, high: float) -> tuple[float, float]:
        shares = self.counts.cumsum(0) / self.counts.sum()
        centres = self._centres()
        bottom = float(centres[min(int((shares >= 1 - PERCENTILE).float().argmax()), 2 * NUM_BINS - 1)])
        top = float(centres[int((shares >= PERCENTILE).float().argmax())])
        if low == -high:  # symmetric
            reach = min(max(-bottom, top), high)
            return -reach, reach
        return max(low, bottom), min(high, top)

    def _on(self, grid: Grid) -> Tensor:
        """The bins' centres, rounded to the grid."""
        codes = (self._centres() / grid.scale).round() + grid.zero_point
        return (codes.clamp(grid.code_min, grid.code_max) - grid.zero_point) * grid.scale

    def _squared_error(self, grid: Grid) -> float:
        # Within a bin the values are taken as uniform: half-width squared over 3, or a third of it beyond a step.
        return float((self.counts * (self._on(grid) - self._centres()).square()).sum())

    def _divergence(self, grid: Grid) -> float:
        """Kullback-Leibler divergence of the values from what is left of them on the grid, bin by bin."""
        rounded = self._on(grid)
        level = (rounded / grid.scale).round().to(torch.int64) + 2**grid.num_bits
        sums = torch.zeros(2 ** (grid.num_bits + 1) + 1, dtype=torch.float64).scatter_add_(0, level, self.counts)
        occupied = (self.counts > 0).double()
        sizes = torch.zeros_like(sums).scatter_add_(0, level, occupied)
        p = self.counts / self.counts.sum()
        q = torch.where(occupied > 0, sums[level] / sizes[level].clamp_min(1), 0.0) / self.counts.sum()
        mask = p > 0
        clipped = p[
            (self._centres() - rounded).abs() > grid.scale
        ].sum()  # what the range leaves out costs its own mass
        return float((p[mask] * (p[mask] / q[mask].clamp_min(1e-12)).log()).sum() + clipped)


def _rounded(grid: Grid) -> Grid:
    """The scale with four digits, rounded up so that the range is still covered: what the artifact's JSON stores."""
    scale = Decimal(grid.scale)
    digit = Decimal((0, (1,), scale.adjusted() - 3))
    return Grid(float(scale.quantize(digit, rounding=ROUND_CEILING)), grid.zero_point, grid.num_bits)
