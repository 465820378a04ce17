"""The keyword spotter's additive attention on integers: the energies, and the weighted sum over time.

As in attention.py, each frame's scale is folded into its weight before the weights go to int8.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asrcompress.integers.matmul import int_bmm, quantize_tokens
from asrcompress.integers.softmax import softmax_sum
from asrcompress.integers.tensor import GridTensor, as_float, grid_tensor, point
from asrcompress.modules.linear import IntegerLinear
from asrcompress.modules.weight import check_activations, passed


class IntegerAdditiveAttention(nn.Module):
    """Replaces models.crnn.Attention: (batch, time, hidden) -> (batch, hidden)."""

    def __init__(self, hidden: IntegerLinear, score: IntegerLinear, *, activations: str = "none") -> None:
        super().__init__()
        self.energy = nn.Sequential(hidden, nn.Tanh(), score)  # the names of the float module
        self.activations = check_activations(activations)

    def forward(self, frames: Tensor, energies: Tensor | None = None) -> Tensor:
        """(batch, time, hidden) -> (batch, hidden): frames summed, weighted by a softmax over time.

        `energies` (batch, time, 1) are given where they are known already.
        """
        energies, values = self.energy(frames) if energies is None else energies, point(frames, "v")
        if isinstance(energies, GridTensor) and isinstance(values, GridTensor):
            grid = energies.sites.grid(energies.sites.next_site("attended"))
            scores = energies.payload.to(torch.int64).transpose(1, 2)
            num_bits = energies.sites.operand_bits(energies.sites.next_site("softmax"))
            codes = softmax_sum(scores, energies.grid.scale, values.payload, values.grid.scale, grid, num_bits)
            return grid_tensor(codes.squeeze(1), grid, energies.sites)
        weights = torch.softmax(as_float(energies), dim=-2).transpose(1, 2)
        weights = as_float(passed(frames, weights, "softmax"))
        return passed(frames, self._weighted_sum(weights, as_float(values)), "attended")

    def _weighted_sum(self, weights: Tensor, frames: Tensor) -> Tensor:
        """(batch, 1, time) x (batch, time, hidden) -> (batch, hidden)."""
        if self.activations == "none":
            return (weights @ frames).squeeze(1)
        frame_codes, frame_scale = quantize_tokens(frames)
        weight_codes, weight_scale = quantize_tokens(weights * frame_scale.transpose(1, 2))
        sums = int_bmm(weight_codes, frame_codes.transpose(1, 2))
        return (sums.float() * weight_scale).squeeze(1)
