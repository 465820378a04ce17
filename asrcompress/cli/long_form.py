"""Options of `asrcompress eval --long-form`, and its line of summary. What they mean is ops/long_form_config.py's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from asrcompress.errors import AsrCompressError

if TYPE_CHECKING:
    from asrcompress.ops.long_form_config import LongFormConfig

LongForm = Annotated[
    Optional[list[Path]],
    typer.Option(
        "--long-form",
        help="Speech without the keyword, as a set, a folder or a list of audio: counts false accepts per hour. May be repeated (keywords).",
        show_default=False,
    ),
]
FalseRejectRate = Annotated[
    Optional[float],
    typer.Option(
        help="With --long-form: the largest threshold is used that misses at most this share of the keywords; else give --threshold. [default: 0.05]",
        show_default=False,
    ),
]
SmoothingS = Annotated[
    Optional[float],
    typer.Option(
        help="With --long-form: seconds of the moving average that is compared with the threshold; 0: none. [default: 0.16]",
        show_default=False,
    ),
]
DebounceS = Annotated[
    Optional[float],
    typer.Option(
        help="With --long-form: for so many seconds after a detection there is no other. [default: 1.0]",
        show_default=False,
    ),
]
Reset = Annotated[
    Optional[str],
    typer.Option(
        help="With --long-form: on or off, whether a detection clears the stream's state; both are measured. [default: on]",
        show_default=False,
    ),
]


def long_form_config(
    negatives: list[Path] | None,
    *,
    threshold: float | None,
    false_reject_rate: float | None,
    smoothing_s: float | None,
    debounce_s: float | None,
    reset: str | None,
    window_s: float | None,
) -> LongFormConfig | None:
    """What was given, or None where nothing is to be played.

    Raises:
        AsrCompressError: an option of long form without --long-form, or out of range.
    """
    given = {
        "false_reject_rate": false_reject_rate,
        "smoothing_s": smoothing_s,
        "debounce_s": debounce_s,
        "reset": reset,
    }
    for name, value in given.items():
        if value is not None and not negatives:
            option = f"--{name.replace('_', '-')} {value}"
            raise AsrCompressError(f"{option}: is for running speech; add --long-form, or leave it out")
    if not negatives:
        return None
    from asrcompress.ops.long_form_config import LongFormConfig

    if reset not in (None, "on", "off"):
        raise AsrCompressError(f"--reset {reset}: is neither on nor off")
    options: dict[str, Any] = given | {"reset": None if reset is None else reset == "on", "window_s": window_s}
    chosen = {name: value for name, value in options.items() if value is not None}
    return LongFormConfig(tuple(negatives), threshold=threshold, **chosen)


def long_form_summary(block: dict[str, Any]) -> str:
    """False accepts per hour with its interval, what is missed there, how late, and under which policy."""
    interval, policy, latency = block["interval"], block["policy"], block["latency_from_end_ms"]
    on, off = ("on", "without") if policy["reset"] else ("off", "with")
    other = block["without_reset" if policy["reset"] else "with_reset"]
    late = f", detected {latency['median']:+.0f} ms from the end of the clip" if latency else ""
    raw, reset = (
        f"{each['median']:.2f} s" if each else "never" for each in (block["plateau"][n] for n in ("raw_s", "reset_s"))
    )
    return (
        f"{block['false_accepts_per_hour']:.2f} false accepts per hour ({interval['confidence']:.0%} interval "
        f"{interval['low']:.2f} to {interval['high']:.2f}; {block['false_accepts']} in {block['hours']:.2f} h) with "
        f"{block['false_rejects']} of {block['keywords']['num_keywords']} keywords missed ({block['false_reject_rate']:.2%}){late}; "
        f"threshold {policy['threshold']:.4f}, mean over {policy['smoothing_steps']} steps, debounce {policy['debounce_s']:g} s, "
        f"reset {on} ({off} it {other['false_accepts']} false accepts, {other['false_rejects']} missed, "
        f"{other['repeated_detections']} detected again); time above the threshold {raw} as it comes, {reset} with mean and reset"
    )
