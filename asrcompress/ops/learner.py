"""The model in training: its part of an update's loss. What is learned from a teacher is in here; the loop is training/trainer.py's."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrize

from asrcompress.errors import AsrCompressError
from asrcompress.models.criterion import negative_log_likelihood
from asrcompress.ops.finetune_config import FinetuneConfig
from asrcompress.ops.finetune_data import TrainingSet
from asrcompress.ops.load import Source
from asrcompress.ops.teacher import Lesson, Teacher, require_pair
from asrcompress.training.loss import distillation


class Learner(nn.Module):
    """The model in training: its part of an update's loss.

    Args:
        source: of the model that is trained.
        model: float, with the weights to be stored in the places of its own.
        teacher: of another size, perhaps; may be None where nothing is learned from one.
        train: utterances or clips.
        config: weights of the parts of the loss.

    Raises:
        AsrCompressError: the teacher hears or says other things than the student.
    """

    def __init__(
        self, source: Source, model: nn.Module, teacher: Teacher | None, train: TrainingSet, config: FinetuneConfig
    ) -> None:
        super().__init__()
        self.model = model
        self._source, self._train, self._config, self._teacher = source, train, config, teacher
        if teacher:
            require_pair(teacher.source, source)

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
            lessons = self._listen(features, targets)
            self._require_steps(found, lessons)
            expected = [lesson.log_probs.to(found[0].device) for lesson in lessons]
            tokens = [max(count, 1) for count in counts.tolist()]
            loss = loss + share * distillation(found, expected, tokens, temperature=self._config.temperature)
        # References too long for CTC have no loss; what has none still has a gradient, of 0.
        return (loss + sum(rows[:0].sum() for rows in found)) * weight

    def _listen(self, features: list[Tensor], targets: list[Tensor]) -> list[Lesson]:
        assert self._teacher is not None  # noqa: S101 (there is one where its share is not 0)
        return self._teacher.listen(features, targets, passing=bool(self._config.augment))

    def _require_steps(self, found: list[Tensor], lessons: list[Lesson]) -> None:
        for ours, lesson in zip(found, lessons, strict=True):
            if len(ours) != len(lesson.log_probs):
                assert self._teacher is not None  # noqa: S101 (who gave the lesson)
                raise AsrCompressError(
                    f"{self._teacher.source.path}: makes {len(lesson.log_probs)} steps of speech that {self._source.path} makes "
                    f"{len(ours)} of, and outputs are compared step by step; give a teacher that subsamples alike, or --distillation 0"
                )
