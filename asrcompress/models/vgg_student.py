"""Students of Fairseq's VGG transformers: which sizes they may have.

Features, vocabulary, kernels and pooling stay the teacher's, and so does the frame rate: where a layer of the teacher's
encoder leaves frames out, the student's layer that stands for it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.models import ModelSpec, fairseq_vgg
from asrcompress.models.sizes import one_or_all, paired_layers, require_multiple, shrink_layers, shrink_width
from asrcompress.models.vgg_arguments import parse

# How many numbers each has; 0: one for each convolution or block.
ENCODER_OPTIONS = {"encoder_layers": 1, "dim": 1, "ffn": 1, "heads": 1, "channels": 0}
DECODER_OPTIONS = {"decoder_layers": 1, "decoder_dim": 1, "decoder_ffn": 1, "decoder_heads": 1,
                   "embed_dim": 1, "decoder_channels": 0}  # fmt: skip


def student(spec: ModelSpec, given: Mapping[str, Any], shrink: float | None) -> tuple[ModelSpec, dict[str, Any]]:
    """A student's spec and sizes; `shrink` is of layers and widths, heads stay as many and divide the widths.

    What is given of the encoder holds for the decoder too, unless its own is given. The encoder's output is as wide as
    the decoder's layers, and without a decoder as wide as what `dim` gives.

    Raises:
        AsrCompressError: a width does not divide into its heads, or as many channels as convolutions are not given.
    """
    has_decoder = spec.family == "asr_vggtransformer"
    teacher = fairseq_vgg.whole_vgg_arguments(spec.config["arguments"], is_encoder=not has_decoder)
    encoder = parse(teacher["transformer_enc_config"])
    num_layers = given.get("encoder_layers", shrink_layers(len(encoder), shrink))
    layers = _layers("dim", encoder, num_layers, given, shrink)
    sizes: dict[str, Any] = {"encoder_layers": num_layers} | _described(layers, "")
    blocks = _channels("channels", parse(teacher["vggblock_enc_config"]), given, shrink)
    sizes["channels"] = [block[0] for block in blocks]
    changed = {"transformer_enc_config": repr(layers), "vggblock_enc_config": repr(blocks)}
    sampling = parse(teacher.get("transformer_sampling") or "None")
    if sampling:
        changed["transformer_sampling"] = repr(_sampling(sampling, num_layers))
    changed["enc_output_dim"] = given.get("dim", shrink_width(teacher["enc_output_dim"], shrink))
    if has_decoder:
        changed |= _decoder(teacher, given, shrink, sizes)
    config = spec.config | {"arguments": spec.config["arguments"] | changed}
    return ModelSpec(spec.family, config, spec.vocabulary), sizes


def _decoder(
    teacher: Mapping[str, Any], given: Mapping[str, Any], shrink: float | None, sizes: dict[str, Any]
) -> dict[str, Any]:
    """The decoder's arguments and the encoder's output, as wide as its layers; `sizes` gets the decoder's."""
    decoder = parse(teacher["transformer_dec_config"])
    own = {
        name.removeprefix("decoder_"): given[name]
        for name in ("decoder_dim", "decoder_ffn", "decoder_heads")
        if name in given
    }
    chosen = {name: given[name] for name in ("dim", "ffn", "heads") if name in given} | own
    num_layers = given.get("decoder_layers", shrink_layers(len(decoder), shrink))
    layers = _layers("decoder_dim", decoder, num_layers, chosen, shrink)
    convolutions = _channels("decoder_channels", parse(teacher["conv_dec_config"]), given, shrink)
    embed_dim = given.get("embed_dim", shrink_width(teacher["tgt_embed_dim"], shrink))
    sizes |= {"decoder_layers": num_layers} | _described(layers, "decoder_")
    sizes |= {"embed_dim": embed_dim, "decoder_channels": [layer[0] for layer in convolutions]}
    return {
        "transformer_dec_config": repr(layers),
        "conv_dec_config": repr(convolutions),
        "tgt_embed_dim": embed_dim,
        "enc_output_dim": layers[0][0],
    }


def _layers(
    name: str, teacher: tuple[Any, ...], num_layers: int, given: Mapping[str, int], shrink: float | None
) -> tuple[Any, ...]:
    """Configurations of a student's transformer layers, each from the teacher's layer that it is paired with."""
    paired = [teacher[place] for place in paired_layers(num_layers, len(teacher))]
    heads = [given.get("heads", layer[1]) for layer in paired]
    layers = []
    for (width, _, ffn, *rest), count in zip(paired, heads, strict=True):
        # All decoder layers are equally wide, so what divides one into its heads must divide all.
        multiple = math.lcm(*heads) if name == "decoder_dim" else count
        dim = given.get("dim", shrink_width(width, shrink, multiple))
        require_multiple(name, dim, multiple, "the number of heads")
        layers.append((dim, count, given.get("ffn", shrink_width(ffn, shrink)), *rest))
    return tuple(layers)


def _described(layers: tuple[Any, ...], prefix: str) -> dict[str, Any]:
    """Widths and heads of layers, as options name them."""
    return {
        f"{prefix}{name}": one_or_all([layer[i] for layer in layers])
        for i, name in ((0, "dim"), (2, "ffn"), (1, "heads"))
    }


def _channels(
    name: str, teacher: tuple[Any, ...], given: Mapping[str, list[int]], shrink: float | None
) -> tuple[Any, ...]:
    """Configurations of convolutions with a student's channels, which stand first in each."""
    channels = given.get(name, [shrink_width(layer[0], shrink) for layer in teacher])
    if len(channels) != len(teacher):
        example = "x".join(str(layer[0]) for layer in teacher)
        raise AsrCompressError(
            f"{name}: gives {len(channels)} of {len(teacher)} numbers of channels; use such as {example}"
        )
    return tuple((count, *layer[1:]) for count, layer in zip(channels, teacher, strict=True))


def _sampling(teacher: tuple[int, ...], num_layers: int) -> tuple[int, ...]:
    """Of how many frames each layer keeps one: the product over the teacher's layers that it stands for."""
    starts = [*paired_layers(num_layers, len(teacher)), len(teacher)]
    return tuple(math.prod(teacher[start:end]) for start, end in pairwise(starts))
