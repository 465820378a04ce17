"""What a model is fine-tuned on: features and references of a training set, read when they are needed.

Features, and what the teacher makes of them, are kept in memory up to a bound; the rest is read or computed anew each time.
Audio that cannot be read stops before anything is trained, as in eval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.models.targets import find_folder
from asrcompress.ops.evaluate import check_audio
from asrcompress.ops.load import Source
from asrcompress.ops.probe_data import spread
from asrcompress.speech.audio import read_audio
from asrcompress.speech.content import content_sha256

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
    limit: int | None = None,
    split: str | None = None,
    keyword: str | None = None,
    audio_root: Path | None = None,
    data_dir: Path | None = None,
    cache_bytes: int = CACHE_BYTES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TrainingSet:
    """Read a training set as `eval` reads its data; `limit`, `split` and the rest as there. Of several splits, `train` where none is said.

    Raises:
        AsrCompressError: no set is there, audio cannot be read, a reference cannot be written in the model's units, or
            all audio is too short.
    """
    family, spec = source.family, source.spec
    if family.TASK == "asr":
        from asrcompress.speech.datasets import read_utterances

        if split is not None:
            raise AsrCompressError(f"--finetune-split {split}: is for keyword models; {source.path} transcribes")
        whole = read_utterances(data, audio_root=audio_root)
        chosen: Sequence[Any] = spread(whole.utterances, limit)
        sha256 = whole.sha256
        if len(chosen) < len(whole.utterances):
            sha256 = content_sha256((u.id, u.audio, u.reference) for u in chosen)
        config = source.checkpoint.config if source.checkpoint else None
        folder = find_folder(source.path, config, data_dir)
        targets = tuple(family.read_targets(spec, folder, [utterance.reference for utterance in chosen]))
        name, found_split = data.resolve().name, None
    else:
        from asrcompress.speech.keyword_datasets import read_keyword_clips

        clips = read_keyword_clips(
            data, keyword=keyword, split=split, audio_root=audio_root, defaults=("train",), option="--finetune-split"
        )
        chosen = spread(clips.clips, limit)
        sha256 = clips.sha256
        if len(chosen) < len(clips.clips):
            sha256 = content_sha256((clip.id, clip.audio, clip.word) for clip in chosen)
        targets = tuple(torch.tensor([int(clip.is_keyword)]) for clip in chosen)
        name, found_split = data.resolve().name, clips.split
    files = tuple(item.audio for item in chosen)
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
    return TrainingSet(files, targets, tuple(lengths), read, name, sha256, found_split)


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
