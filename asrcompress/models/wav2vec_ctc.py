"""Family wav2vec_ctc: wav2vec 2.0 fine-tuned with CTC by Fairseq, decoded without a language model.

Features are the waveform itself. What it shares with the other CTC family is in ctc_family.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from asrcompress.models import ModelSpec, ctc_family, fairseq_ctc
from asrcompress.models.ctc_family import (
    CRITERION,
    SAMPLE_RATE_HZ,
    UNUSED_OPTIONS,
    blank_unit,
    clean_tensors,
    example_inputs,
    features,
    is_computed,
    log_probs,
    read_targets,
    search_method,
    transcriber,
)
from asrcompress.models.ctc_student import STUDENT_OPTIONS, initialise, student

if TYPE_CHECKING:
    from asrcompress.checkpoints import Checkpoint

__all__ = [
    "CRITERION", "SAMPLE_RATE_HZ", "STUDENT_OPTIONS", "UNUSED_OPTIONS", "blank_unit", "clean_tensors", "example_inputs", "features",
    "initialise", "is_computed", "log_probs", "read_targets", "search_method", "student", "transcriber",
]  # fmt: skip
TASK = "asr"
DEFAULT_DURATION_S = 10.0
NAME, ENCODER = "wav2vec_ctc", "wav2vec2"


def recognises(checkpoint: Checkpoint) -> bool:
    """A Fairseq checkpoint of this architecture."""
    return checkpoint.config is not None and checkpoint.arch == NAME


def read_spec(checkpoint: Checkpoint, data_dir: Path | None = None) -> ModelSpec:
    """Arguments from the checkpoint; the vocabulary from its task's state or its dictionary file."""
    return ctc_family.read_spec(checkpoint, data_dir, family=NAME, encoder=ENCODER)


def build(spec: ModelSpec) -> nn.Module:
    """Fairseq's encoder with its projection, in eval mode, weights not loaded."""
    return ctc_family.build(spec, fairseq_ctc.build_wav2vec2_encoder, ENCODER)
