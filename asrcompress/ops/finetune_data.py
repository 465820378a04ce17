"""What a model is fine-tuned on: features and references of a training set, read when they are needed.

Features, and what the teacher makes of them, are kept in memory up to a bound; the rest is read or computed anew each time.
Audio that cannot be read stops before anything is trained, as in eval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.ops.evaluate import check_audio
from asrcompress.ops.load import Source
from asrcompress.ops.speech_choice import choose_speech
from asrcompress.speech.audio import read_audio

CACHE_BYTES = 2 << 30


@dataclass(frozen=True)
class TrainingSet:
    """Utterances or clips.

    files: audio. targets: (tokens,) int64 each, as the criterion wants them. lengths: frames of features each.
    file, sha256, split: of the set.
    """

    files: tuple[Path, ...]
    targets: tuple[Tensor, ...]
    lengths: tuple[int, ...]
    read: Callable[[int], Tensor]
    file: str
    sha256: str
    split: str | None = None

    def describe(self) -> dict[str, Any]:
        """What a sidecar records."""
        return {"file": self.file, "sha256": self.sha256, "num_utterances": len(self.files), "split": self.split}


def read_training_set(
    source: Source,
    data: Path,
    *,
    cache_bytes: int = CACHE_BYTES,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **choice: Any,
) -> TrainingSet:
    """Read a training set as `eval` reads its data. Of several splits, `train` where none is said.

    Args:
        source: says the family, its front-end and vocabulary.
        data: a set of utterances or of clips, as its family has them.
        cache_bytes: of features that are kept in memory.
        progress: called with how many utterances were read, and of how many.
        choice: what of the set; as for `choose_speech`.

    Raises:
        AsrCompressError: no set is there, audio cannot be read, a reference cannot be written in the model's units, or
            all audio is too short.
    """
    family, spec = source.family, source.spec
    chosen = choose_speech(source, data, default_splits=("train",), split_option="--finetune-split", **choice)
    files = chosen.files
    check_audio(data, files, family.SAMPLE_RATE_HZ)
    cache = Cache(cache_bytes)

    def read(position: int) -> Tensor:
        def make() -> Tensor:
            audio = read_audio(files[position], sample_rate_hz=family.SAMPLE_RATE_HZ)
            features: Tensor = family.features(spec, audio)
            return features

        return cache.get(position, make)

    lengths = []
    for position in range(len(files)):
        progress(position, len(files))
        lengths.append(len(read(position)))
    progress(len(files), len(files))
    if not any(lengths):
        raise AsrCompressError(f"{data}: no audio in it is long enough for the model; give longer recordings")
    return TrainingSet(files, chosen.targets, tuple(lengths), read, chosen.file, chosen.sha256, chosen.split)


class Cache:
    """Tensors by position, as long as they fit into a number of bytes; what does not fit is made anew each time."""

    def __init__(self, limit_bytes: int) -> None:
        self._left, self._kept = limit_bytes, {}  # type: ignore[var-annotated]

    def __contains__(self, position: int) -> bool:
        return position in self._kept

    def get(self, position: int, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of a position."""
        if position in self._kept:
            found: Tensor = self._kept[position]
            return found
        made = make()
        size = made.numel() * made.element_size()
        if size <= self._left:
            self._kept[position], self._left = made, self._left - size
        return made
