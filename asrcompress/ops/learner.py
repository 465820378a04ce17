"""The model in training: its part of an update's loss, and what that is made of. The loop is training/trainer.py's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from asrcompress.errors import AsrCompressError
from asrcompress.models.criterion import negative_log_likelihood
from asrcompress.ops.finetune_config import FinetuneConfig
from asrcompress.ops.finetune_data import TrainingSet
from asrcompress.ops.load import Source
from asrcompress.ops.teacher import Lesson, Teacher, frames_of, require_pair, runs_of
from asrcompress.training.imitation import Imitation
from asrcompress.training.loss import distillation
from asrcompress.training.watch import Seen, watch

Run = tuple[list[int], Seen]  # positions in a batch, and what was watched of them


class Learner(nn.Module):
    """The model in training: its part of an update's loss.

    The loss of an utterance is (1 - distillation) x `references` + distillation x `output` + attention_loss x `attention` +
    hidden_loss x `hidden`; each of these parts is as large as the utterance has tokens.

    Args:
        source: of the model that is trained.
        model: float, with the weights to be stored in the places of its own.
        teacher: of another size, perhaps; may be None where nothing is learned from one.
        train: utterances or clips.
        config: weights of the parts of the loss.

    Raises:
        AsrCompressError: the teacher hears or says other things than the student, or their layers cannot be compared.
    """

    def __init__(
        self, source: Source, model: nn.Module, teacher: Teacher | None, train: TrainingSet, config: FinetuneConfig
    ) -> None:
        super().__init__()
        self.model = model
        self._source, self._train, self._config, self._teacher = source, train, config, teacher
        self._maps, self._outputs = bool(config.attention_loss), bool(config.hidden_loss)
        self._parts: dict[str, Tensor] = {}
        if teacher:
            require_pair(teacher.source, source)
        self.imitation = self._imitate() if self._maps or self._outputs else None

    def forward(self, positions: list[int], weight: float, update: int) -> Tensor:
        """`weight` x the sum over these utterances of their loss: references' and teacher's. `update`: the number of the update."""
        config = self._config
        features = [self._train.read(position, update) for position in positions]
        targets = [self._train.targets[position] for position in positions]
        with parametrize.cached():  # a weight that is asked for twice is made once
            found, runs = self._run(features, targets)
        sums, counts = negative_log_likelihood(self._source.family, self._source.spec, found, targets)
        parts = {"references": sums.sum()}
        loss = parts["references"] * (1 - config.distillation)
        if config.distillation or self.imitation:
            lessons = self._listen(features, targets)
            tokens = [max(count, 1) for count in counts.tolist()]
        if config.distillation:
            self._require_steps(found, lessons)
            expected = [lesson.log_probs.to(found[0].device) for lesson in lessons]
            parts["output"] = distillation(found, expected, tokens, temperature=config.temperature)
            loss = loss + config.distillation * parts["output"]
        if self.imitation:
            parts |= self._compare(runs, lessons, tokens)
            for name, share in (("attention", config.attention_loss), ("hidden", config.hidden_loss)):
                loss = loss + share * parts[name] if share else loss
        for name, part in parts.items():
            self._parts[name] = self._parts.get(name, 0) + part.detach() * weight
        # References too long for CTC have no loss; what has none still has a gradient, of 0.
        return (loss + sum(rows[:0].sum() for rows in found)) * weight

    def take_parts(self) -> dict[str, float]:
        """The parts of the loss since they were last taken: each a sum over calls, without its share in the loss."""
        taken = {name: float(part) for name, part in self._parts.items()}
        self._parts.clear()
        return taken

    def describe(self) -> dict[str, list[list[object]]] | None:
        """Which layers learn from which, for a sidecar; None where none do."""
        return self.imitation.describe() if self.imitation else None

    def _run(self, features: list[Tensor], targets: list[Tensor]) -> tuple[list[Tensor], list[Run]]:
        """Log-probabilities of each utterance, and what was watched of whom, run by run."""
        family, spec = self._source.family, self._source.spec
        is_watched = self._maps or self._outputs
        found: dict[int, Tensor] = {}
        runs = []
        for positions in runs_of(features) if is_watched else [list(range(len(features)))]:
            heard = [features[position] for position in positions], [targets[position] for position in positions]
            with watch(self.model, maps=self._maps, outputs=self._outputs) as seen:
                rows = family.log_probs(spec, self.model, *heard)
            found |= {position: values.float() for position, values in zip(positions, rows, strict=True)}
            runs.append((positions, seen))
        return [found[position] for position in range(len(features))], runs

    def _listen(self, features: list[Tensor], targets: list[Tensor]) -> list[Lesson]:
        assert self._teacher is not None  # noqa: S101 (there is one where something is learned from it)
        return self._teacher.listen(
            features, targets, passing=self._config.has_passing, maps=self._maps, outputs=self._outputs
        )

    @torch.no_grad()
    def _imitate(self) -> Imitation:
        """Layers that learn from the teacher's, found in the longest utterance: there, lengths that differ do so most."""
        lengths = self._train.lengths
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        heard = [self._train.read(longest)], [self._train.targets[longest]]
        found, [(_, seen)] = self._run(*heard)
        own = seen.of(0, frames_of(self._source.family, found[0]))
        for name, wanted, layers in (("attention", self._maps, own.maps), ("hidden", self._outputs, own.outputs)):
            if wanted and not layers:
                raise AsrCompressError(f"{self._source.path}: has no layers to compare by --{name}-loss; leave it out")
        try:
            return Imitation(own, self._listen(*heard)[0].layers, self._config.seed)
        except ValueError as error:
            raise self._unlike(error) from error

    def _compare(self, runs: list[Run], lessons: Sequence[Lesson], tokens: list[int]) -> dict[str, Tensor]:
        assert self.imitation is not None  # noqa: S101 (asked for only where there is one)
        parts: dict[str, Tensor] = {}
        for positions, seen in runs:
            wanted, counts = [lessons[position].layers for position in positions], [tokens[p] for p in positions]
            try:
                found = self.imitation(seen, wanted, counts)
            except ValueError as error:
                raise self._unlike(error) from error
            parts = {name: parts.get(name, 0) + part for name, part in found.items()}
        return parts

    def _unlike(self, error: ValueError) -> AsrCompressError:
        assert self._teacher is not None  # noqa: S101 (who was compared with)
        ours, theirs = self._source.path, self._teacher.source.path
        who = f"{theirs}: its student" if ours == theirs else f"{ours}:"  # a student has no file yet, but its teacher's
        return AsrCompressError(
            f"{who} cannot learn layer by layer from {'it' if ours == theirs else theirs}: {error}; give it the teacher's kernels "
            "and strides, or leave out --attention-loss and --hidden-loss"
        )

    def _require_steps(self, found: list[Tensor], lessons: list[Lesson]) -> None:
        for ours, lesson in zip(found, lessons, strict=True):
            if len(ours) != len(lesson.log_probs):
                assert self._teacher is not None  # noqa: S101 (who gave the lesson)
                raise AsrCompressError(
                    f"{self._teacher.source.path}: makes {len(lesson.log_probs)} steps of speech that {self._source.path} makes "
                    f"{len(ours)} of, and outputs are compared step by step; give a teacher that subsamples alike, or --distillation 0"
                )
