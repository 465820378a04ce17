"""What a probe measures on: features, references and what the criterion makes of them.

All of a set, or utterances spread evenly over it. Audio that cannot be read stops before anything runs, as in eval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from asrcompress.errors import AsrCompressError
from asrcompress.ops.evaluate import check_audio
from asrcompress.ops.load import Source
from asrcompress.ops.speech_choice import choose_speech
from asrcompress.speech.audio import read_audio


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


def read_probe_data(source: Source, data: Path, **choice: Any) -> ProbeData:
    """Read a data set as `eval` would.

    Args:
        source: says the family, its front-end and vocabulary.
        data: a set of utterances or of clips, as its family has them.
        choice: what of it; as for `choose_speech`.

    Raises:
        AsrCompressError: no set is there, audio cannot be read, or it has nothing to score.
    """
    chosen = choose_speech(source, data, **choice)
    if chosen.labels is not None and len(set(chosen.labels)) < 2:
        raise AsrCompressError(
            f"{data}: of {len(chosen.labels)} clips {'all' if chosen.labels[0] else 'none'} hold '{chosen.keyword}', so there is no curve; "
            "use more of them"
        )
    features = _features(source, data, chosen.files)
    return ProbeData(
        features,
        chosen.targets,
        chosen.references,
        chosen.labels,
        chosen.file,
        chosen.sha256,
        chosen.split,
        chosen.keyword,
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


def _features(source: Source, data: Path, files: Sequence[Path]) -> tuple[Tensor, ...]:
    rate = source.family.SAMPLE_RATE_HZ
    check_audio(data, files, rate)
    found = tuple(source.family.features(source.spec, read_audio(file, sample_rate_hz=rate)) for file in files)
    if not any(len(frames) for frames in found):
        raise AsrCompressError(f"{data}: no audio in it is long enough for the model; give longer recordings")
    return found
