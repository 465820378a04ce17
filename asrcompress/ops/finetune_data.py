"""What a model is trained on: features and references of a training set, read when they are needed.

Features are kept in memory up to a bound, or audio where it is changed in every update (speech/augment.py); the rest is read
anew each time. Audio that cannot be read stops before anything is trained, as in eval.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.ops.evaluate import check_audio
from asrcompress.ops.load import Source
from asrcompress.ops.speech_choice import choose_speech
from asrcompress.speech.audio import read_audio
from asrcompress.speech.augment import Augmentation, Samples, draw, variant
from asrcompress.training.batches import share_weights

CACHE_BYTES = 2 << 30


class Read(Protocol):
    """Features by position: as recorded, or as they are changed in an update, where the set has an augmentation."""

    def __call__(self, position: int, update: int | None = None) -> Tensor:
        """As the family has them."""
        ...


@dataclass(frozen=True)
class TrainingSet:
    """Utterances or clips.

    files: audio. targets: (tokens,) int64 each, as the criterion wants them. lengths: frames of features each.
    read: their features. file, sha256, split: of the set. labels: True where a clip holds the keyword; None for utterances.
    """

    files: tuple[Path, ...]
    targets: tuple[Tensor, ...]
    lengths: tuple[int, ...]
    read: Read
    file: str
    sha256: str
    split: str | None = None
    labels: tuple[bool, ...] | None = None

    def describe(self) -> dict[str, Any]:
        """What a sidecar records."""
        return {"file": self.file, "sha256": self.sha256, "num_utterances": len(self.files), "split": self.split}

    def weights(self, positive_share: float | None) -> list[float] | None:
        """How often each clip is drawn, so that this share of an epoch's draws holds the keyword; None: each once.

        Raises:
            AsrCompressError: that is no share, the set is of utterances, or has clips of one kind only.
        """
        if positive_share is None:
            return None
        if not 0 < positive_share < 1:
            raise AsrCompressError(f"--positive-share {positive_share:g}: use a number between 0 and 1, such as 0.5")
        if self.labels is None:
            raise AsrCompressError(
                f"--positive-share {positive_share:g}: is for keyword models; {self.file} is transcribed"
            )
        heard = [label for label, length in zip(self.labels, self.lengths, strict=True) if length]
        if len(set(heard)) < 2:
            raise AsrCompressError(
                f"--positive-share {positive_share:g}: {self.file} has clips of one kind only; add others, or leave it out"
            )
        return share_weights(self.labels, self.lengths, positive_share)


def read_training_set(
    source: Source,
    data: Path,
    *,
    augment: Augmentation | None = None,
    seed: int = 1,
    cache_bytes: int = CACHE_BYTES,
    progress: Callable[[int, int], None] = lambda done, total: None,
    split_option: str = "--finetune-split",
    **choice: Any,
) -> TrainingSet:
    """Read a training set as `eval` reads its data. Of several splits, `train` where none is said.

    Args:
        source: says the family, its front-end and vocabulary.
        data: a set of utterances or of clips, as its family has them.
        augment: how features are changed that are read for an update.
        seed: of what is drawn for it.
        cache_bytes: of features, or of audio that is changed, that are kept in memory.
        progress: called with how many utterances were read, and of how many.
        split_option: what a split is given with, for errors.
        choice: what of the set; as for `choose_speech`.

    Raises:
        AsrCompressError: no set is there, audio cannot be read, a reference cannot be written in the model's units,
            all audio is too short, or the augmentation makes no sense for this family or set.
    """
    family = source.family
    augment = augment or None
    if augment:
        require_fit(augment, source)
    chosen = choose_speech(source, data, default_splits=("train",), split_option=split_option, **choice)
    files = chosen.files
    check_audio(data, files, family.SAMPLE_RATE_HZ)
    read: Read = _Recorded(source, files, Cache(cache_bytes))
    if augment:
        others = [position for position in range(len(files)) if not (chosen.labels and chosen.labels[position])]
        if augment.babble_snr_db is not None and len(others) < 2:
            raise AsrCompressError(
                f"{data}: has no two clips without the keyword for --augment babble; leave babble out"
            )
        read = _Augmented(source, files, Cache(cache_bytes), augment, seed, others)
    lengths = []
    for position in range(len(files)):
        progress(position, len(files))
        lengths.append(len(read(position)))
    progress(len(files), len(files))
    if not any(lengths):
        raise AsrCompressError(f"{data}: no audio in it is long enough for the model; give longer recordings")
    return TrainingSet(
        files, chosen.targets, tuple(lengths), read, chosen.file, chosen.sha256, chosen.split, chosen.labels
    )


def require_fit(augment: Augmentation, source: Source) -> None:
    """Find, before any audio is read, what this family's speech cannot be changed by.

    Raises:
        AsrCompressError: the features are samples and have no bins to mask, or clips have no fixed length to be shifted in.
    """
    family = source.family
    if augment.mask and _features(source, np.zeros(family.SAMPLE_RATE_HZ, np.float32)).dim() == 1:
        raise AsrCompressError(
            f"--augment specaugment: {source.path} is a {source.spec.family}, which hears samples and has no bins to mask; leave it out"
        )
    if augment.shift_ms and not hasattr(family, "fit_clip"):
        raise AsrCompressError(
            f"--augment shift: would cut the ends off sentences, which {source.path} transcribes; leave it out"
        )


def _features(source: Source, audio: Samples) -> Tensor:
    features: Tensor = source.family.features(source.spec, audio)
    return features


class _Recorded:
    """Features as recorded, kept."""

    def __init__(self, source: Source, files: tuple[Path, ...], cache: Cache) -> None:
        self._source, self._files, self._cache = source, files, cache

    def __call__(self, position: int, update: int | None = None) -> Tensor:
        def make() -> Tensor:
            rate = self._source.family.SAMPLE_RATE_HZ
            return _features(self._source, read_audio(self._files[position], sample_rate_hz=rate))

        return self._cache.get(position, make)


class _Augmented:
    """Features changed anew in every update, of audio that is kept; without an update, as recorded.

    others: positions of what may be mixed in as babble.
    """

    def __init__(
        self,
        source: Source,
        files: tuple[Path, ...],
        cache: Cache,
        augment: Augmentation,
        seed: int,
        others: list[int],
    ) -> None:
        self._source, self._files, self._cache = source, files, cache
        self._augment, self._seed, self._others = augment, seed, others

    def __call__(self, position: int, update: int | None = None) -> Tensor:
        if update is None:
            return _features(self._source, self._audio(position))
        if not self._augment.variants:
            return self._changed(position, update)
        chosen = variant(self._seed, position, update, self._augment.variants)
        return self._cache.get((position, chosen), lambda: self._changed(position, chosen))

    def _changed(self, position: int, number: int) -> Tensor:
        """Features as the draws of this number, an update's or a variant's, change them."""
        family, audio = self._source.family, self._audio(position)

        def other(number: float) -> Samples:
            index = int(number * len(self._others))
            beside = index - 1 if self._others[index] == position else index  # an utterance is no noise for itself
            return self._audio(self._others[beside])

        draws = draw(self._seed, position, number)
        clip = family.fit_clip(audio) if hasattr(family, "fit_clip") else audio
        changed = self._augment.change_audio(clip, draws, sample_rate_hz=family.SAMPLE_RATE_HZ, other=other)
        features: Tensor = getattr(family, "quick_features", family.features)(self._source.spec, changed)
        if self._augment.mask:
            frames_axis = getattr(family, "FRAMES_AXIS", 0)
            self._augment.change_features(features.numpy(), draws, frames_axis=frames_axis)
        return features

    def _audio(self, position: int) -> Samples:
        def make() -> Tensor:
            rate = self._source.family.SAMPLE_RATE_HZ
            return _narrow(read_audio(self._files[position], sample_rate_hz=rate))

        kept = self._cache.get(position, make).numpy()
        samples: Samples = kept * np.float32(2**-15) if kept.dtype == np.int16 else kept
        return samples


def _narrow(audio: Samples) -> Tensor:
    """Samples as the 16-bit integers that they were read from, or as they are where they were not."""
    codes = audio * np.float32(2**15)
    narrow = codes.clip(-(2**15), 2**15 - 1).astype(np.int16)
    return torch.from_numpy(narrow if np.array_equal(narrow, codes) else audio)


class Cache:
    """Tensors by key, such as a position, as long as they fit into a number of bytes; what does not fit is made anew each time."""

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes
        self._kept: dict[Hashable, Tensor] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of a key."""
        if key in self._kept:
            return self._kept[key]
        made = make()
        size = made.numel() * made.element_size()
        if size <= self._left:
            self._kept[key], self._left = made, self._left - size
        return made
