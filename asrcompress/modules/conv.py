"""Integer versions of Conv1d and Conv2d.

On integers a convolution is one product over patches (im2col): each output position's patch is a token, with a scale
of its own at level computed. Grouped convolutions multiply group by group. Transposed ones are not here.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asrcompress.integers.grid import Grid
from asrcompress.integers.matmul import int_bmm
from asrcompress.integers.products import FixedWeight, weight_product
from asrcompress.integers.rescale import shift_right, to_codes
from asrcompress.integers.tensor import GridTensor, as_float, grid_tensor, point
from asrcompress.kernels.call import usable
from asrcompress.kernels.convolution import DepthwiseWeight, WindowWeight
from asrcompress.modules.laid_out import LaidOut
from asrcompress.modules.weight import FloatWeight, GridOf, IntegerWeight, as_bias, check_activations, passed


class IntegerConv(LaidOut):
    """Convolution over 1 or 2 dimensions with packed weight (out, in / groups, *kernel)."""

    fixed: FixedWeight | None = None

    def __init__(self, conv: nn.Conv1d | nn.Conv2d, weight: FloatWeight, *, activations: str = "none") -> None:
        super().__init__()
        self.packed = weight
        self.bias = as_bias(conv.bias)
        self.activations = check_activations(activations)
        self.stride, self.dilation, self.groups = conv.stride, conv.dilation, conv.groups
        self.kernel_size, self.padding_mode = conv.kernel_size, conv.padding_mode
        # F.pad's order (last dimension first); also holds what padding="same" means.
        self.padding = list(conv._reversed_padding_repeated_twice)

    def fix(self, grid_of: GridOf) -> None:
        """Make the constants of the static grids."""
        if isinstance(self.packed, IntegerWeight):
            self.fixed = self.packed.constants(self.bias, grid_of("in"), grid_of("out"))

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, in, *size) -> (batch, out, *size_out)."""
        x = point(x, "in")
        if isinstance(x, GridTensor):
            site = x.sites.next_site("out")
            if self.fixed is None or not isinstance(self.packed, IntegerWeight):
                x.sites.grid(site)  # says which site calibration missed
                raise ValueError(f"{site}: its constants were not made")
            patches = self._grouped(self._patches(self._padded(x.payload, x.grid)))
            codes = static_product(patches, self.packed.codes, self.fixed)
            return grid_tensor(codes.movedim(-1, 1), self.fixed.grid, x.sites)
        return passed(x, self._float_or_dynamic(as_float(x)), "out")

    def _float_or_dynamic(self, x: Tensor) -> Tensor:
        x = self._padded(x, None)
        if self.packed.observer is not None:
            patches = self._grouped(self._patches(x))
            self.packed.observer(patches.reshape(-1, *patches.shape[-2:]))
        if self.activations == "none":
            convolve = F.conv1d if len(self.kernel_size) == 1 else F.conv2d
            out = convolve(x, self.packed.dequantize(), self.bias, self.stride, 0, self.dilation, self.groups)
            if self.packed.watcher is None:
                return out
            return self.packed.watched(self._grouped(self._patches(x)), out.movedim(1, -1)).movedim(-1, 1)
        if usable(x) and self._reaches(x) and (kernel := self._over_time()) is not None:
            return kernel(x)
        out = self._dynamic_product(self._grouped(self._patches(x)))
        if self.bias is not None:
            out = out + self.bias
        return out.movedim(-1, 1)

    def _reaches(self, x: Tensor) -> bool:
        """Whether there is an output of this input, (batch, in, time); torch says what is wrong where there is none."""
        reach = self.dilation[0] * (self.kernel_size[0] - 1) + 1
        return (
            x.dim() == 3 and x.numel() > 0 and x.shape[1] == self.packed.shape[1] * self.groups and x.shape[2] >= reach
        )

    def _over_time(self) -> WindowWeight | DepthwiseWeight | None:
        """The weight for the kernels, where it is over time alone and every output has one scale."""
        weight = self.packed
        if not isinstance(weight, IntegerWeight) or not weight.codes.is_cpu or len(self.kernel_size) != 1:
            return None
        outputs, channels = weight.shape[:2]
        if weight.scale.shape[1] != 1:
            return None
        scales, stride, dilation = (weight.scale, weight.zero_point, self.bias), self.stride[0], self.dilation[0]
        if self.groups == 1 and dilation == 1:
            codes = weight.codes.view(outputs, channels, -1)
            return self.laid_out("windows", lambda: WindowWeight(codes, *scales, stride=stride), weight, self.bias)
        if self.groups == outputs and channels == 1:
            return self.laid_out(
                "channels",
                lambda: DepthwiseWeight(weight.codes, *scales, stride=stride, dilation=dilation),
                weight,
                self.bias,
            )
        return None

    def _padded(self, x: Tensor, grid: Grid | None) -> Tensor:
        if self.padding_mode == "zeros":
            return F.pad(x, self.padding, value=grid.zero_point if grid else 0)
        return F.pad(x, self.padding, mode=self.padding_mode)

    def _patches(self, x: Tensor) -> Tensor:
        """Every output position's input window, as strided views: (batch, *size_out, in, *kernel)."""
        dims = len(self.kernel_size)
        for axis in range(dims):
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            x = x.unfold(2 + axis, reach, self.stride[axis])[..., :: self.dilation[axis]]
        return x.movedim(1, 1 + dims)

    def _grouped(self, patches: Tensor) -> Tensor:
        """(batch, *size_out, in, *kernel) -> (batch, *size_out, groups, columns)."""
        columns = math.prod(self.packed.shape[1:])
        return patches.reshape(*patches.shape[: 1 + len(self.kernel_size)], self.groups, columns)

    def _dynamic_product(self, patches: Tensor) -> Tensor:
        """patches (batch, *size_out, groups, columns) -> (batch, *size_out, out)."""
        if not isinstance(self.packed, IntegerWeight):
            raise ValueError("a weight in float is multiplied in float")
        if self.groups == 1:
            return self.packed.integer_product(patches.squeeze(-2))
        rows = self.packed.codes.shape[0] // self.groups
        outputs = []
        for group in range(self.groups):
            outputs.append(
                self.packed.integer_product(patches[..., group, :], rows=slice(group * rows, (group + 1) * rows))
            )
        return torch.cat(outputs, dim=-1)


def static_product(patches: Tensor, codes: Tensor, fixed: FixedWeight) -> Tensor:
    """patches (..., groups, columns) int8 times codes (rows, columns) -> (..., rows) codes of fixed.grid.

    Each group of columns meets its own rows / groups rows.
    """
    *leading, groups, columns = patches.shape
    tokens = patches.reshape(-1, groups, columns)
    if groups == 1:
        return weight_product(tokens[:, 0], codes, fixed).reshape(*leading, codes.shape[0])
    rows, scale_groups = fixed.multiplier.shape
    size = columns // scale_groups
    total = fixed.offset
    for part in range(scale_groups):
        span = slice(part * size, (part + 1) * size)
        left = tokens[:, :, span].transpose(0, 1)
        sums = int_bmm(left, codes[:, span].reshape(groups, rows // groups, size)).to(torch.int64)
        if fixed.weight_zero_point is not None:
            zero_point = fixed.weight_zero_point[:, part].reshape(groups, 1, rows // groups)
            sums = sums - left.sum(dim=-1, keepdim=True, dtype=torch.int64) * zero_point
        total = total + sums.transpose(0, 1).reshape(-1, rows) * fixed.multiplier[:, part]
    return to_codes(shift_right(total, fixed.shift), fixed.grid).reshape(*leading, rows)
