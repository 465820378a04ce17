"""A weight inside an integer module, and the ways to multiply by it.

Packed (`IntegerWeight`): integer codes and scales as buffers. With floats and `activations="none"` the weight is
dequantized on the fly (level stored); with `activations="int8"` activations go to int8 per token and the product runs
on integers with int32 sums (level computed); codes of a static grid are multiplied as they are (level integer-only).
`FloatWeight` is a weight that is not packed yet, so that calibration runs through the same modules.
There is no attribute `weight`: code that reaches past a module's forward fails loudly instead of computing in float.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asrcompress.grids import QuantizedWeight, dequantize
from asrcompress.integers.grid import Grid
from asrcompress.integers.matmul import int_matmul, quantize_tokens
from asrcompress.integers.products import FixedWeight, fix_weight, weight_product
from asrcompress.integers.tensor import Activation, GridTensor, as_float, grid_tensor, observed, point
from asrcompress.kernels.call import linear, usable
from asrcompress.kernels.weights import PanelWeight, fits
from asrcompress.modules.laid_out import LaidOut

GridOf = Callable[[str], Grid | None]  # kind of site -> its grid, None where calibration never came by


class FloatWeight(nn.Module):
    """A weight in float, (out, ...).

    observer: when set, is shown every input of its products, as (tokens, columns). watcher: when set, is given every input
    and result of its products, (..., columns) and (..., rows), or numbers (...) and the rows that were looked up; what it
    gives back goes on. At a grouped convolution inputs are (..., groups, columns).
    """

    observer: Callable[[Tensor], None] | None = None
    watcher: Callable[[Tensor, Tensor], Tensor] | None = None
    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values.detach())
        self.shape = tuple(values.shape)

    def dequantize(self) -> Tensor:
        """The float32 weight in its own shape."""
        return self.values.float()

    def matrix(self) -> Tensor:
        """The float32 weight as (rows, columns)."""
        return self.dequantize().reshape(self.shape[0], -1)

    def rows(self, index: Tensor) -> Tensor:
        """Rows of the weight by number: index (...) -> float32 (..., columns)."""
        return self.watched(index, self.matrix()[index])

    def product(self, x: Tensor, activations: str) -> Tensor:
        """x (..., columns) float -> (..., rows), in the way `activations` says."""
        if self.observer is not None:
            self.observer(x.reshape(-1, x.shape[-1]))
        return self.watched(x, F.linear(x, self.matrix()))

    def watched(self, x: Tensor, out: Tensor) -> Tensor:
        """A result, after the watcher has seen it."""
        return out if self.watcher is None else self.watcher(x, out)


class IntegerWeight(LaidOut, FloatWeight):
    """codes (rows, columns) int8; scale (rows or 1, groups) float32; zero_point int8 like scale, or None."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None

    def __init__(self, weight: QuantizedWeight) -> None:
        nn.Module.__init__(self)
        self.register_buffer("codes", weight.codes)
        self.register_buffer("scale", weight.scale.float())
        self.register_buffer("zero_point", weight.zero_point)
        self.num_bits = weight.num_bits
        self.granularity = weight.granularity
        self.shape = weight.shape

    def dequantize(self) -> Tensor:
        """The float32 weight in its own shape."""
        return dequantize(self.codes, self.scale, self.zero_point).reshape(self.shape)

    def rows(self, index: Tensor) -> Tensor:
        """Rows of the weight by number: index (...) -> float32 (..., columns)."""
        flat = index.reshape(-1)
        codes, zero_point = self.codes[flat], self.zero_point
        scale = self.scale if self.scale.shape[0] == 1 else self.scale[flat]
        if zero_point is not None and zero_point.shape[0] > 1:
            zero_point = zero_point[flat]
        return dequantize(codes, scale, zero_point).reshape(*index.shape, codes.shape[1])

    def panels(self, rows: slice) -> PanelWeight:
        """These rows as the kernels read them."""

        def make() -> PanelWeight:
            scale, zero_point = self.scale, self.zero_point
            scale = scale if scale.shape[0] == 1 else scale[rows]
            zero_point = zero_point if zero_point is None or zero_point.shape[0] == 1 else zero_point[rows]
            return PanelWeight(self.codes[rows], scale, zero_point, None)

        return self.laid_out((rows.start, rows.stop), make)

    @property
    def fits_kernels(self) -> bool:
        """Whether kernels/ can multiply by it."""
        return self.codes.is_cpu and fits(self.codes.shape[1], self.scale.shape[1])

    def integer_product(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """x (..., columns) float -> (..., rows) float, multiplied on integers.

        One int32 product per group of columns, less zero point x the sum of the activations' codes;
        floats only rescale the sums. `rows` takes a part of the weight, as a grouped convolution does.
        """
        if self.fits_kernels and usable(x) and x.numel() and x.shape[-1] == self.codes.shape[1]:
            panels = self.panels(rows)
            return linear(panels, x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], panels.shape[0])
        weight, zero_point = self.codes[rows], self.zero_point
        scale = self.scale if self.scale.shape[0] == 1 else self.scale[rows]
        if zero_point is not None and zero_point.shape[0] > 1:
            zero_point = zero_point[rows]
        codes, token_scale = quantize_tokens(x.reshape(-1, x.shape[-1]))
        groups, size = scale.shape[1], weight.shape[1] // scale.shape[1]
        total = x.new_zeros(())
        for group in range(groups):
            columns = slice(group * size, (group + 1) * size)
            sums = int_matmul(codes[:, columns], weight[:, columns])
            if zero_point is not None:
                token_sums = codes[:, columns].sum(dim=-1, keepdim=True, dtype=torch.int32)
                sums = sums - token_sums * zero_point[:, group].to(torch.int32)
            total = total + sums.float() * scale[:, group]
        return (total * token_scale).reshape(*x.shape[:-1], weight.shape[0])

    def product(self, x: Tensor, activations: str) -> Tensor:
        """x (..., columns) float -> (..., rows), in the way `activations` says."""
        return self.integer_product(x) if activations == "int8" else super().product(x, activations)

    def constants(self, bias: Tensor | None, input_grid: Grid | None, grid: Grid | None) -> FixedWeight | None:
        """The constants of a product on static grids; None where a grid is."""
        if input_grid is None or grid is None:
            return None
        return fix_weight(self.codes, self.scale, self.zero_point, bias, input_grid, grid)

    def extra_repr(self) -> str:
        """What `print(module)` shows."""
        return f"shape={self.shape}, num_bits={self.num_bits}, granularity={self.granularity}"


