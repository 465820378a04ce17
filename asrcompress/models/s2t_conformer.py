"""Family s2t_conformer: Fairseq's speech-to-text conformer, decoded by Fairseq's beam search.

The encoder is of conformer layers (convolution with batch normalisation, ESPnet's or Fairseq's
attention; relative, rotary or absolute positions); decoder, features and vocabulary are those of
s2t_transformer. Fairseq builds no CTC head on this encoder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from asrcompress.models import ModelSpec, fairseq_adapter, s2t, s2t_student
from asrcompress.models.s2t_arguments import check_arguments

if TYPE_CHECKING:
    from asrcompress.checkpoints import Checkpoint

TASK, SAMPLE_RATE_HZ, DEFAULT_DURATION_S = s2t.TASK, s2t.SAMPLE_RATE_HZ, s2t.DEFAULT_DURATION_S
CRITERION, read_targets, log_probs = s2t.CRITERION, s2t.read_targets, s2t.log_probs
STUDENT_OPTIONS, student = s2t_student.STUDENT_OPTIONS, s2t_student.student
features, example_inputs, transcriber = s2t.features, s2t.example_inputs, s2t.transcriber
# Computed, not learned. A batch norm's running mean and variance are learned: they are stored.
BUFFERS = re.compile(r"(^|\.)(_float_tensor|version|num_batches_tracked|rotary_emb\.inv_freq)$")


def recognises(checkpoint: Checkpoint) -> bool:
    """A Fairseq checkpoint whose architecture is one of s2t_conformer's."""
    return checkpoint.config is not None and (checkpoint.arch or "").startswith("s2t_conformer")


def read_spec(checkpoint: Checkpoint, data_dir: Path | None = None) -> ModelSpec:
    """Arguments from the checkpoint; features and vocabulary from its config.yaml and dictionary."""
    return s2t.read_spec("s2t_conformer", checkpoint, data_dir)


def is_computed(name: str) -> bool:
    """Whether a tensor of the built module is not learned, and so never stored."""
    return BUFFERS.search(name) is not None


def clean_tensors(checkpoint: Checkpoint, spec: ModelSpec) -> dict[str, Tensor]:
    """The model's own tensors, without what Fairseq computes by itself.

    Rotary frequencies of a checkpoint of another precision are kept: Fairseq computes with the
    rounded ones that training stored, and at a thousand frames the difference is no longer small.
    """
    tensors = s2t.clean_tensors(checkpoint, spec, is_computed)
    rounded = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if name.endswith("rotary_emb.inv_freq") and tensor.dtype != torch.float32
    }
    return tensors | rounded


def build(spec: ModelSpec) -> nn.Module:
    """Fairseq's model, in eval mode, weights not loaded."""
    arguments = check_arguments("the model's configuration", spec.config["arguments"], "s2t_conformer")
    return fairseq_adapter.build_s2t_conformer(arguments, spec.vocabulary or [])
