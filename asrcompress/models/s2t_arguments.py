"""Which arguments decide what Fairseq builds for s2t_transformer and s2t_conformer, and which values they may have.

Fairseq evaluates some string arguments as Python and loads files that others name. What comes out
of a checkpoint or an artifact is therefore never handed on: only the arguments below are, checked,
and everything else is Fairseq's default. Arguments that matter in training alone are left out;
those that would change the model in a way that is not supported are refused by name.
"""

from __future__ import annotations

import re
from typing import Any

from asrcompress.errors import AsrCompressError

LARGEST = 1_000_000
SIZES = (
    "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_layers", "encoder_attention_heads",
    "decoder_embed_dim", "decoder_ffn_embed_dim", "decoder_layers", "decoder_attention_heads",
    "decoder_input_dim", "decoder_output_dim", "conv_channels", "conv_out_channels", "input_channels",
    "input_feat_per_channel", "max_source_positions", "max_target_positions",
)  # fmt: skip
SWITCHES = (
    "encoder_normalize_before", "decoder_normalize_before", "no_decoder_final_norm", "decoder_learned_pos", "layernorm_embedding",
    "share_decoder_input_output_embed", "no_token_positional_embeddings", "no_scale_embedding", "no_cross_attention",
)  # fmt: skip
CHOICES = {
    "activation_fn": ("relu", "gelu", "gelu_fast", "gelu_accurate", "tanh", "linear"),
    "conv_version": ("s2t_transformer", "convtransformer"),
}
CONFORMER_SIZES = ("depthwise_conv_kernel_size",)
CONFORMER_CHOICES = {
    "attn_type": ("espnet", "fairseq", "None", ""),  # Fairseq takes every other word than espnet for its own attention
    "pos_enc_type": ("abs", "rel_pos", "rope"),
}
KERNEL_SIZES = re.compile(r"\d{1,3}(,\d{1,3}){0,9}")
REFUSED = (
    "adaptive_softmax_cutoff", "adaptive_input", "cross_self_attention", "encoder_xformers_att_config",
    "decoder_xformers_att_config", "scale_attn", "scale_fc", "scale_heads", "scale_resids", "encoder_layers_to_keep",
    "decoder_layers_to_keep", "char_inputs",
)  # fmt: skip


def check_arguments(where: str, given: dict[str, Any], family: str) -> dict[str, Any]:
    """The arguments of `given` that decide what is built, each of the type and range it must have.

    Args:
        where: the file, or what else holds the arguments, for messages.
        given: argument names to values, as Fairseq stores them.
        family: `s2t_transformer` or `s2t_conformer`.

    Raises:
        AsrCompressError: a value of another type or out of range, or an argument that is not supported; names `where`.
    """
    for name in REFUSED:
        if given.get(name):
            raise AsrCompressError(f"{where}: the argument {name} is set, which is not supported for {family}")
    is_conformer = family == "s2t_conformer"
    sizes = (*SIZES, *CONFORMER_SIZES) if is_conformer else SIZES
    choices = CHOICES | CONFORMER_CHOICES if is_conformer else CHOICES
    checked: dict[str, Any] = {}
    for name in (*sizes, *SWITCHES, *choices, "conv_kernel_sizes", "ctc_weight"):
        value = given.get(name)
        if value is None:
            continue
        if not _fits(name, value, choices):
            raise AsrCompressError(
                f"{where}: the argument {name} has the value {str(value)[:60]!r}, which no {family} has"
            )
        checked[name] = bool(value) if name in SWITCHES else value
    if "ctc_weight" in checked:  # any weight above 0 adds the same head
        checked["ctc_weight"] = 1.0 if checked["ctc_weight"] > 0 else 0.0
    if checked.get("pos_enc_type") == "rel_pos" and checked.get("attn_type") != "espnet":
        raise AsrCompressError(
            f"{where}: has pos_enc_type rel_pos without attn_type espnet, which Fairseq itself cannot run; "
            "give the arguments that the model was trained with"
        )
    return checked


def _fits(name: str, value: Any, choices: dict[str, tuple[str, ...]]) -> bool:
    if name == "depthwise_conv_kernel_size" and type(value) is int and value % 2 == 0:
        return False  # its padding keeps the length for odd kernels only
    if name in SIZES or name in CONFORMER_SIZES:
        return type(value) is int and 1 <= value <= LARGEST
    if name in SWITCHES:
        return type(value) in (bool, int) and value in (0, 1)
    if name in choices:
        return value in choices[name]
    if name == "conv_kernel_sizes":
        return isinstance(value, str) and KERNEL_SIZES.fullmatch(value) is not None
    return type(value) in (int, float) and 0 <= value <= LARGEST
