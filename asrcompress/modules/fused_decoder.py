"""Fairseq's transformer decoder with int8 products: each step of a beam search in one call of the kernels.

As fused.py's encoder layers: modules, names and state stay, the class changes, and Fairseq's own forward runs where the
kernels cannot. The encoder's output is not copied for every hypothesis: a table of rows goes along with it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asrcompress.kernels.attention import fits_width
from asrcompress.kernels.call import usable
from asrcompress.kernels.decoder import DecoderLayerWeights, DecoderMemory, DecoderWeights
from asrcompress.modules.attention import IntegerMultiheadAttention
from asrcompress.modules.fused import fits, norm_tensors, panel, parts, stacked
from asrcompress.modules.laid_out import LaidOut
from asrcompress.modules.twins import PROJECTIONS, forward_class

DECODER = "fairseq.models.transformer.transformer_decoder.TransformerDecoderBase"
DECODER_LAYER = "fairseq.modules.transformer_layer.TransformerDecoderLayerBase"
MEMORY, ROWS = "fused_memory", "fused_rows"


def fuse_decoder(model: nn.Module) -> bool:
    """Change the class of the model's decoder if all of it can be run by the kernels."""
    decoder: Any = getattr(model, "decoder", None)
    if decoder is None or not _fits(decoder):
        return False
    for module, subclass in ((decoder, fused_decoder), (model.encoder, lazy_encoder)):
        base: Any = type(module)
        module.__class__ = subclass(base)
    return True


