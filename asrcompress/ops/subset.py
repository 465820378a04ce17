"""The first utterances of a set, for a quick look. A part is another test set: its hash is its own.

What cannot be scored is found here, before a model runs.
"""

from __future__ import annotations

from dataclasses import replace

from asrcompress.errors import AsrCompressError
from asrcompress.metrics.normalizers import Normalizer
from asrcompress.speech.content import content_sha256
from asrcompress.speech.datasets import Dataset
from asrcompress.speech.keyword_datasets import KeywordDataset


def first_utterances(dataset: Dataset, limit: int | None) -> Dataset:
    """The first `limit` utterances, or all."""
    if limit is None or limit >= len(dataset.utterances):
        return dataset
    part = dataset.utterances[:limit]
    return replace(dataset, utterances=part, sha256=content_sha256((u.id, u.audio, u.reference) for u in part))


def require_words(dataset: Dataset, normalizer: Normalizer, limit: int | None) -> None:
    """Raise when no reference has a word left after normalisation: there would be no WER."""
    if not any(normalizer(utterance.reference).split() for utterance in dataset.utterances):
        among = "" if limit is None else f" of the first {limit}"
        raise AsrCompressError(
            f"{dataset.path}: no reference{among} has a word after the normaliser '{normalizer.name}', so there is no WER; "
            + ("give a set with words" if limit is None else "raise or drop --limit")
        )


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