def apply_weight(
    weight: FloatWeight, x: Tensor, bias: Tensor | None, activations: str, fixed: FixedWeight | None, kinds: tuple[str, str] = ("in", "out")
) -> Tensor:  # fmt: skip
    """x W^T + b for floats, observed floats and codes: x (..., columns) -> (..., rows). Passes the sites of `kinds`."""
    x = point(x, kinds[0])
    if isinstance(x, GridTensor):
        site = x.sites.next_site(kinds[1])
        if fixed is None or not isinstance(weight, IntegerWeight):
            x.sites.grid(site)  # says which site calibration missed
            raise ValueError(f"{site}: its constants were not made")
        codes = weight_product(x.payload.reshape(-1, x.shape[-1]), weight.codes, fixed)
        return grid_tensor(codes.reshape(*x.shape[:-1], codes.shape[1]), fixed.grid, x.sites)
    out = weight.product(as_float(x), activations)
    return passed(x, out if bias is None else out + bias, kinds[1])


def passed(x: Tensor, out: Tensor, kind: str) -> Tensor:
    """A float result, recorded at a site where x is observed."""
    return point(observed(out, x.sites), kind) if isinstance(x, Activation) else out


def as_bias(bias: Tensor | None) -> nn.Parameter | None:
    """A bias as a float32 parameter that is not trained."""
    return None if bias is None else nn.Parameter(bias.detach().float(), requires_grad=False)


def check_activations(activations: str) -> str:
    """`none` or `int8`. Anything else is a bug here: the command line has checked it."""
    if activations not in ("none", "int8"):
        raise ValueError(f"activations '{activations}'")
    return activations
