"""Rotary positions at level integer-only: sines and cosines as tables of 16-bit codes, made before the model runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.modules.positions import _Table

MAX_FRAMES = 4096  # of the encoder: 2.7 minutes of speech at 25 frames a second


class IntegerRotary(nn.Module):
    """Replaces Fairseq's RotaryPositionalEmbedding, which makes its tables as long as what it has met."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(MAX_FRAMES, device=module.inv_freq.device).float(), module.inv_freq.float())
        angles = torch.cat([angles, angles], dim=1)[:, None, None]  # (frames, 1, 1, head_dim)
        self.cos, self.sin = _Table(angles.cos()), _Table(angles.sin())

    def forward(self, x: Any, seq_len: int = 0) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the first `seq_len` frames, each (seq_len, 1, 1, head_dim)."""
        self.cos.require(seq_len, MAX_FRAMES)
        return self.cos.rows(slice(0, seq_len)), self.sin.rows(slice(0, seq_len))
