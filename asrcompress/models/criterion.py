"""The task's own loss: negative log-likelihood of references, by what a family was trained with.

Label smoothing, class weights and auxiliary heads steer training and are left out: this is what the model makes of the
reference. Differentiable; sums and counts are handed back apart, so that a set is scored by the sum of sums over the sum of counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from asrcompress.models import ModelSpec

CROSS_ENTROPY, CTC = "cross_entropy", "ctc"


def negative_log_likelihood(
    family: ModuleType, spec: ModelSpec, log_probs: Sequence[Tensor], targets: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """-log p(reference), summed over the tokens of each utterance, in nats.

    Args:
        family: its CRITERION decides; `cross_entropy` has a row of log-probabilities a token, `ctc` one a frame.
        spec: says which unit is CTC's blank.
        log_probs: (steps, vocabulary) each, as the family's `log_probs` gives them.
        targets: (tokens,) each, as its `read_targets` gives them; for keywords tensor([0]) or tensor([1]).

    Returns:
        (utterances,) sums, and (utterances,) int64 counts of tokens, both on the device of `log_probs`. A reference
        too long for CTC to fit into its frames has no probability at all: it is left out, with sum 0 and count 0, and
        `left_out` finds it.
    """
    pairs = list(zip(log_probs, targets, strict=True))
    if family.CRITERION == CTC:
        blank = family.blank_unit(spec)
        rows = [_ctc(scores, target.to(scores.device), blank) for scores, target in pairs]
    else:
        rows = [
            (F.nll_loss(scores, target.to(scores.device), reduction="sum"), len(target)) for scores, target in pairs
        ]
    sums = torch.stack([total for total, _ in rows])
    return sums, torch.tensor([count for _, count in rows], device=sums.device)


def left_out(num_tokens: Tensor, targets: Sequence[Tensor]) -> list[int]:
    """Positions of the utterances that `negative_log_likelihood` could not score."""
    return [position for position, target in enumerate(targets) if len(target) and not int(num_tokens[position])]


def min_frames(target: Tensor) -> int:
    """Frames that CTC needs for these units: one each, and a blank between two that are the same."""
    return len(target) + int((target[1:] == target[:-1]).sum())


def _ctc(log_probs: Tensor, target: Tensor, blank: int) -> tuple[Tensor, int]:
    if len(log_probs) < min_frames(target):
        return log_probs.new_zeros(()), 0
    lengths = torch.tensor([len(log_probs)]), torch.tensor([len(target)])
    # Summed rather than averaged, and with cuDNN left out as in Fairseq: it has another limit on lengths.
    with torch.backends.cudnn.flags(enabled=False):
        total = F.ctc_loss(log_probs[:, None], target[None], *lengths, blank=blank, reduction="sum")
    return total, len(target)
