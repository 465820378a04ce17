"""A model that others learn from: what it makes of speech, computed once and kept where there is room.

Several students that are trained one after the other may have one teacher: what it made of the first one's speech is there for
the next. It is kept by what was heard, so nothing that is heard for the first time (another seed, another set) gets an old answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from asrcompress.errors import AsrCompressError
from asrcompress.models.criterion import CTC
from asrcompress.models.device import device_of
from asrcompress.models.features import same_length
from asrcompress.ops.load import Source, build_model
from asrcompress.ops.observe import float_source
from asrcompress.training.attach import freeze_noise
from asrcompress.training.watch import Seen, watch

CACHE_BYTES = 1 << 30
LESSON_BYTES = 1 << 9  # that a lesson takes besides its values
# What of a configuration says how a model hears and what its outputs mean; widths and layers are its own affair.
SHARED = ("front_end", "num_mels", "num_classes", "text_units", "blank")


@dataclass(frozen=True)
class Lesson:
    """What a teacher makes of one utterance, in CPU memory. log_probs: (steps, vocabulary). layers: what was watched of them."""

    log_probs: Tensor
    layers: Seen

    @property
    def size_bytes(self) -> int:
        """Memory that it takes."""
        return LESSON_BYTES + sum(tensor.nbytes for tensor in (self.log_probs, *self.layers.tensors))


class Teacher:
    """A model that is not trained, and what it said so far.

    Args:
        source: of the model; packed weights are taken as the floats that they stand for.
        is_shared: several students are to learn from it, one after the other, so that what one has heard only once, an
            augmented clip, is kept for the next.
        cache_bytes: of what is kept; beyond that it is computed anew each time.

    Attributes:
        transcripts: what it wrote down, by the sha256 of a training set; None for what cannot be heard. See hypotheses.py.
    """

    def __init__(self, source: Source, *, is_shared: bool = False, cache_bytes: int = CACHE_BYTES) -> None:
        self.source, self.is_shared = source, is_shared
        self.transcripts: dict[str, list[str | None]] = {}
        self._left = cache_bytes
        self._kept: dict[bytes, list[Lesson]] = {}  # of what ran together
        self._built: nn.Module | None = None

    @property
    def module(self) -> nn.Module:
        """The float model, frozen; built when it is first asked for."""
        if self._built is None:
            self._built = freeze_noise(build_model(float_source(self.source)).module).requires_grad_(False)
        return self._built

    def to(self, device: str) -> Teacher:
        """This teacher, computing on another device."""
        self.module.to(device)
        return self

    @torch.no_grad()
    def listen(
        self,
        features: Sequence[Tensor],
        targets: Sequence[Tensor],
        *,
        passing: bool = False,
        maps: bool = False,
        outputs: bool = False,
    ) -> list[Lesson]:
        """What it makes of each utterance.

        Utterances run alone: what is made of them, to the last bit, then depends neither on who else is in the batch nor on
        what was known before, so that a training that was stopped goes on as if it had not been. Passing ones of one length
        run together, always: nothing of them was known before.

        Args:
            features: as the family's `features` gives them, or changed by an augmentation.
            targets: (tokens,) each, which a decoder is told one after the other.
            passing: they will not be heard again in this training, as what an augmentation changes in every update.
            maps: of attention, too.
            outputs: of layers, too.
        """
        groups = [[index] for index in range(len(features))]
        if passing and len({rows.shape for rows in features}) == 1:
            groups = [list(range(len(features)))]
        is_kept = self.is_shared or not passing
        found: dict[int, Lesson] = {}
        for group in groups:
            heard = [features[index] for index in group], [targets[index] for index in group]
            key = _key(*heard, maps, outputs) if is_kept else b""
            lessons = self._kept.get(key) or self._compute(*heard, maps=maps, outputs=outputs)
            if is_kept:
                self._keep(key, lessons)
            found |= dict(zip(group, lessons, strict=True))
        return [found[index] for index in range(len(features))]

    def _compute(self, features: list[Tensor], targets: list[Tensor], *, maps: bool, outputs: bool) -> list[Lesson]:
        family, module = self.source.family, self.module
        with (
            torch.autocast(device_of(module).type, enabled=False),
            watch(module, maps=maps, outputs=outputs) as seen,
        ):
            rows = family.log_probs(self.source.spec, module, features, targets)
        own = [seen.of(index, frames_of(family, values)) for index, values in enumerate(rows)]
        # Clones: a view would keep all of its batch in memory.
        return [
            Lesson(values.cpu().clone(), layers.apply(lambda layer: layer.cpu().clone()))
            for values, layers in zip(rows, own, strict=True)
        ]

    def _keep(self, key: bytes, lessons: list[Lesson]) -> None:
        size_bytes = sum(lesson.size_bytes for lesson in lessons)
        if key not in self._kept and size_bytes <= self._left:
            self._kept[key], self._left = lessons, self._left - size_bytes


def frames_of(family: ModuleType, log_probs: Tensor) -> int | None:
    """Of one utterance: frames that its encoder made, where its log-probabilities tell; wav2vec's fills up to an even number."""
    return len(log_probs) if family.CRITERION == CTC else None


def runs_of(features: Sequence[Tensor]) -> list[list[int]]:
    """Positions of a batch that one run of a model takes: all, but of waveforms those of one length, as their families have it."""
    return same_length(list(features)) if features[0].dim() == 1 else [list(range(len(features)))]


def require_pair(teacher: Source, student: Source) -> None:
    """Find, before any work, that a student cannot learn from a teacher: what one hears and says must mean the same to the other.

    Raises:
        AsrCompressError: another family, vocabulary or front-end.
    """
    ours, theirs = student.spec, teacher.spec
    if theirs.family != ours.family:
        raise AsrCompressError(
            f"{teacher.path}: is a {theirs.family} and cannot teach {student.path}, a {ours.family}; give a teacher of its family"
        )
    if theirs.vocabulary != ours.vocabulary:
        raise AsrCompressError(
            f"{teacher.path}: has another vocabulary than {student.path}, so that its outputs mean other things; give the float "
            "model that the student was made from"
        )
    for name in SHARED:
        if theirs.config.get(name) != ours.config.get(name):
            raise AsrCompressError(
                f"{teacher.path}: has {name} {_short(theirs.config.get(name))} where {student.path} has "
                f"{_short(ours.config.get(name))}; a student hears and says what its teacher does: give another teacher"
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _key(features: Sequence[Tensor], targets: Sequence[Tensor], *watched: bool) -> bytes:
    """What was heard in one run, what a decoder was told and what was asked for, in a few bytes."""
    digest = hashlib.blake2b(repr(watched).encode(), digest_size=16)
    update: Callable[[object], None] = digest.update  # type: ignore[assignment]
    for tensor in (*features, *targets):
        digest.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        update(tensor.detach().cpu().contiguous().numpy())
    return digest.digest()
