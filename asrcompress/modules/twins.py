"""Float module -> integer twin: one table, by qualified class name.

A module is matched by the class that its `forward` comes from, so a subclass of Linear that keeps
Linear's forward is found and one that overrides it is not taken for what it isn't. Names instead of
classes: Fairseq need not be imported to quantize a keyword spotter. Attention comes as a whole; its
projections are its own weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from asrcompress.errors import AsrCompressError
from asrcompress.modules.attention import IntegerMultiheadAttention
from asrcompress.modules.conv import IntegerConv
from asrcompress.modules.espnet_attention import PROJECTIONS as ESPNET_PROJECTIONS
from asrcompress.modules.espnet_attention import (
    IntegerEspnetAttention,
    IntegerRelativeAttention,
    IntegerRotaryAttention,
)
from asrcompress.modules.linear import IntegerEmbedding, IntegerLearnedPositions, IntegerLinear
from asrcompress.modules.norm import IntegerBatchNorm, IntegerGroupNorm, IntegerLayerNorm
from asrcompress.modules.pooling import IntegerAdditiveAttention
from asrcompress.modules.positions import IntegerRelativePositions, IntegerSinusoids
from asrcompress.modules.recurrent import IntegerGRU, IntegerLSTM
from asrcompress.modules.rotary import IntegerRotary
from asrcompress.modules.weight import FloatWeight

# `weights` holds, keyed by the parameter's name inside the module, what is swapped; Share gives its weight, one object for tied ones.
Weights = Mapping[str, Any]
Share = Callable[[str], FloatWeight]


@dataclass(frozen=True)
class Twin:
    """kind: what reports call it; weight_names(module): the parameters that can be packed;
    build(name, module, weights, share, activations): the integer module."""

    kind: str
    weight_names: Callable[[nn.Module], list[str]]
    build: Callable[[str, Any, Weights, Share, str], nn.Module]


PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def _linear(name: str, module: Any, weights: Weights, share: Share, activations: str) -> nn.Module:
    return IntegerLinear(share("weight"), module.bias, activations=activations)


def _embedding(name: str, module: Any, weights: Weights, share: Share, activations: str) -> nn.Module:
    if module.max_norm is not None:
        raise AsrCompressError(
            f"{name}: an embedding with max_norm changes its weights as it runs; --exclude '{name}.weight'"
        )
    return IntegerEmbedding(share("weight"), padding_idx=module.padding_idx)


def _conv(name: str, module: Any, weights: Weights, share: Share, activations: str) -> nn.Module:
    return IntegerConv(module, share("weight"), activations=activations)


def _learned_positions(name: str, module: Any, weights: Weights, share: Share, activations: str) -> nn.Module:
    return IntegerLearnedPositions(share("weight"), padding_idx=module.padding_idx)


def _recurrent_weights(module: Any) -> list[str]:
    return [name for name, _ in module.named_parameters(recurse=False) if name.startswith("weight_")]


def _recurrent(name: str, module: Any, weights: Weights, share: Share, activations: str) -> nn.Module:
    names = _recurrent_weights(module)
    _require_whole(name, f"a {type(module).__name__}", names, weights)
    if getattr(module, "proj_size", 0):
        raise AsrCompressError(f"{name}: an LSTM with projections is not supported; --exclude '{name}.*'")
    twin = IntegerGRU if module.mode == "GRU" else IntegerLSTM
    return twin(module, {weight: share(weight) for weight in names}, activations=activations)


def _attention(name: str, module: Any, weights: Weights, share: Share, activations: str) -> nn.Module:
    for attribute in ("bias_k", "bias_v"):
        if getattr(module, attribute, None) is not None:
            raise AsrCompressError(f"{name}: attention with {attribute} is not supported; --exclude '{name}.*'")
    if getattr(module, "add_zero_attn", False):
        raise AsrCompressError(f"{name}: attention with add_zero_attn is not supported; --exclude '{name}.*'")
    _require_whole(name, "attention", _projection_weights(module), weights)
    projections = {
        short: IntegerLinear(share(f"{short}.weight"), getattr(module, short).bias, activations=activations)
        for short in PROJECTIONS
    }
    return IntegerMultiheadAttention(
        projections,
        num_heads=module.num_heads,
        self_attention=module.self_attention,
        encoder_decoder_attention=module.encoder_decoder_attention,
        activations=activations,
    )


def _espnet_projections(module: Any) -> list[str]:
    return [f"{short}.weight" for short in (*ESPNET_PROJECTIONS, "linear_pos") if hasattr(module, short)]


def _espnet_attention(name: str, module: Any, weights: Weights, share: Share, activations: str) -> nn.Module:
    names = _espnet_projections(module)
    _require_whole(name, "attention", names, weights)
    if getattr(module, "zero_triu", False):
        raise AsrCompressError(f"{name}: attention with zero_triu is not supported; --exclude '{name}.*'")
    projections = {
        short: IntegerLinear(share(f"{short}.weight"), getattr(module, short).bias, activations=activations)
        for short in (weight.removesuffix(".weight") for weight in names)
    }
    if "linear_pos" in projections:
        biases = {short: getattr(module, short) for short in ("pos_bias_u", "pos_bias_v")}
        return IntegerRelativeAttention(projections, biases, num_heads=module.h, activations=activations)
    if hasattr(module, "rotary_emb"):
        return IntegerRotaryAttention(projections, module.rotary_emb, num_heads=module.h, activations=activations)
    return IntegerEspnetAttention(projections, num_heads=module.h, activations=activations)


ENERGIES = ("energy.0.weight", "energy.2.weight")


def _additive(name: str, module: Any, weights: Weights, share: Share, activations: str) -> nn.Module:
    _require_whole(name, "attention", ENERGIES, weights)
    first, last = module.get_submodule("energy.0"), module.get_submodule("energy.2")
    return IntegerAdditiveAttention(
        IntegerLinear(share(ENERGIES[0]), first.bias, activations=activations),
        IntegerLinear(share(ENERGIES[1]), last.bias, activations=activations),
        activations=activations,
    )


def _require_whole(name: str, kind: str, needed: Sequence[str], weights: Weights) -> None:
    """Some modules compute with all their weights in one step, so they are packed whole or not at all."""
    missing = [weight for weight in needed if weight not in weights]
    if missing:
        raise AsrCompressError(
            f"{name}: {kind} is packed whole or not at all, and {missing[0]} is left out; --exclude '{name}.*'"
        )


def _only_weight(module: nn.Module) -> list[str]:
    return ["weight"]


def _projection_weights(module: nn.Module) -> list[str]:
    return [f"{short}.weight" for short in PROJECTIONS]


TWINS = {
    "torch.nn.modules.linear.Linear": Twin("linear", _only_weight, _linear),
    "torch.nn.modules.sparse.Embedding": Twin("embedding", _only_weight, _embedding),
    "torch.nn.modules.conv.Conv1d": Twin("conv", _only_weight, _conv),
    "torch.nn.modules.conv.Conv2d": Twin("conv", _only_weight, _conv),
    "torch.nn.modules.rnn.GRU": Twin("gru", _recurrent_weights, _recurrent),
    "torch.nn.modules.rnn.LSTM": Twin("lstm", _recurrent_weights, _recurrent),
    "fairseq.modules.learned_positional_embedding.LearnedPositionalEmbedding": Twin(
        "embedding", _only_weight, _learned_positions
    ),
    "asrcompress.models.crnn.Attention": Twin("attention", lambda module: list(ENERGIES), _additive),
    "fairseq.modules.multihead_attention.MultiheadAttention": Twin("attention", _projection_weights, _attention),
    **{
        f"fairseq.modules.espnet_multihead_attention.{name}": Twin("attention", _espnet_projections, _espnet_attention)
        for name in (
            "ESPNETMultiHeadedAttention",
            "RelPositionMultiHeadedAttention",
            "RotaryPositionMultiHeadedAttention",
        )
    },
}


BATCH_NORMS = (
    "torch.nn.modules.batchnorm._BatchNorm",
    "torch.nn.modules.batchnorm.SyncBatchNorm",
    "torchvision.ops.misc.FrozenBatchNorm2d",
)
# Modules that hold nothing to pack, and compute in float: swapped at level integer-only alone.
STATIC_TWINS: dict[str, Callable[[Any], nn.Module]] = {
    "torch.nn.modules.normalization.LayerNorm": IntegerLayerNorm,
    "fairseq.modules.layer_norm.Fp32LayerNorm": IntegerLayerNorm,
    "torch.nn.modules.normalization.GroupNorm": IntegerGroupNorm,
    "fairseq.modules.fp32_group_norm.Fp32GroupNorm": IntegerGroupNorm,
    **dict.fromkeys(BATCH_NORMS, IntegerBatchNorm),
    "fairseq.modules.sinusoidal_positional_embedding.SinusoidalPositionalEmbedding": IntegerSinusoids,
    "fairseq.modules.positional_encoding.RelPositionalEncoding": IntegerRelativePositions,
    "fairseq.modules.rotary_positional_embedding.RotaryPositionalEmbedding": IntegerRotary,
}


# Modules that hand their children's weights to a function and have no twin: nothing inside of them is swapped.
OPAQUE = ("torch.nn.modules.activation.MultiheadAttention",)


def find_twin(module: nn.Module) -> Twin | None:
    """The twin of the class whose forward this module runs, or None."""
    return TWINS.get(forward_class(module))


def find_static_twin(module: nn.Module) -> Callable[[Any], nn.Module] | None:
    """What replaces a module without weights at level integer-only, or None."""
    return STATIC_TWINS.get(forward_class(module))


def forward_class(module: nn.Module) -> str:
    """The qualified name of the class whose forward a module runs."""
    for cls in type(module).__mro__:
        if "forward" in vars(cls):
            return f"{cls.__module__}.{cls.__qualname__}"
    return ""
