"""Family asr_vggtransformer_encoder: VGG blocks and a transformer encoder, decoded by CTC.

From Fairseq's examples/speech_recognition. Training with that folder's `ctc_loss` adds `<ctc_blank>`
after the dictionary's symbols; with Fairseq's own `ctc` the blank is `<s>`, unit 0. Which of the two a
checkpoint has is seen from the number of its output units. `ctc_loss` also makes the model say `</s>` last.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from asrcompress.models import ModelSpec, ctc, fairseq_vgg, padding, s2t, vgg, vgg_student
from asrcompress.models.ctc_family import CRITERION, UNUSED_OPTIONS, search_method
from asrcompress.models.targets import encode
from asrcompress.models.text import guess_text_units
from asrcompress.models.vgg_arguments import check_arguments

if TYPE_CHECKING:
    from asrcompress.checkpoints import Checkpoint

__all__ = [
    "CRITERION", "DEFAULT_DURATION_S", "SAMPLE_RATE_HZ", "STUDENT_OPTIONS", "TASK", "UNUSED_OPTIONS", "blank_unit", "build", "clean_tensors",
    "example_inputs", "features", "is_computed", "log_probs", "read_spec", "read_targets", "recognises", "search_method",
    "student", "transcriber",
]  # fmt: skip
FAMILY = "asr_vggtransformer_encoder"
TASK, SAMPLE_RATE_HZ, DEFAULT_DURATION_S = s2t.TASK, s2t.SAMPLE_RATE_HZ, s2t.DEFAULT_DURATION_S
features = s2t.features
STUDENT_OPTIONS, student = vgg_student.ENCODER_OPTIONS, vgg_student.student
BLANK_SYMBOL = "<ctc_blank>"
OUTPUT = "encoder.fc_out.weight"


def recognises(checkpoint: Checkpoint) -> bool:
    """A Fairseq checkpoint of one of asr_vggtransformer_encoder's architectures, such as vggtransformer_enc_1."""
    return vgg.is_vgg(checkpoint, is_encoder=True)


def read_spec(checkpoint: Checkpoint, data_dir: Path | None = None) -> ModelSpec:
    """Arguments from the checkpoint, vocabulary from its dict.txt, the blank from both."""
    symbols, folder = vgg.read_symbols(checkpoint, data_dir)
    one_more = s2t.count_units(checkpoint, OUTPUT) == len(symbols) + s2t.SPECIAL_SYMBOLS + 1
    if one_more and BLANK_SYMBOL not in symbols:
        symbols.append(BLANK_SYMBOL)
    s2t.check_vocabulary(checkpoint, OUTPUT, symbols, folder)
    blank = symbols.index(BLANK_SYMBOL) + s2t.SPECIAL_SYMBOLS if BLANK_SYMBOL in symbols else ctc.BLANK
    config = vgg.read_config(checkpoint, FAMILY) | {"text_units": guess_text_units(symbols), "blank": blank}
    return ModelSpec(FAMILY, config, symbols)


def is_computed(name: str) -> bool:
    """Nothing of this model is: it has no position embeddings."""
    return False


def clean_tensors(checkpoint: Checkpoint, spec: ModelSpec) -> dict[str, Tensor]:
    """The model's own tensors, under the built module's names."""
    return vgg.clean_tensors(checkpoint)


def build(spec: ModelSpec) -> nn.Module:
    """Fairseq's model, in eval mode, weights not loaded."""
    arguments = check_arguments("the model's configuration", spec.config["arguments"], FAMILY)
    return fairseq_vgg.build_vgg(arguments, spec.vocabulary or [], is_encoder=True)


def example_inputs(
    spec: ModelSpec, duration_s: float, num_tokens: int | None, batch_size: int
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Silence of this length, to count MACs with. There is no decoder, so `num_tokens` does not matter."""
    (source, lengths, _), record = s2t.example_inputs(spec, duration_s, num_tokens, batch_size)
    return (source, lengths), record | {"num_tokens": None}


def transcriber(
    spec: ModelSpec, module: nn.Module, *, beam: int = 5, **_: float
) -> Callable[[list[Tensor]], list[str]]:
    """A function from a batch of features to texts: the best path with `beam` 1, else prefix beam search.

    A length penalty and limits of length steer a decoder that writes unit by unit; CTC has none.
    """
    blank, symbols = spec.config["blank"], spec.vocabulary or []

    def text(log_probs: np.ndarray) -> str:
        rotated = np.roll(log_probs, -blank, axis=-1)  # ctc.py has the blank first
        units = ctc.greedy(rotated) if beam == 1 else ctc.prefix_beam_search(rotated, beam)[0]
        return ctc.to_text([(unit + blank) % rotated.shape[-1] for unit in units], symbols, spec.config["text_units"])

    def transcribe(batch: list[Tensor]) -> list[str]:
        with torch.no_grad():
            return [text(scores.cpu().numpy()) for scores in _run(module, batch)]

    return transcribe


def log_probs(
    spec: ModelSpec, module: nn.Module, features: list[Tensor], targets: list[Tensor] | None = None
) -> list[Tensor]:
    """Log-probabilities of the units: (frames, units) per utterance, differentiable. Nothing is fed back, so targets do not matter."""
    return _run(module, features)


def _run(module: nn.Module, batch: list[Tensor]) -> list[Tensor]:
    """Log-probabilities (frames, units) of each utterance of a batch, in one run of the module, in which none sees its padding."""
    encoder: Any = module
    source, lengths = s2t.pad(batch, module)
    with padding.hidden(padding.vgg_readers(encoder.encoder.conv_layers, lengths)):
        output = module(source, lengths)
    scores = torch.log_softmax(output["encoder_out"].float(), dim=-1).transpose(0, 1)
    mask = output["encoder_padding_mask"]  # (frames, batch), True = padding, or None
    ends = [scores.shape[1]] * len(batch) if mask is None else (~mask).sum(0).tolist()
    return [rows[:end] for rows, end in zip(scores, ends, strict=True)]


def read_targets(spec: ModelSpec, data_dir: Path, references: list[str]) -> list[Tensor]:
    """Ids of the units of each reference, without blanks; </s> comes last where `ctc_loss` trained it. See targets.py."""
    return encode(spec, data_dir, references, end=blank_unit(spec) != ctc.BLANK)


def blank_unit(spec: ModelSpec) -> int:
    """The unit that CTC says between others."""
    return int(spec.config["blank"])
