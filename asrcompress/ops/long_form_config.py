"""Options of `eval --long-form`, and what each of them stands for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asrcompress.errors import AsrCompressError

# As MLPerf Tiny's streaming wakeword benchmark counts (mlcommons/tiny, benchmark/runner/streaming_ww_utils.py): a
# detection from a keyword's beginning to 1 s after its end accepts it, a false accept within 1 s of another is the same.
TOLERANCE_S = 1.0
DEBOUNCE_S = 1.0
SMOOTHING_S = 0.16
FALSE_REJECT_RATE = 0.05


@dataclass(frozen=True)
class LongFormConfig:
    """Options of long-form evaluation.

    negatives: speech without the keyword, each as read_negatives takes it.
    threshold: that the moving average has to reach; None: found by `false_reject_rate`.
    false_reject_rate: of the keywords, that may be missed; the largest threshold is taken that keeps to it. None
        together with no threshold: FALSE_REJECT_RATE.
    smoothing_s: of the moving average. 0: none.
    debounce_s: after a detection nothing is detected for so long. 0: every step may detect.
    reset: forget what was heard after a detection.
    window_s: audio that the model's attention sees.
    """

    negatives: tuple[Path, ...]
    threshold: float | None = None
    false_reject_rate: float | None = None
    smoothing_s: float = SMOOTHING_S
    debounce_s: float = DEBOUNCE_S
    reset: bool = True
    window_s: float = 1.0

    def __post_init__(self) -> None:
        if not self.negatives:
            raise AsrCompressError(
                "--long-form: names no speech; give a folder or a table of speech without the keyword"
            )
        if self.threshold is not None and self.false_reject_rate is not None:
            raise AsrCompressError(
                f"--threshold {self.threshold} and --false-reject-rate {self.false_reject_rate}: each chooses the "
                "operating point; give one"
            )
        for option, value, low, high in (
            ("--threshold", self.threshold, 0, 1),
            ("--false-reject-rate", self.false_reject_rate, 0, 1),
            ("--smoothing-s", self.smoothing_s, 0, 10),
            ("--debounce-s", self.debounce_s, 0, 60),
        ):
            if value is not None and not low <= value <= high:  # NaN is not in between
                raise AsrCompressError(f"{option} {value}: is out of range; use {low} to {high}")
