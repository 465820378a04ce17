"""The model in training: its part of an update's loss. What is learned from a teacher is in here; the loop is training/trainer.py's."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from asrcompress.models.criterion import negative_log_likelihood
from asrcompress.models.device import device_of
from asrcompress.ops.finetune_config import FinetuneConfig
from asrcompress.ops.finetune_data import Cache, TrainingSet
from asrcompress.ops.load import Source
from asrcompress.training.loss import distillation

TEACHER_BYTES = 1 << 30


class Learner(nn.Module):
    """The model in training: its part of an update's loss."""

    def __init__(
        self, source: Source, model: nn.Module, teacher: nn.Module | None, train: TrainingSet, config: FinetuneConfig
    ) -> None:
        super().__init__()
        self.model = model
        self._source, self._train, self._config = source, train, config
        self._teacher = [teacher]  # in a list: it is no part of what is trained
        self._known = Cache(TEACHER_BYTES)

    def forward(self, positions: list[int], weight: float, update: int) -> Tensor:
        """`weight` x the sum over these utterances of their loss: references' and teacher's. `update`: the number of the update."""
        family, spec, share = self._source.family, self._source.spec, self._config.distillation
        features = [self._train.read(position) for position in positions]
        targets = [self._train.targets[position] for position in positions]
        with parametrize.cached():  # a weight that is asked for twice is made once
            found = [rows.float() for rows in family.log_probs(spec, self.model, features, targets)]
        sums, counts = negative_log_likelihood(family, spec, found, targets)
        loss = sums.sum() * (1 - share)
        if share:
            expected = [rows.to(found[0].device) for rows in self._expected(positions, features, targets)]
            tokens = [max(count, 1) for count in counts.tolist()]
            loss = loss + share * distillation(found, expected, tokens, temperature=self._config.temperature)
        # References too long for CTC have no loss; what has none still has a gradient, of 0.
        return (loss + sum(rows[:0].sum() for rows in found)) * weight

    @torch.no_grad()
    def _expected(self, positions: list[int], features: list[Tensor], targets: list[Tensor]) -> list[Tensor]:
        """The teacher's log-probabilities, kept where there is room.

        Of each utterance alone: what they are, to the last bit, depends neither on who else is in the batch, nor on what
        was known before, so that a training that was stopped goes on as if it had not been.
        """
        teacher = self._teacher[0]
        assert teacher is not None  # noqa: S101 (there is one where its share is not 0)

        def compute(index: int) -> Tensor:
            with torch.autocast(device_of(teacher).type, enabled=False):
                rows = self._source.family.log_probs(self._source.spec, teacher, [features[index]], [targets[index]])
            return rows[0].cpu()

        return [self._known.get(position, partial(compute, index)) for index, position in enumerate(positions)]
