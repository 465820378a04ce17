"""What a probe measures on: features, references and what the criterion makes of them.

All of a set, or utterances spread evenly over it. Audio that cannot be read stops before anything runs, as in eval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.normalizers import get_normalizer
from asrcompress.models.targets import find_folder
from asrcompress.ops.eval_config import TASK_DEFAULTS
from asrcompress.ops.evaluate import check_audio
from asrcompress.ops.load import Source
from asrcompress.ops.subset import require_words
from asrcompress.speech.audio import read_audio
from asrcompress.speech.content import content_sha256

NORMALIZER = str(TASK_DEFAULTS["asr"]["normalizer"])
T = TypeVar("T")


@dataclass(frozen=True)
class ProbeData:
    """Utterances or clips in the order of their set.

    features: as the family gives them; without a frame where the audio is shorter than one window.
    targets: (tokens,) int64 each, as the criterion wants them.
    references: texts; None for keywords. labels: True where a clip holds the keyword; None for texts.
    file, sha256, split, keyword: of the data set, or of the part that is used.
    """

    features: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]
    references: tuple[str, ...] | None
    labels: tuple[bool, ...] | None
    file: str
    sha256: str
    split: str | None = None
    keyword: str | None = None

    def describe(self) -> dict[str, Any]:
        """What a sidecar records."""
        return {"file": self.file, "sha256": self.sha256, "num_utterances": len(self.features), "split": self.split}


def read_probe_data(
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
) -> ProbeData:
    """Read a data set as `eval` would.

    Args:
        source: says the family, its front-end and vocabulary.
        data: a set of utterances or of clips, as its family has them.
        limit: utterances, spread evenly over the set; all where None.
        split: of a keyword set.
        keyword: of a keyword set.
        audio_root: where a table's relative paths start.
        data_dir: the folder of the SentencePiece model, where it is not the checkpoint's own.
        default_splits: of a keyword set with several, the first of these that is there, where `split` is None.
        split_option: what `split` is given with, for errors.

    Raises:
        AsrCompressError: no set is there, audio cannot be read, or it has nothing to score.
    """
    family, spec = source.family, source.spec
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
        files = [utterance.audio for utterance in utterances]
        features = _features(source, data, files)
        config = source.checkpoint.config if source.checkpoint else None
        targets = family.read_targets(spec, find_folder(source.path, config, data_dir), list(references))
        return ProbeData(features, tuple(targets), references, None, data.resolve().name, sha256)
    from asrcompress.speech.keyword_datasets import read_keyword_clips

    clips = read_keyword_clips(
        data, keyword=keyword, split=split, audio_root=audio_root, defaults=default_splits, option=split_option
    )
    chosen = spread(clips.clips, limit)
    sha256 = clips.sha256
    if len(chosen) < len(clips.clips):
        sha256 = content_sha256((clip.id, clip.audio, clip.word) for clip in chosen)
    labels = tuple(clip.is_keyword for clip in chosen)
    if len(set(labels)) < 2:
        raise AsrCompressError(
            f"{data}: of {len(labels)} clips {'all' if labels[0] else 'none'} hold '{clips.keyword}', so there is no curve; "
            "use more of them"
        )
    return ProbeData(
        _features(source, data, [clip.audio for clip in chosen]),
        tuple(torch.tensor([int(label)]) for label in labels),
        None,
        labels,
        data.resolve().name,
        sha256,
        clips.split,
        clips.keyword,
    )


def require_loss(source: Source, data: ProbeData, loss: float, num_tokens: int) -> None:
    """Raise unless the float model has a loss on the data: one that is a number, of one token or more."""
    if not math.isfinite(loss):
        raise AsrCompressError(
            f"{source.path}: gives a loss of {loss} on {data.file}; the checkpoint or the audio is broken"
        )
    if not num_tokens:
        raise AsrCompressError(
            f"{data.file}: each reference is too long for the frames that {source.path.name} makes of its audio, so there is no "
            "loss; give references of what is said"
        )


def spread(items: Sequence[T], limit: int | None) -> tuple[T, ...]:
    """`limit` of the items, evenly spread and in order; all where there are no more."""
    count = len(items) if limit is None else min(limit, len(items))
    return tuple(items[index * len(items) // count] for index in range(count))


def _features(source: Source, data: Path, files: Sequence[Path]) -> tuple[Tensor, ...]:
    rate = source.family.SAMPLE_RATE_HZ
    check_audio(data, files, rate)
    found = tuple(source.family.features(source.spec, read_audio(file, sample_rate_hz=rate)) for file in files)
    if not any(len(frames) for frames in found):
        raise AsrCompressError(f"{data}: no audio in it is long enough for the model; give longer recordings")
    return found
