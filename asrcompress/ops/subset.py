"""The first utterances of a set, for a quick look. A part is another test set: its hash is its own."""

from __future__ import annotations

from dataclasses import replace

from asrcompress.errors import AsrCompressError
from asrcompress.speech.content import content_sha256
from asrcompress.speech.datasets import Dataset
from asrcompress.speech.keyword_datasets import KeywordDataset


def first_utterances(dataset: Dataset, limit: int | None) -> Dataset:
    """The first `limit` utterances, or all."""
    if limit is None or limit >= len(dataset.utterances):
        return dataset
    part = dataset.utterances[:limit]
    return replace(dataset, utterances=part, sha256=content_sha256((u.id, u.audio, u.reference) for u in part))


def first_clips(dataset: KeywordDataset, limit: int | None) -> KeywordDataset:
    """The first `limit` clips, or all."""
    if limit is None or limit >= len(dataset.clips):
        return dataset
    part = dataset.clips[:limit]
    num_positives = sum(clip.is_keyword for clip in part)
    if num_positives in (0, len(part)):
        what = "none" if num_positives == 0 else "all"
        raise AsrCompressError(
            f"{dataset.path}: of the first {limit} clips {what} hold '{dataset.keyword}', so there is no curve; raise or drop --limit"
        )
    return replace(dataset, clips=part, sha256=content_sha256((c.id, c.audio, c.word) for c in part))
