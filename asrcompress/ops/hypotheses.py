"""Sequence-level distillation: what the teacher writes down becomes what the student learns to write.

Kim and Rush 2016 (arXiv 1606.07947), section 3.2: the best hypothesis of the teacher's beam search stands for the whole
distribution over transcripts. References are learned no more; the development set keeps its own. Speech is transcribed once,
as recorded, however it is changed in training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from asrcompress.errors import AsrCompressError
from asrcompress.models.device import device_of
from asrcompress.models.targets import find_folder
from asrcompress.ops.eval_config import TASK_DEFAULTS
from asrcompress.ops.finetune_data import TrainingSet
from asrcompress.ops.load import Source
from asrcompress.ops.ranks import Ranks
from asrcompress.ops.teacher import Teacher

BATCH_SIZE = 16


@dataclass(frozen=True)
class Transcribed:
    """A training set with the teacher's transcripts in the place of its references, and what a sidecar says of them."""

    train: TrainingSet
    record: dict[str, Any]


def require_transcripts(source: Source) -> None:
    """Find, before any work, that a model writes nothing down.

    Raises:
        AsrCompressError: it spots a keyword.
    """
    if source.family.TASK != "asr":
        raise AsrCompressError(
            f"--sequence-level: is for models that transcribe, and {source.path} spots a keyword; leave it out"
        )


def transcribe(
    teacher: Teacher,
    source: Source,
    train: TrainingSet,
    *,
    data_dir: Path | None = None,
    ranks: Ranks | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Transcribed:
    """Let a teacher transcribe a training set, unless it has done so for another student.

    What cannot be heard, utterances without a frame, keeps its reference; it is never trained on.

    Args:
        teacher: it remembers what it wrote.
        source: the student, whose units the transcripts are written in.
        train: read for that student.
        data_dir: the folder of the SentencePiece model, where it is not the checkpoint's own.
        ranks: that share the work.
        progress: called with utterances done, and of how many, by each rank of its own.

    Raises:
        AsrCompressError: the model spots a keyword, or a transcript cannot be written in the student's units.
    """
    require_transcripts(source)
    search = _search(teacher.source)
    if train.sha256 not in teacher.transcripts:
        teacher.transcripts[train.sha256] = _decode(teacher, train, search, ranks or Ranks(), progress)
    texts = teacher.transcripts[train.sha256]
    folder = find_folder(source.path, source.checkpoint.config if source.checkpoint else None, data_dir)
    written = source.family.read_targets(source.spec, folder, [text or "" for text in texts])
    pairs = list(zip(texts, written, train.targets, strict=True))
    targets = tuple(reference if text is None else units for text, units, reference in pairs)
    record = {
        "search": search,
        "num_transcripts": sum(text is not None for text in texts),
        "num_unlike_reference": sum(not torch.equal(*pair) for pair in zip(targets, train.targets, strict=True)),
        "num_empty": sum(text == "" for text in texts),
    }
    return Transcribed(replace(train, targets=targets), record)


def _search(teacher: Source) -> dict[str, float]:
    """As `eval` searches by itself."""
    unused = getattr(teacher.family, "UNUSED_OPTIONS", ())
    names = ("beam", "lenpen", "max_len_a", "max_len_b")
    return {name: TASK_DEFAULTS["asr"][name] for name in names if name not in unused}


def _decode(
    teacher: Teacher,
    train: TrainingSet,
    search: dict[str, float],
    ranks: Ranks,
    progress: Callable[[int, int], None],
) -> list[str | None]:
    """The text of each utterance. Batches are the same for any number of ranks, and so is what comes out."""
    heard = sorted((length, position) for position, length in enumerate(train.lengths) if length)
    batches = [[p for _, p in heard[start : start + BATCH_SIZE]] for start in range(0, len(heard), BATCH_SIZE)]
    mine = batches[ranks.rank :: ranks.size]
    device = device_of(teacher.module)
    decode = teacher.source.family.transcriber(teacher.source.spec, teacher.module, **search)
    own: dict[str, str] = {}
    total = sum(map(len, mine))
    for batch in mine:
        progress(len(own), total)
        ranks.beat()
        texts = decode([train.read(position).to(device) for position in batch])
        own |= {str(position): text for position, text in zip(batch, texts, strict=True)}
    progress(total, total)
    found = {int(position): text for part in ranks.gather(own) for position, text in part.items()}
    return [found.get(position) for position in range(len(train.files))]
