"""Family s2t_transformer: Fairseq's speech-to-text transformer, decoded by Fairseq's beam search.

Features, vocabulary and decoding are s2t.py's, which s2t_conformer shares.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from asrcompress.models import ModelSpec, fairseq_adapter, s2t, s2t_student
from asrcompress.models.s2t_arguments import check_arguments

if TYPE_CHECKING:
    from asrcompress.checkpoints import Checkpoint

TASK, SAMPLE_RATE_HZ, DEFAULT_DURATION_S = s2t.TASK, s2t.SAMPLE_RATE_HZ, s2t.DEFAULT_DURATION_S
CRITERION, read_targets, log_probs = s2t.CRITERION, s2t.read_targets, s2t.log_probs
STUDENT_OPTIONS, student = s2t_student.STUDENT_OPTIONS, s2t_student.student
features, example_inputs, transcriber = s2t.features, s2t.example_inputs, s2t.transcriber
BUFFERS = re.compile(r"(^|\.)(_float_tensor|version)$")  # computed by Fairseq, not learned


def recognises(checkpoint: Checkpoint) -> bool:
    """A Fairseq checkpoint whose architecture is one of s2t_transformer's."""
    return checkpoint.config is not None and (checkpoint.arch or "").startswith("s2t_transformer")


def read_spec(checkpoint: Checkpoint, data_dir: Path | None = None) -> ModelSpec:
    """Arguments from the checkpoint; features and vocabulary from its config.yaml and dictionary."""
    return s2t.read_spec("s2t_transformer", checkpoint, data_dir)


def is_computed(name: str) -> bool:
    """Whether a tensor of the built module is not learned, and so never stored."""
    return BUFFERS.search(name) is not None


def clean_tensors(checkpoint: Checkpoint, spec: ModelSpec) -> dict[str, Tensor]:
    """The model's own tensors, without what Fairseq computes by itself."""
    return s2t.clean_tensors(checkpoint, spec, is_computed)


def build(spec: ModelSpec) -> nn.Module:
    """Fairseq's model, in eval mode, weights not loaded."""
    arguments = check_arguments("the model's configuration", spec.config["arguments"], "s2t_transformer")
    return fairseq_adapter.build_s2t_transformer(arguments, spec.vocabulary or [])
