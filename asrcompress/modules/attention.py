"""Multi-head attention on integers, as a whole.

Fairseq's own attention hands its projections' weights to a fused function and never calls their
forward outside incremental decoding, so swapping the projections alone leaves the encoder in float
(REFERENCE, trap 1). This module replaces all of it: four projections and two products. It keeps
Fairseq's call signature and its incremental state, so Fairseq's decoder and beam search drive it
unchanged. bias_k/bias_v, add_zero_attn and head pruning are not here; swap.py refuses them.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from asrcompress.integers.tensor import point
from asrcompress.modules.attend import attend, extend
from asrcompress.modules.linear import IntegerLinear
from asrcompress.modules.weight import check_activations

State = dict[str, dict[str, Any]]  # attention's cache by instance: tensors or None
_instance_numbers = itertools.count()


class IntegerMultiheadAttention(nn.Module):
    """Attention with packed q, k, v and out projections.

    The two products are attend.py's. The cache of incremental decoding holds keys and values as they are
    multiplied: at level integer-only, int8 codes.
    """

    def __init__(
        self,
        projections: dict[str, IntegerLinear],
        *,
        num_heads: int,
        self_attention: bool,
        encoder_decoder_attention: bool,
        activations: str = "none",
    ) -> None:
        super().__init__()
        self.q_proj, self.k_proj = projections["q_proj"], projections["k_proj"]
        self.v_proj, self.out_proj = projections["v_proj"], projections["out_proj"]
        self.activations = check_activations(activations)
        self.embed_dim, self.num_heads = self.q_proj.out_features, num_heads
        self.head_dim = self.embed_dim // num_heads
        self.self_attention = self_attention
        self.encoder_decoder_attention = encoder_decoder_attention
        self._state_key = f"integer_attention.{next(_instance_numbers)}"

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None = None,
        incremental_state: State | None = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Tensor | None = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Shapes as Fairseq's: query (tgt, batch, dim), key and value (src, batch, dim), or None
        when static keys are cached; key_padding_mask (batch, src), True = padding; attn_mask
        (tgt, src), additive, or bool, True = left out. Returns (tgt, batch, dim) and the weights: (batch, tgt, src), or
        (heads, batch, tgt, src) with need_head_weights; None at level integer-only.
        """
        if before_softmax:
            raise ValueError("before_softmax is not supported")
        tgt_len, batch, _ = query.shape
        cached = self._get_input_buffer(incremental_state)
        q = point(self._heads(self.q_proj(query) * self.head_dim**-0.5), "q")
        if static_kv and "prev_key" in cached:
            k, v = cached["prev_key"], cached["prev_value"]
            key_padding_mask = cached.get("prev_key_padding_mask")
        else:
            source = query if self.self_attention else key
            k = point(self._heads(self.k_proj(source)), "k")
            v = point(self._heads(self.v_proj(query if self.self_attention else value)), "v")
            if "prev_key" in cached:  # cached as they are multiplied: int8 codes at level integer-only
                k, v = extend(cached["prev_key"], k), extend(cached["prev_value"], v)
                key_padding_mask = self._grown_mask(cached.get("prev_key_padding_mask"), key_padding_mask, k)
        if incremental_state is not None:
            state = {"prev_key": k, "prev_value": v, "prev_key_padding_mask": key_padding_mask}
            self._set_input_buffer(incremental_state, state)

        out, weights = attend(
            q, k, v, activations=self.activations, added=attn_mask, padding=key_padding_mask,
            needs_weights=need_weights or need_head_weights,
        )  # fmt: skip
        out = self.out_proj(out.permute(2, 0, 1, 3).reshape(tgt_len, batch, self.embed_dim))
        if weights is None:  # on integers weights are not normalised before the product
            return out, None
        if need_head_weights:
            return out, weights.transpose(0, 1)
        return out, weights.mean(dim=1) if need_weights else None

    def _heads(self, x: Tensor) -> Tensor:
        """(time, batch, dim) -> (batch, heads, time, head_dim)."""
        return x.reshape(x.shape[0], x.shape[1], self.num_heads, self.head_dim).permute(1, 2, 0, 3)

    @staticmethod
    def _grown_mask(previous: Tensor | None, current: Tensor | None, k: Tensor) -> Tensor | None:
        """The padding mask over cached and new keys; a side without a mask has no padding."""
        if previous is None and current is None:
            return None
        batch, length = k.shape[0], k.shape[2]
        if current is not None and current.shape[1] == length:
            return current.bool()
        sides = [previous, current]
        known = sum(side.shape[1] for side in sides if side is not None)
        none = k.new_zeros((batch, length - known), dtype=torch.bool)
        return torch.cat([none if side is None else side.bool() for side in sides], dim=1)

    # Fairseq's decoder and beam search call the following by name.

    def _get_input_buffer(self, incremental_state: State | None) -> dict[str, Any]:
        return {} if incremental_state is None else incremental_state.get(self._state_key, {})

    def _set_input_buffer(self, incremental_state: State, buffer: dict[str, Any]) -> State:
        incremental_state[self._state_key] = buffer
        return incremental_state

    def reorder_incremental_state(self, incremental_state: State, new_order: Tensor) -> State:
        """Follow the hypotheses that beam search keeps: new_order (batch * beam,) row numbers."""
        buffer = self._get_input_buffer(incremental_state)
        for name, cached in buffer.items():
            if cached is not None:
                if self.encoder_decoder_attention and cached.shape[0] == new_order.shape[0]:
                    break  # every hypothesis of an utterance has the same encoder output
                buffer[name] = cached.index_select(0, new_order)
        return incremental_state

    def set_beam_size(self, beam_size: int) -> None:
        """Fairseq announces the beam here to share encoder keys between hypotheses; not used."""
