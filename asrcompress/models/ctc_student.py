"""Students of wav2vec 2.0 and HuBERT with CTC: which sizes they may have, and what they start from.

Vocabulary, kernels and strides stay the teacher's. The convolutional extractor is the front-end here: it keeps its width,
and so can be copied, unless `conv_dim` says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from asrcompress.models import ModelSpec, fairseq_ctc
from asrcompress.models.sizes import one_or_all, require_multiple, shrink_layers, shrink_width

# Option -> Fairseq's argument.
ARGUMENTS = {
    "encoder_layers": "encoder_layers",
    "dim": "encoder_embed_dim",
    "ffn": "encoder_ffn_embed_dim",
    "heads": "encoder_attention_heads",
}
STUDENT_OPTIONS = dict.fromkeys((*ARGUMENTS, "conv_dim"), 1)


def student(spec: ModelSpec, given: Mapping[str, int], shrink: float | None) -> tuple[ModelSpec, dict[str, Any]]:
    """A student's spec and sizes; `shrink` is of the transformer's layers and widths, heads stay as many.

    Raises:
        AsrCompressError: the width does not divide into heads and into the groups of the position's convolution.
    """
    teacher = fairseq_ctc.whole_ctc_arguments(spec.config["arguments"], spec.family)
    heads, groups = given.get("heads", teacher["encoder_attention_heads"]), teacher["conv_pos_groups"]
    multiple = math.lcm(heads, groups)
    layers = teacher["conv_feature_layers"]
    widths = [given.get("conv_dim", width) for width, _, _ in layers]
    sizes: dict[str, Any] = {
        "encoder_layers": shrink_layers(teacher["encoder_layers"], shrink),
        "dim": shrink_width(teacher["encoder_embed_dim"], shrink, multiple),
        "ffn": shrink_width(teacher["encoder_ffn_embed_dim"], shrink),
        "heads": heads,
        "conv_dim": one_or_all(widths),
    } | dict(given)
    require_multiple(
        "dim", sizes["dim"], multiple, f"as {heads} heads and {groups} groups of the position's convolution need"
    )
    changed: dict[str, Any] = {argument: sizes[name] for name, argument in ARGUMENTS.items()}
    changed["conv_feature_layers"] = [[width, *rest] for width, (_, *rest) in zip(widths, layers, strict=True)]
    config = spec.config | {"arguments": spec.config["arguments"] | changed}
    return ModelSpec(spec.family, config, spec.vocabulary), sizes


def initialise(module: nn.Module) -> None:
    """Draw the transformer's weights as Fairseq does where training starts, which building for a checkpoint leaves out."""
    fairseq_ctc.initialise(module)
