"""Students of Fairseq's speech-to-text transformer and conformer: which sizes they may have.

Features, vocabulary, kernel sizes, kinds of attention and positions stay the teacher's. A student has no CTC head: it is
for Fairseq's training alone, and would leave ours as it was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.models import ModelSpec, fairseq_adapter
from asrcompress.models.sizes import require_multiple, shrink_layers, shrink_width

# Option -> Fairseq's argument. What is given of the encoder holds for the decoder too, unless its own is given.
ENCODER = {
    "encoder_layers": "encoder_layers",
    "dim": "encoder_embed_dim",
    "ffn": "encoder_ffn_embed_dim",
    "heads": "encoder_attention_heads",
}
DECODER = {
    "decoder_layers": "decoder_layers",
    "decoder_dim": "decoder_embed_dim",
    "decoder_ffn": "decoder_ffn_embed_dim",
    "decoder_heads": "decoder_attention_heads",
}
NARROWEST = 4  # two frequencies of positions
STUDENT_OPTIONS = dict.fromkeys((*ENCODER, *DECODER, "conv_channels"), 1)


def student(spec: ModelSpec, given: Mapping[str, int], shrink: float | None) -> tuple[ModelSpec, dict[str, Any]]:
    """A student's spec and sizes; `shrink` is of layers and widths, heads stay as many and divide the widths.

    Args:
        spec: the teacher's.
        given: sizes by option.
        shrink: factor on the teacher's sizes that are not given.

    Raises:
        AsrCompressError: a width does not divide into its heads, or the convolutions' channels into halves.
    """
    teacher = fairseq_adapter.whole_s2t_arguments(spec.config["arguments"], spec.family)
    positions = teacher.get("pos_enc_type") if spec.family == "s2t_conformer" else None
    sizes: dict[str, Any] = {}
    for options, prefix in ((ENCODER, ""), (DECODER, "decoder_")):
        layers, dim, ffn, heads = options
        chosen = {
            name: given[name.removeprefix(prefix)] for name in (dim, ffn, heads) if name.removeprefix(prefix) in given
        }
        chosen |= {name: given[name] for name in options if name in given}
        sizes[layers] = chosen.get(layers, shrink_layers(teacher[options[layers]], shrink))
        sizes[heads] = chosen.get(heads, teacher[options[heads]])
        multiple, of = _multiple(sizes[heads], None if prefix else positions)
        sizes[dim] = chosen.get(dim, shrink_width(teacher[options[dim]], shrink, multiple))
        require_multiple(dim, sizes[dim], multiple, of)
        if sizes[dim] < NARROWEST:
            raise AsrCompressError(f"{dim}={sizes[dim]}: is too narrow for positions; use {NARROWEST} or more")
        sizes[ffn] = chosen.get(ffn, shrink_width(teacher[options[ffn]], shrink))
    is_flat = (
        teacher["conv_version"] == "s2t_transformer"
    )  # one-dimensional convolutions, whose gates halve the channels
    channels, multiple = ("conv_channels", 2) if is_flat else ("conv_out_channels", 1)
    sizes["conv_channels"] = given.get("conv_channels", shrink_width(teacher[channels], shrink, multiple))
    require_multiple("conv_channels", sizes["conv_channels"], multiple, "since half of them gate the others")
    arguments = spec.config["arguments"] | {argument: sizes[name] for name, argument in (ENCODER | DECODER).items()}
    arguments[channels] = sizes["conv_channels"]
    for name in ("decoder_input_dim", "decoder_output_dim"):
        same = teacher[name] == teacher["decoder_embed_dim"]
        arguments[name] = sizes["decoder_dim"] if same else shrink_width(teacher[name], shrink)
    if "ctc_weight" in arguments:
        arguments["ctc_weight"] = 0.0
    return ModelSpec(spec.family, spec.config | {"arguments": arguments}, spec.vocabulary), sizes


def _multiple(heads: int, positions: str | None) -> tuple[int, str]:
    """What a width must divide by, and why."""
    if positions == "rope":
        return 2 * heads, "twice the number of heads, as rotary positions need"
    if positions == "rel_pos":
        return math.lcm(2, heads), "even and the number of heads"
    return heads, "the number of heads"
