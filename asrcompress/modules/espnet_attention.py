"""ESPnet's self-attention as Fairseq's conformers have it, on integers: absolute, relative or rotary positions.

Like attention.py it replaces the whole module, since Fairseq's forward multiplies queries and keys itself. Relative
positions (Transformer-XL, arXiv 1901.02860) add the scores of a second product, of queries with projected distances;
rotary ones (RoFormer, arXiv 2104.09864) turn the inputs before the projections, as Fairseq does it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asrcompress.integers.crossing import enter_integers
from asrcompress.integers.grid import Grid
from asrcompress.integers.tensor import GridTensor, grid_tensor, point, same_grid
from asrcompress.modules.attend import attend, scores_product
from asrcompress.modules.linear import IntegerLinear
from asrcompress.modules.weight import as_bias, check_activations

PROJECTIONS = ("linear_q", "linear_k", "linear_v", "linear_out")


class IntegerEspnetAttention(nn.Module):
    """Replaces ESPNETMultiHeadedAttention: packed projections, two products; positions are in the input."""

    def __init__(self, projections: dict[str, IntegerLinear], *, num_heads: int, activations: str = "none") -> None:
        super().__init__()
        for name, projection in projections.items():
            self.add_module(name, projection)
        self.activations = check_activations(activations)
        self.num_heads = num_heads
        self.head_dim = projections["linear_q"].out_features // num_heads

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, None]:
        """query, key, value (time, batch, dim); key_padding_mask (batch, time), True = padding. Returns (time, batch, dim)."""
        q = point(self.heads("linear_q", query) * self.head_dim**-0.5, "q")
        return self.finish(q, self.heads("linear_k", key), self.heads("linear_v", value), key_padding_mask), None

    def heads(self, name: str, x: Tensor) -> Tensor:
        """A projection of (time, batch, dim) -> (batch, heads, time, head_dim)."""
        x = self.get_submodule(name)(x)
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, self.head_dim).permute(1, 2, 0, 3)

    def finish(self, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None, extra: Tensor | None = None) -> Tensor:
        """Scores, softmax, sum of values and the last projection: (batch, heads, time, head_dim) -> (time, batch, dim)."""
        k, v = point(k, "k"), point(v, "v")
        out, _ = attend(q, k, v, activations=self.activations, padding=padding, extra_scores=extra, needs_weights=False)
        out = out.permute(2, 0, 1, 3).reshape(q.shape[2], q.shape[0], self.num_heads * self.head_dim)
        projected: Tensor = self.get_submodule("linear_out")(out)
        return projected


class IntegerRelativeAttention(IntegerEspnetAttention):
    """Replaces RelPositionMultiHeadedAttention: queries meet keys and, with another bias, projected distances."""

    def __init__(
        self, projections: dict[str, IntegerLinear], biases: dict[str, Tensor], *, num_heads: int, activations: str = "none"
    ) -> None:  # fmt: skip
        """projections: with linear_pos; biases: pos_bias_u and pos_bias_v, (heads, head_dim)."""
        super().__init__(projections, num_heads=num_heads, activations=activations)
        self.query_biases = nn.ModuleDict({name: _QueryBias(bias) for name, bias in biases.items()})

    def forward(  # type: ignore[override]
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        pos_emb: Tensor,
        key_padding_mask: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """As the base's; pos_emb (2 time - 1, 1, dim), from the farthest left to the farthest right."""
        q = self.heads("linear_q", query)
        with_keys = point(self.query_biases["pos_bias_u"](q) * self.head_dim**-0.5, "q")
        with_distances = point(self.query_biases["pos_bias_v"](q) * self.head_dim**-0.5, "q")
        distances = point(self.heads("linear_pos", pos_emb), "operand").expand(q.shape[0], -1, -1, -1)
        shifted = _shift(scores_product(with_distances, distances, self.activations, "distances"))
        k, v = self.heads("linear_k", key), self.heads("linear_v", value)
        return self.finish(with_keys, k, v, key_padding_mask, shifted), None


class _QueryBias(nn.Module):
    """Adds a bias to each head's queries; on integers, 16-bit codes of a grid of its own."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = as_bias(bias)
        self.grid = Grid.of_range(float(bias.min()), float(bias.max()), 16)
        codes = enter_integers(bias.detach().float(), self.grid.scale, 0, 16)
        self.register_buffer("entries", codes.unsqueeze(1), persistent=False)

    def forward(self, q: Tensor) -> Tensor:
        """q (batch, heads, time, head_dim) -> the same, biased."""
        if isinstance(q, GridTensor):
            return q + grid_tensor(self.entries, self.grid, q.sites)  # type: ignore[arg-type]
        return q + self.bias.unsqueeze(1)  # type: ignore[union-attr]


def _shift(scores: Tensor) -> Tensor:
    """Scores by distance (batch, heads, time, 2 time - 1) -> by key (batch, heads, time, time).

    Query i and key j are j - i apart: column time - 1 - i + j. One padded column turns rows into diagonals.
    """
    batch, heads, length, num_distances = scores.shape
    rows = F.pad(scores, (1, 0)).reshape(batch, heads, num_distances + 1, length)
    return rows[:, :, 1:].reshape(batch, heads, length, num_distances)[..., :length]


class IntegerRotaryAttention(IntegerEspnetAttention):
    """Replaces RotaryPositionMultiHeadedAttention: what queries and keys are projected from is turned by its position."""

    def __init__(
        self, projections: dict[str, IntegerLinear], rotary: nn.Module, *, num_heads: int, activations: str = "none"
    ) -> None:  # fmt: skip
        """rotary: Fairseq's RotaryPositionalEmbedding, whose twin at level integer-only is IntegerRotary."""
        super().__init__(projections, num_heads=num_heads, activations=activations)
        self.rotary_emb = rotary

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None, **_: Any
    ) -> tuple[Tensor, None]:
        """As the base's; self-attention alone: the key is the query."""
        turned = self._turn(query)
        return super().forward(turned, turned, value, key_padding_mask)

    def _turn(self, x: Tensor) -> Tensor:
        """x cos + (the halves of each head exchanged, one negated) sin: (time, batch, dim) -> the same shape."""
        length, batch, dim = x.shape
        split = x.reshape(length, batch, self.num_heads, self.head_dim)
        cos, sin = self.rotary_emb(split, seq_len=length)
        first, second = split.chunk(2, dim=-1)
        exchanged = same_grid(torch.cat, [-second, first], -1)
        return (split * cos[:length] + exchanged * sin[:length]).reshape(length, batch, dim)
