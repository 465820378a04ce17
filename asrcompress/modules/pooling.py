"""The keyword spotter's additive attention on integers: the energies, and the weighted sum over time.

As in attention.py, each frame's scale is folded into its weight before the weights go to int8.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asrcompress.integers.matmul import int_bmm, quantize_tokens
from asrcompress.modules.linear import IntegerLinear
from asrcompress.modules.weight import check_activations


class IntegerAdditiveAttention(nn.Module):
    """Replaces models.crnn.Attention: (batch, time, hidden) -> (batch, hidden)."""

    def __init__(self, hidden: IntegerLinear, score: IntegerLinear, *, activations: str = "none") -> None:
        super().__init__()
        self.energy = nn.Sequential(hidden, nn.Tanh(), score)  # the names of the float module
        self.activations = check_activations(activations)

    def forward(self, frames: Tensor) -> Tensor:
        """(batch, time, hidden) -> (batch, hidden): frames summed, weighted by a softmax over time."""
        weights = torch.softmax(self.energy(frames), dim=-2)
        if self.activations == "none":
            return (weights.transpose(1, 2) @ frames).squeeze(1)
        frame_codes, frame_scale = quantize_tokens(frames)
        weight_codes, weight_scale = quantize_tokens((weights * frame_scale).transpose(1, 2))
        sums = int_bmm(weight_codes, frame_codes.transpose(1, 2))
        return (sums.float() * weight_scale).squeeze(1)