def _fits(decoder: Any) -> bool:
    if forward_class(decoder) != DECODER or not len(decoder.layers):
        return False
    plain = (
        decoder.adaptive_softmax is None and not decoder.cross_self_attention and decoder.project_out_dim is None
        and decoder.quant_noise is None and fits(decoder.output_projection) and _is_norm(decoder.layer_norm, optional=True)
    )  # fmt: skip
    shapes = {
        (layer.self_attn.num_heads, layer.encoder_attn.num_heads, layer.embed_dim, layer.normalize_before)
        for layer in decoder.layers
        if _layer_fits(layer)
    }
    if not plain or len(shapes) != 1 or not all(_layer_fits(layer) for layer in decoder.layers):
        return False
    heads, cross_heads, dim, _ = shapes.pop()
    return heads == cross_heads and dim % heads == 0 and fits_width(dim // heads)


def _layer_fits(layer: Any) -> bool:
    if forward_class(layer) != DECODER_LAYER:
        return False
    attentions = (layer.self_attn, layer.encoder_attn)
    if not all(isinstance(attention, IntegerMultiheadAttention) for attention in attentions):
        return False
    projections = [
        getattr(attention, name) for attention in attentions for name in ("q_proj", "k_proj", "v_proj", "out_proj")
    ]
    return (
        all(fits(linear) for linear in (*projections, layer.fc1, layer.fc2))
        and len({linear.packed.scale.size(1) for linear in projections[:3]}) == 1
        and len({linear.packed.scale.size(1) for linear in projections[5:7]}) == 1
        and layer.activation_fn in (F.relu, torch.relu)
        and all(
            _is_norm(norm)
            for norm in (layer.self_attn_layer_norm, layer.encoder_attn_layer_norm, layer.final_layer_norm)
        )
        and not any(
            getattr(layer, name, None) is not None for name in ("attn_ln", "ffn_layernorm", "w_resid", "c_attn")
        )
    )


def _is_norm(norm: Any, *, optional: bool = False) -> bool:
    return (optional and norm is None) or (type(norm) is nn.LayerNorm and norm.bias is not None)


def _weights(decoder: Any) -> DecoderWeights:
    layers = [
        DecoderLayerWeights(
            self_norm=layer.self_attn_layer_norm, cross_norm=layer.encoder_attn_layer_norm, ffn_norm=layer.final_layer_norm,
            qkv=stacked(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
            out=panel(layer.self_attn.out_proj), cross_q=panel(layer.encoder_attn.q_proj),
            cross_kv=stacked(layer.encoder_attn.k_proj, layer.encoder_attn.v_proj),
            cross_out=panel(layer.encoder_attn.out_proj), fc1=panel(layer.fc1), fc2=panel(layer.fc2),
        )
        for layer in decoder.layers
    ]  # fmt: skip
    first = decoder.layers[0]
    output = panel(decoder.output_projection)
    return DecoderWeights(layers, decoder.layer_norm, output, first.self_attn.num_heads, first.normalize_before)


def _sources(decoder: Any) -> list[Any]:
    """What the laid out decoder depends on."""
    found = [*parts(decoder, "output_projection"), *norm_tensors(decoder.layer_norm)]
    for layer in decoder.layers:
        found += [
            *parts(layer.self_attn, *PROJECTIONS),
            *parts(layer.encoder_attn, *PROJECTIONS),
            *parts(layer, "fc1", "fc2"),
        ]
        found += norm_tensors(layer.self_attn_layer_norm, layer.encoder_attn_layer_norm, layer.final_layer_norm)
    return found


@cache
def fused_decoder(base: Any) -> Any:
    """A subclass of Fairseq's decoder whose steps of incremental decoding run whole."""
    kept: Any = LaidOut

    class FusedDecoder(kept, base):  # type: ignore[misc,unused-ignore]
        def forward(
            self, prev_output_tokens: Tensor, encoder_out: Any = None, incremental_state: Any = None, **options: Any
        ) -> Any:
            """prev_output_tokens (rows, so far) -> logits of the last token (rows, 1, vocabulary), and no attention weights."""
            memory = None if incremental_state is None else incremental_state.get(MEMORY)
            if memory is not None and any(options.values()):
                raise ValueError(f"a search that began without {', '.join(options)} cannot go on with them")
            if memory is None and (
                incremental_state is None
                or incremental_state
                or any(options.values())
                or not encoder_out
                or not usable(encoder_out["encoder_out"][0])
            ):
                return super().forward(prev_output_tokens, whole_output(encoder_out), incremental_state, **options)
            if memory is None:
                weights = self.laid_out("whole", lambda: _weights(self), *_sources(self))
                encoded, masks = encoder_out["encoder_out"][0], encoder_out["encoder_padding_mask"]
                rows = encoder_out.get(ROWS)
                memory = incremental_state[MEMORY] = DecoderMemory(
                    weights,
                    encoded,
                    masks[0] if masks else None,
                    torch.arange(encoded.shape[1]) if rows is None else rows,
                )
            logits = memory.advance(self._embed(prev_output_tokens, incremental_state))
            return logits.unsqueeze(1), {"attn": [None], "inner_states": None}

        def _embed(self, tokens: Tensor, incremental_state: Any) -> Tensor:
            """Fairseq's own way from tokens (rows, so far) to (rows, dim) of the last."""
            x = self.embed_scale * self.embed_tokens(tokens[:, -1:].contiguous())
            if self.project_in_dim is not None:
                x = self.project_in_dim(x)
            if self.embed_positions is not None:
                x = x + self.embed_positions(tokens, incremental_state=incremental_state)[:, -1:]
            if self.layernorm_embedding is not None:
                x = self.layernorm_embedding(x)
            return x.squeeze(1).contiguous()

        def reorder_incremental_state_scripting(self, incremental_state: Any, new_order: Tensor) -> None:
            """Follow the hypotheses that the search keeps: new_order (rows,)."""
            memory = incremental_state.get(MEMORY)
            if memory is None:
                super().reorder_incremental_state_scripting(incremental_state, new_order)
            else:
                memory.reorder(new_order)

    FusedDecoder.__name__ = FusedDecoder.__qualname__ = f"Fused{base.__name__}"
    return FusedDecoder


@cache
def lazy_encoder(base: Any) -> Any:
    """A subclass of Fairseq's encoder that does not copy its output for every hypothesis."""

    class LazyEncoder(base):  # type: ignore[misc,unused-ignore]
        def reorder_encoder_out(self, encoder_out: Any, new_order: Tensor) -> Any:
            """Which utterance each row is of goes along with the output, (keys, utterances, dim)."""
            rows = encoder_out.get(ROWS)
            return encoder_out | {ROWS: new_order if rows is None else rows[new_order]}

    LazyEncoder.__name__ = LazyEncoder.__qualname__ = f"Lazy{base.__name__}"
    return LazyEncoder


def whole_output(encoder_out: Any) -> Any:
    """The encoder's output with a row for every hypothesis, where it has a table instead."""
    if not encoder_out or ROWS not in encoder_out:
        return encoder_out
    rows = encoder_out[ROWS]
    return encoder_out | {
        "encoder_out": [tensor.index_select(1, rows) for tensor in encoder_out["encoder_out"]],
        "encoder_padding_mask": [tensor.index_select(0, rows) for tensor in encoder_out["encoder_padding_mask"]],
    }
