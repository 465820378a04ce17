"""Integer versions of Conv1d and Conv2d.

On integers a convolution is one product over patches (im2col): each output position's patch is a
token with a scale of its own. Grouped convolutions are split by group. Transposed ones are not here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asrcompress.grids import QuantizedWeight
from asrcompress.modules.weight import IntegerWeight, as_bias, check_activations


class IntegerConv(nn.Module):
    """Convolution over 1 or 2 dimensions with packed weight (out, in / groups, *kernel)."""

    def __init__(self, conv: nn.Conv1d | nn.Conv2d, weight: QuantizedWeight, *, activations: str = "none") -> None:
        super().__init__()
        self.packed = IntegerWeight(weight)
        self.bias = as_bias(conv.bias)
        self.activations = check_activations(activations)
        self.stride, self.dilation, self.groups = conv.stride, conv.dilation, conv.groups
        self.kernel_size, self.padding_mode = conv.kernel_size, conv.padding_mode
        # F.pad's order (last dimension first); also holds what padding="same" means.
        self.padding = list(conv._reversed_padding_repeated_twice)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, in, *size) -> (batch, out, *size_out)."""
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        x = F.pad(x, self.padding, mode=mode)
        if self.activations == "none":
            convolve = F.conv1d if len(self.kernel_size) == 1 else F.conv2d
            return convolve(x, self.packed.dequantize(), self.bias, self.stride, 0, self.dilation, self.groups)
        patches = self._patches(x)  # (batch, *size_out, in, *kernel)
        spatial = patches.shape[: 1 + len(self.kernel_size)]
        out = self._grouped_product(patches.reshape(*spatial, self.groups, -1))
        if self.bias is not None:
            out = out + self.bias
        return out.movedim(-1, 1)

    def _patches(self, x: Tensor) -> Tensor:
        """Every output position's input window, as strided views: (batch, *size_out, in, *kernel)."""
        dims = len(self.kernel_size)
        for axis in range(dims):
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            x = x.unfold(2 + axis, reach, self.stride[axis])[..., :: self.dilation[axis]]
        return x.movedim(1, 1 + dims)

    def _grouped_product(self, patches: Tensor) -> Tensor:
        """patches (batch, *size_out, groups, columns) -> (batch, *size_out, out)."""
        if self.groups == 1:
            return self.packed.integer_product(patches.squeeze(-2))
        rows = self.packed.codes.shape[0] // self.groups
        outputs = []
        for group in range(self.groups):
            outputs.append(
                self.packed.integer_product(patches[..., group, :], rows=slice(group * rows, (group + 1) * rows))
            )
        return torch.cat(outputs, dim=-1)
