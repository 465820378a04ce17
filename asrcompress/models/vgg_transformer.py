"""Family asr_vggtransformer: VGG blocks and a transformer encoder, a convolutional transformer decoder, beam search.

From Fairseq's examples/speech_recognition ("Transformers with convolutional context for ASR", arXiv
1904.11660). The weight norms of the decoder's convolutions are folded when a checkpoint is read, and
their weights turned as torch's convolutions have them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from asrcompress.models import ModelSpec, fairseq_vgg, s2t, vgg, vgg_student
from asrcompress.models.text import guess_text_units
from asrcompress.models.vgg_arguments import check_arguments

if TYPE_CHECKING:
    from asrcompress.checkpoints import Checkpoint

FAMILY = "asr_vggtransformer"
TASK, SAMPLE_RATE_HZ, DEFAULT_DURATION_S = s2t.TASK, s2t.SAMPLE_RATE_HZ, s2t.DEFAULT_DURATION_S
CRITERION, read_targets, log_probs = s2t.CRITERION, s2t.read_targets, s2t.log_probs
CONVOLUTION = re.compile(r"decoder\.conv_layers\.\d+")
STUDENT_OPTIONS = vgg_student.ENCODER_OPTIONS | vgg_student.DECODER_OPTIONS
student, initialise = vgg_student.student, fairseq_vgg.initialise
features, example_inputs, transcriber = s2t.features, s2t.example_inputs, s2t.transcriber


def recognises(checkpoint: Checkpoint) -> bool:
    """A Fairseq checkpoint of one of asr_vggtransformer's architectures, such as vggtransformer_2."""
    return vgg.is_vgg(checkpoint, is_encoder=False)


def read_spec(checkpoint: Checkpoint, data_dir: Path | None = None) -> ModelSpec:
    """Arguments from the checkpoint, vocabulary from its dict.txt."""
    symbols, folder = vgg.read_symbols(checkpoint, data_dir)
    s2t.check_vocabulary(checkpoint, "decoder.embed_tokens.weight", symbols, folder)
    config = vgg.read_config(checkpoint, FAMILY) | {"text_units": guess_text_units(symbols)}
    return ModelSpec(FAMILY, config, symbols)


def is_computed(name: str) -> bool:
    """Nothing of this model is: it has no position embeddings."""
    return False


def clean_tensors(checkpoint: Checkpoint, spec: ModelSpec) -> dict[str, Tensor]:
    """The model's own tensors, under the built module's names.

    Fairseq's convolutions over (time, batch, channels) have weights (kernel, in, out); here they are (out, in, kernel).
    """
    tensors = vgg.clean_tensors(checkpoint)
    stems = [name.removesuffix(".weight") for name, tensor in tensors.items() if tensor.dim() == 3]
    for stem in stems:
        if CONVOLUTION.fullmatch(stem):
            tensors[f"{stem}.conv.weight"] = tensors.pop(f"{stem}.weight").permute(2, 1, 0).contiguous()
            if f"{stem}.bias" in tensors:
                tensors[f"{stem}.conv.bias"] = tensors.pop(f"{stem}.bias")
    return tensors


def build(spec: ModelSpec) -> nn.Module:
    """Fairseq's model with convolutions of torch, in eval mode, weights not loaded."""
    arguments = check_arguments("the model's configuration", spec.config["arguments"], FAMILY)
    return fairseq_vgg.build_vgg(arguments, spec.vocabulary or [], is_encoder=False)
