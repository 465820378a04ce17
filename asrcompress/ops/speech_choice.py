"""Which utterances or clips of a data set are used, and what the criterion wants for them. Reads no audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.normalizers import get_normalizer
from asrcompress.models.targets import find_folder
from asrcompress.ops.eval_config import TASK_DEFAULTS
from asrcompress.ops.load import Source
from asrcompress.ops.subset import require_words
from asrcompress.speech.content import content_sha256

NORMALIZER = str(TASK_DEFAULTS["asr"]["normalizer"])
T = TypeVar("T")


@dataclass(frozen=True)
class ChosenSpeech:
    """Utterances or clips in the order of their set.

    files: audio. targets: (tokens,) int64 each, as the criterion wants them; keywords [0] or [1].
    references: texts; None for keywords. labels: True where a clip holds the keyword; None for texts.
    file, sha256, split, keyword: of the data set, or of the part that is used.
    """

    files: tuple[Path, ...]
    targets: tuple[Tensor, ...]
    references: tuple[str, ...] | None
    labels: tuple[bool, ...] | None
    file: str
    sha256: str
    split: str | None = None
    keyword: str | None = None


def choose_speech(
    source: Source,
    data: Path,
    *,
    limit: int | None = None,
    split: str | None = None,
    keyword: str | None = None,
    audio_root: Path | None = None,
    data_dir: Path | None = None,
    default_splits: tuple[str, ...] = (),
    split_option: str = "--split",
) -> ChosenSpeech:
    """Read a data set's table or folder as `eval` would.

    Args:
        source: says the family and its vocabulary.
        data: a set of utterances or of clips, as its family has them.
        limit: utterances, spread evenly over the set; all where None.
        split: of a keyword set.
        keyword: of a keyword set.
        audio_root: where a table's relative paths start.
        data_dir: the folder of the SentencePiece model, where it is not the checkpoint's own.
        default_splits: of a keyword set with several, the first of these that is there, where `split` is None.
        split_option: what `split` is given with, for errors.

    Raises:
        AsrCompressError: no set is there, it has no words, or a reference cannot be written in the model's units.
    """
    family, name = source.family, data.resolve().name
    if family.TASK == "asr":
        from asrcompress.speech.datasets import Dataset, read_utterances

        for option, value in ((split_option, split), ("--keyword", keyword)):
            if value is not None:
                raise AsrCompressError(f"{option} {value}: is for keyword models; {source.path} transcribes")
        whole = read_utterances(data, audio_root=audio_root)
        utterances = spread(whole.utterances, limit)
        sha256 = whole.sha256
        if len(utterances) < len(whole.utterances):
            sha256 = content_sha256((u.id, u.audio, u.reference) for u in utterances)
        require_words(Dataset(whole.path, utterances, sha256), get_normalizer(NORMALIZER), limit)
        references = tuple(utterance.reference for utterance in utterances)
        config = source.checkpoint.config if source.checkpoint else None
        folder = find_folder(source.path, config, data_dir)
        targets = tuple(family.read_targets(source.spec, folder, list(references)))
        return ChosenSpeech(tuple(u.audio for u in utterances), targets, references, None, name, sha256)
    from asrcompress.speech.keyword_datasets import read_keyword_clips

    clips = read_keyword_clips(
        data, keyword=keyword, split=split, audio_root=audio_root, defaults=default_splits, option=split_option
    )
    chosen = spread(clips.clips, limit)
    sha256 = clips.sha256
    if len(chosen) < len(clips.clips):
        sha256 = content_sha256((clip.id, clip.audio, clip.word) for clip in chosen)
    labels = tuple(clip.is_keyword for clip in chosen)
    targets = tuple(torch.tensor([int(label)]) for label in labels)
    files = tuple(clip.audio for clip in chosen)
    return ChosenSpeech(files, targets, None, labels, name, sha256, clips.split, clips.keyword)


def spread(items: Sequence[T], limit: int | None) -> tuple[T, ...]:
    """`limit` of the items, evenly spread and in order; all where there are no more."""
    count = len(items) if limit is None else min(limit, len(items))
    return tuple(items[index * len(items) // count] for index in range(count))
