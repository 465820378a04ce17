"""What a sidecar says of running speech: the figures at the operating point, in one sentence, and the trace to draw. Checked.

Draws nothing; trace_plot.py does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress.errors import AsrCompressError


@dataclass(frozen=True)
class Clip:
    """A recording within the trace, from start_s to end_s."""

    word: str
    is_keyword: bool
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Posterior:
    """The probability of the keyword over time, as it comes and as a moving average; when something was detected."""

    time_s: tuple[float, ...]
    probability: tuple[float, ...]
    smoothed: tuple[float, ...]
    detections_s: tuple[float, ...]


@dataclass(frozen=True)
class Trace:
    """Clips glued together: what is heard without smoothing and reset, and with both."""

    threshold: float
    step_s: float
    smoothing_s: float
    clips: tuple[Clip, ...]
    without_policy: Posterior
    with_policy: Posterior

    @property
    def raw_above_s(self) -> float:
        """Seconds for which the probability as it comes reaches the threshold."""
        return _above(self.without_policy.probability, self)

    @property
    def policy_above_s(self) -> float:
        """The same of the moving average, with a reset after each detection."""
        return _above(self.with_policy.smoothed, self)


def _above(values: tuple[float, ...], trace: Trace) -> float:
    return sum(value >= trace.threshold for value in values) * trace.step_s


def read_trace(record: dict[str, Any], where: str | Path) -> Trace | None:
    """The trace of a sidecar that `sidecar.check` has passed; None where it has none.

    Raises:
        AsrCompressError: it is not as docs/sidecar.schema.json has it.
    """
    block = record.get("long_form")
    try:
        if block is None or block["trace"] is None:
            return None
        trace, policy = block["trace"], block["policy"]
        return Trace(
            threshold=_number(trace["threshold"]),
            step_s=_number(policy["step_s"]),
            smoothing_s=_number(policy["smoothing_s"]),
            clips=tuple(_clip(clip) for clip in trace["clips"]),
            without_policy=_posterior(trace["without_policy"]),
            with_policy=_posterior(trace["with_policy"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _broken(where, "long_form", error) from None


def _clip(clip: dict[str, Any]) -> Clip:
    start_s, end_s = _number(clip["start_s"]), _number(clip["end_s"])
    if not end_s > start_s >= 0:
        raise ValueError("a clip of the trace ends before it begins")
    return Clip(str(clip["word"]), clip["is_keyword"] is True, start_s, end_s)


def _posterior(heard: dict[str, Any]) -> Posterior:
    names = ("time_s", "probability", "smoothed", "detections_s")
    found = Posterior(*(tuple(_number(value) for value in heard[name]) for name in names))
    if not found.time_s or not len(found.time_s) == len(found.probability) == len(found.smoothed):
        raise ValueError("the trace does not hold a probability and an average for each step")
    return found


# ---------------------------------------------------------------- in words


def running_note(record: dict[str, Any], where: str | Path) -> str:
    """Long-form and streaming figures in words, with the conditions that they hold for; "" where there are none.

    Raises:
        AsrCompressError: a block is not as docs/sidecar.schema.json has it.
    """
    said = []
    for name, describe in (("long_form", _describe_long_form), ("streaming", _describe_streaming)):
        if record.get(name) is not None:
            try:
                said.append(describe(record[name]))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise _broken(where, name, error) from None
    return "; ".join(said)


def _describe_long_form(block: dict[str, Any]) -> str:
    policy, interval, keywords = block["policy"], block["interval"], block["keywords"]
    ends = f"{interval['confidence'] * 100:g} % interval {interval['low']:.3g} to {interval['high']:.3g}"
    sets = [(str(n["file"]), n["false_accepts"], n["hours"]) for n in block["negatives"]]
    speech = " and ".join(
        f"{file} ({count:,} in {hours:.3g} h)" if len(sets) > 1 else file for file, count, hours in sets
    )
    counted = f"{block['false_accepts']:,} false accepts in {block['hours']:.3g} h of {speech}"
    rate = f"{counted}, {block['false_accepts_per_hour']:.3g} an hour ({ends})"
    share = f"{block['false_reject_rate'] * 100:.3g} %"
    missed = f"{block['false_rejects']:,} of {keywords['num_keywords']:,} keywords missed ({share})"
    smoothing = f"mean over {policy['smoothing_s']:g} s, debounce {policy['debounce_s']:g} s"
    rules = f"threshold {policy['threshold']:.4g}, {smoothing}, reset {'on' if policy['reset'] is True else 'off'}"
    parts = [rate, missed, rules]
    after, end = block["latency_from_start_ms"], block["latency_from_end_ms"]
    if after is not None and end is not None:
        parts.append(
            f"detected {after['median']:.0f} ms after the clip begins (95 % within {after['p95']:.0f} ms), {end['median']:+.0f} ms from its end"
        )
    plateau = block["plateau"]
    if plateau["raw_s"] is not None and plateau["reset_s"] is not None:
        raw, reset = plateau["raw_s"]["median"], plateau["reset_s"]["median"]
        parts.append(
            f"a keyword is above the threshold for {raw:.2f} s (median) as it comes, {reset:.2f} s with smoothing and reset"
        )
    return "; ".join(parts)


def _describe_streaming(block: dict[str, Any]) -> str:
    chunk = block["chunk_ms"]
    lengths = f"{chunk[0]:g}" if chunk[0] == chunk[-1] else f"{chunk[0]:g} to {chunk[-1]:g}"
    latency = block["latency_ms"]
    different = block["num_different"]
    text = f"streamed in pieces of {lengths} ms with a window of {block['window_s']:g} s: at most {block['max_difference']:.2g} from offline"
    if different is not None:
        text += f", {different:,} of {block['num_steps']:,} steps with other codes"
    late = f"hears {block['algorithmic_latency_ms']:g} ms late at most"
    times = f"a piece takes {latency['median']:.2f} ms (95 % within {latency['p95']:.2f}, at most {latency['max']:.2f})"
    factors = f"real-time factor {block['real_time_factor']:.2g} ({block['cpu_real_time_factor']:.2g} of a processor)"
    return f"{text}; {late}, {times}; {factors}; state {block['state_bytes']:,} bytes"


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r:.40} is not a number")
    return float(value)


def _broken(where: str | Path, name: str, error: Exception) -> AsrCompressError:
    what = f"lacks {error}" if isinstance(error, KeyError) else f"is not as it should be ({error})"
    return AsrCompressError(f"{where}: {name} {what}; write the sidecar again")
