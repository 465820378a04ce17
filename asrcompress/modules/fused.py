"""Fairseq's transformer layers with int8 products, run whole by the kernels.

A layer whose parts are all there keeps its modules, names and state; only its class changes, to one whose forward hands the
whole layer to kernels/. Where the kernels cannot be used (no library, CUDA, a trace of operators), Fairseq's own forward
runs, over the same integer modules.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asrcompress.kernels.attention import fits_width
from asrcompress.kernels.call import usable
from asrcompress.kernels.layers import EncoderWeights, Scratch, WholeLayer
from asrcompress.kernels.weights import PanelWeight, stack
from asrcompress.modules.attention import IntegerMultiheadAttention
from asrcompress.modules.laid_out import LaidOut
from asrcompress.modules.linear import IntegerLinear
from asrcompress.modules.twins import PROJECTIONS, forward_class
from asrcompress.modules.weight import IntegerWeight

ENCODER_LAYER = "fairseq.modules.transformer_layer.TransformerEncoderLayerBase"


def fuse(model: nn.Module) -> int:
    """Change the class of every layer that can be run whole; how many there were."""
    count = 0
    for module in list(model.modules()):
        if _is_encoder_layer(module):
            base: Any = type(module)
            module.__class__ = fused_encoder_layer(base)
            count += 1
    return count


def _is_encoder_layer(module: Any) -> bool:
    if forward_class(module) != ENCODER_LAYER or not isinstance(module.self_attn, IntegerMultiheadAttention):
        return False
    attention: Any = module.self_attn
    norms = (module.self_attn_layer_norm, module.final_layer_norm)
    inputs = (attention.q_proj, attention.k_proj, attention.v_proj)
    return (
        all(fits(linear) for linear in (*inputs, attention.out_proj, module.fc1, module.fc2))
        and len({linear.packed.scale.size(1) for linear in inputs}) == 1
        and fits_width(attention.head_dim)
        and module.activation_fn in (F.relu, torch.relu)
        and all(type(norm) is nn.LayerNorm and norm.bias is not None for norm in norms)
        and not module.return_fc
    )


def fits(linear: Any) -> bool:
    """Whether a module is a packed product with int8 activations that the kernels can do."""
    return (
        isinstance(linear, IntegerLinear)
        and isinstance(linear.packed, IntegerWeight)
        and linear.activations == "int8"
        and linear.packed.fits_kernels
    )


def parts(owner: Any, *names: str) -> list[Any]:
    """The packed weights and biases of some modules: what is laid out of them depends on these."""
    linears = [getattr(owner, name) for name in names]
    return [part for linear in linears for part in (linear.packed, linear.bias)]


def norm_tensors(*norms: Any) -> list[Tensor]:
    """The parameters of layer norms, which kernels read where they lie."""
    return [tensor for norm in norms if norm is not None for tensor in (norm.weight, norm.bias)]


def panel(linear: Any) -> PanelWeight:
    """A module's weight and bias for the kernels."""
    packed = linear.packed
    return PanelWeight(packed.codes, packed.scale, packed.zero_point, linear.bias)


def stacked(*linears: Any) -> PanelWeight:
    """Several modules over the same input as one weight."""
    return stack(
        [(linear.packed.codes, linear.packed.scale, linear.packed.zero_point, linear.bias) for linear in linears]
    )


def _encoder_weights(layer: Any) -> EncoderWeights:
    attention = layer.self_attn
    return EncoderWeights(
        qkv=stacked(attention.q_proj, attention.k_proj, attention.v_proj), out=panel(attention.out_proj),
        fc1=panel(layer.fc1), fc2=panel(layer.fc2),
        attention_norm=layer.self_attn_layer_norm, ffn_norm=layer.final_layer_norm,
        num_heads=attention.num_heads, pre_norm=layer.normalize_before,
    )  # fmt: skip


@cache
def fused_encoder_layer(base: Any) -> Any:
    """A subclass of Fairseq's layer that runs whole."""
    kept: Any = LaidOut

    class FusedEncoderLayer(kept, base):  # type: ignore[misc,unused-ignore]
        def forward(self, x: Tensor, encoder_padding_mask: Tensor | None, attn_mask: Tensor | None = None) -> Any:
            """x (time, batch, dim), encoder_padding_mask (batch, time) -> (time, batch, dim)."""
            if (
                attn_mask is not None
                or self.training
                or not usable(x)
                or x.shape[-1] != self.embed_dim
                or not x.numel()
            ):
                return super().forward(x, encoder_padding_mask, attn_mask)
            norms = (self.self_attn_layer_norm, self.final_layer_norm)
            sources = (*parts(self.self_attn, *PROJECTIONS), *parts(self, "fc1", "fc2"), *norm_tensors(*norms))
            whole: WholeLayer = self.laid_out("whole", lambda: WholeLayer(_encoder_weights(self)), *sources)
            return whole(x.contiguous().clone(), _scratch(x, encoder_padding_mask))

    FusedEncoderLayer.__name__ = FusedEncoderLayer.__qualname__ = f"Fused{base.__name__}"
    return FusedEncoderLayer


class _Last(threading.local):
    """What the last layer of this thread ran with."""

    scratch: Scratch | None = None


_last = _Last()


def _scratch(x: Tensor, padding: Tensor | None) -> Scratch:
    """The scratch of the last layer that ran, when this one has the same shape and padding."""
    found = _last.scratch
    if found is None or found.shape != tuple(x.shape) or not found.is_for(padding):
        found = _last.scratch = Scratch(x, padding)
    return found
