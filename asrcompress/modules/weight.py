"""A packed weight inside a module: integer codes and scales as buffers, and the two ways to multiply.

`activations="none"`: the weight is dequantized on the fly and the product runs in float (level
stored). `activations="int8"`: activations go to int8 per token and the product runs on integers
with int32 accumulation (level computed). There is no attribute `weight`: code that reaches past a
module's forward fails loudly instead of computing in float.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asrcompress.grids import QuantizedWeight, dequantize
from asrcompress.integers.matmul import int_matmul, quantize_tokens


class IntegerWeight(nn.Module):
    """codes (rows, columns) int8; scale (rows or 1, groups) float32; zero_point int8 like scale, or None."""

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None

    def __init__(self, weight: QuantizedWeight) -> None:
        super().__init__()
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

    def integer_product(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """x (..., columns) float -> (..., rows) float, multiplied on integers.

        One int32 product per group of columns, less zero point x the sum of the activations' codes;
        floats only rescale the sums. `rows` takes a part of the weight, as a grouped convolution does.
        """
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
        """x (..., columns) -> (..., rows), in the way `activations` says."""
        if activations == "int8":
            return self.integer_product(x)
        return F.linear(x, dequantize(self.codes, self.scale, self.zero_point))

    def extra_repr(self) -> str:
        """What `print(module)` shows."""
        return f"shape={self.shape}, num_bits={self.num_bits}, granularity={self.granularity}"


def as_bias(bias: Tensor | None) -> nn.Parameter | None:
    """A bias as a float32 parameter that is not trained."""
    return None if bias is None else nn.Parameter(bias.detach().float(), requires_grad=False)


def check_activations(activations: str) -> str:
    """`none` or `int8`. Anything else is a bug here: the command line has checked it."""
    if activations not in ("none", "int8"):
        raise ValueError(f"activations '{activations}'")
    return activations
