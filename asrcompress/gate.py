"""Requirements such as `ratio.size_bytes<=0.27`: reading them, and holding a model to them.

    requirement := clause (" or " clause)*
    clause      := metric op number          op: <=  <  >=  >  ==
    metric      := NAME | delta.NAME | relative.NAME | ratio.NAME | excess.NAME

delta = candidate - baseline; relative = delta / baseline; ratio = candidate / baseline; excess = how far the
candidate lies above the upper end of the baseline's confidence interval, 0 inside or below it.
A value that was not measured, or not under the same conditions as the baseline's, is an error and never a
pass or a fail; that holds for every clause of an "or", so that a misspelt one cannot hide behind the other.
Prints nothing and knows no formats; report/ does. Standard library only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from asrcompress.errors import AsrCompressError
from asrcompress.sidecar import INPUT_METRICS, MODEL_METRICS, MeasuredModel, Measurement, Sidecar

COMPARISONS = ("delta", "relative", "ratio", "excess")
EXAMPLE = (
    "write METRIC<=NUMBER, such as 'wer<=0.05' or 'ratio.size_bytes<=0.27', in quotes: a shell reads < and > itself"
)
CLAUSE = re.compile(
    r"(?:(\w+)\.)?([a-z][a-z0-9_]*)\s*(<=|>=|==|<|>)\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)", re.ASCII
)
EXPORTED = ("onnx_", "fairseq_", "c_")  # what an export's metrics begin with
# A size or a parameter count is the file's own: it may be compared whatever the file was evaluated on.
SIZE_METRICS = frozenset(
    {
        "num_nonzero_params",
        "size_ratio",
        "model_size_ratio",
        "size_bytes_without_entropy_coding",
        "size_bytes_without_compact",
        *MODEL_METRICS,
    }
)
SPEED_METRICS = frozenset({"real_time_factor", "latency_ms", "stream_latency_ms"})
# The area under the curve is over all thresholds: the one that a run reports rates at does not matter to it.
CURVE_METRICS = frozenset({"au_fa_fr"})
# What was played matters to these, besides the clips: by the block of the sidecar that says it.
RUNNING_METRICS = {
    "false_accepts_per_hour": "long_form", "long_form_false_reject_rate": "long_form", "detection_latency_ms": "long_form",
    "stream_latency_ms": "streaming", "stream_state_bytes": "streaming",
}  # fmt: skip


class NotMeasured(AsrCompressError):
    """A metric is unknown, null, without a baseline, or not comparable with it."""


@dataclass(frozen=True)
class Clause:
    """One comparison with a number."""

    prefix: str  # "" or one of COMPARISONS
    name: str
    op: str
    limit: float

    @property
    def metric(self) -> str:
        """As it is written: `delta.wer`."""
        return f"{self.prefix}.{self.name}" if self.prefix else self.name

    def allows(self, value: float) -> bool:
        """Whether `value` keeps to the limit. NaN never does: each test asks for the good case."""
        if self.op == "<=":
            return value <= self.limit
        if self.op == "<":
            return value < self.limit
        if self.op == ">=":
            return value >= self.limit
        if self.op == ">":
            return value > self.limit
        return value == self.limit


@dataclass(frozen=True)
class Requirement:
    """What a model must keep to: at least one of the clauses."""

    text: str
    clauses: tuple[Clause, ...]


@dataclass(frozen=True)
class Compared:
    """A metric's value for a candidate, and what it was computed from."""

    value: float
    candidate: int | float
    baseline: int | float | None  # the interval's upper end for excess


@dataclass(frozen=True)
class ClauseResult:
    """One clause, held against one model. `compared` is None where it was not measured."""

    metric: str
    op: str
    limit: float
    compared: Compared | None
    passed: bool
    message: str


@dataclass(frozen=True)
class Result:
    """One requirement, held against one model."""

    requirement: str
    label: str
    sha256: str
    status: Literal["passed", "failed", "error"]
    clauses: tuple[ClauseResult, ...]
    message: str

    @property
    def passed(self) -> bool:
        """True for "passed" only; an error is no pass."""
        return self.status == "passed"


def parse(text: str) -> Requirement:
    """Read a requirement.

    Raises:
        AsrCompressError: it does not fit the grammar; the message shows how to write it.
    """
    if re.search(r"\sand\s|[,;&]", text):
        raise AsrCompressError(
            f"--require '{text}': give one requirement each time; repeat --require for a further one"
        )
    return Requirement(text.strip(), tuple(_parse_clause(part.strip(), text) for part in re.split(r"\s+or\s+", text)))


def _parse_clause(part: str, text: str) -> Clause:
    match = CLAUSE.fullmatch(part)
    if match is None:
        hint = "write fractions, 0.27 for 27 %" if part.endswith("%") else EXAMPLE
        raise AsrCompressError(f"--require '{text}': '{part}' is not a requirement; {hint}")
    prefix, name, op, number = match.groups()
    if prefix is not None and prefix not in COMPARISONS:
        raise AsrCompressError(
            f"--require '{text}': '{prefix}.' is unknown; use {', '.join(f'{c}.' for c in COMPARISONS)}"
        )
    if not math.isfinite(float(number)):
        raise AsrCompressError(f"--require '{text}': {number} is too large for a limit; use a finite number")
    return Clause(prefix or "", name, op, float(number))


def evaluate(
    requirement: Requirement, candidate: MeasuredModel, baselines: Sequence[MeasuredModel], label: str | None = None
) -> Result:
    """Hold one model to one requirement. Never raises for a missing value: the result's status is "error"."""
    clauses = tuple(_evaluate_clause(clause, candidate, baselines) for clause in requirement.clauses)
    errors = [clause.message for clause in clauses if clause.compared is None]
    status: Literal["passed", "failed", "error"]
    if errors:
        status, message = "error", "; ".join(errors)
    elif any(clause.passed for clause in clauses):
        status, message = "passed", next(clause.message for clause in clauses if clause.passed)
    else:
        status, message = "failed", ", and ".join(clause.message for clause in clauses)
    return Result(requirement.text, label or candidate.file, candidate.sha256, status, clauses, message)


def _evaluate_clause(clause: Clause, candidate: MeasuredModel, baselines: Sequence[MeasuredModel]) -> ClauseResult:
    try:
        compared = compare(clause.prefix, clause.name, candidate, baselines)
    except NotMeasured as error:
        return ClauseResult(clause.metric, clause.op, clause.limit, None, False, f"{clause.metric}: {error}")
    passed = clause.allows(compared.value)
    value, limit = _distinct(compared.value, clause.limit)
    message = f"{clause.metric} is {value}{_workings(clause.prefix, compared)}, "
    message += f"{'within' if passed else 'not'} {clause.op} {limit}"
    return ClauseResult(clause.metric, clause.op, clause.limit, compared, passed, message)


def _distinct(value: float, limit: float) -> tuple[str, str]:
    """Both numbers in a few digits, or in all of them where a few would make them look the same."""
    short = f"{value:.6g}", f"{limit:.6g}"
    return short if short[0] != short[1] or value == limit else (repr(value), repr(limit))


def _workings(prefix: str, compared: Compared) -> str:
    if compared.baseline is None:
        return ""
    sign = "/" if prefix == "ratio" else "against"
    numbers = [f"{n:,}" if isinstance(n, int) else f"{n:.6g}" for n in (compared.candidate, compared.baseline)]
    return f" ({numbers[0]} {sign} {numbers[1]})"


def compare(prefix: str, name: str, candidate: MeasuredModel, baselines: Sequence[MeasuredModel]) -> Compared:
    """A metric of the grammar for one model.

    Args:
        prefix: "" for the candidate's own value, or one of COMPARISONS.
        name: the metric, such as "wer".
        candidate: the model in question.
        baselines: what describes the baseline: one entry for each evaluation of it.

    Raises:
        NotMeasured: there is no such value, and why.
    """
    own = _measured(name, candidate, candidate.file)
    if not prefix:
        return Compared(own.value, own.value, None)
    if not baselines:
        raise NotMeasured("there is no baseline to compare with; give --baseline FILE.json")
    reference, measurement = _pick_baseline(name, own, baselines)
    base = measurement.value
    if prefix == "delta":
        return Compared(own.value - base, own.value, base)
    if prefix == "excess":
        interval = reference.interval(name)
        if interval is None:
            raise NotMeasured(f"{measurement.source.path} has no confidence interval of {name}; use delta.{name}")
        return Compared(max(0.0, own.value - interval["high"]), own.value, interval["high"])
    if base == 0:
        raise NotMeasured(f"the baseline's {name} is 0, to which nothing has a ratio; use delta.{name}")
    value = own.value / base if prefix == "ratio" else (own.value - base) / base
    if not math.isfinite(value):
        raise NotMeasured(f"the baseline's {name} is {base}, too small for a ratio; use delta.{name}")
    return Compared(value, own.value, base)


def _measured(name: str, model: MeasuredModel, noun: str) -> Measurement:
    if name in model.metrics:
        return model.metrics[name]
    paths = ", ".join(str(sidecar.path) for sidecar in model.sidecars)
    way_out = f"give the sidecar of `asrcompress {_command(name)}` as well"
    if name in model.unmeasured:
        raise NotMeasured(f"{noun}: {name} was not measured (null in {paths}); {way_out}")
    import difflib

    alike = [known for known in model.metrics if known.startswith(EXPORTED) == name.startswith(EXPORTED)]
    near = difflib.get_close_matches(name, alike, 1)
    if _command(name) in {sidecar.kind for sidecar in model.sidecars}:  # that sidecar would not help: it is here
        way_out = f"measured are {', '.join(sorted(model.metrics))}"
    way_out = f"did you mean {near[0]}?" if near else way_out
    raise NotMeasured(f"{noun}: {name} is not in {paths}; {way_out}")


def percent_note(requirements: Sequence[Requirement]) -> str | None:
    """A word of warning where a rate is compared with a limit that looks like per cent."""
    for requirement in requirements:
        for clause in requirement.clauses:
            if (
                clause.name in ("wer", "cer", "false_accept_rate", "false_reject_rate")
                and clause.prefix in ("", "delta")
                and clause.limit > 1
            ):
                return f"{requirement.text}: {clause.name} is a fraction, so {clause.limit:g} means {clause.limit:.0%}"
    return None


def _command(name: str) -> str:
    if name.startswith(EXPORTED):
        return "export"
    return "analyze" if name in INPUT_METRICS or name in SIZE_METRICS else "eval"


def _pick_baseline(
    name: str, own: Measurement, baselines: Sequence[MeasuredModel]
) -> tuple[MeasuredModel, Measurement]:
    """The baseline's value that was measured as the candidate's was."""
    measured = [(baseline, _measured(name, baseline, f"baseline {baseline.file}")) for baseline in baselines]
    reasons = [incomparable(name, own.source, measurement.source) for _, measurement in measured]
    usable = [pair for pair, reason in zip(measured, reasons, strict=True) if reason is None]
    if not usable:
        raise NotMeasured(f"runs are not comparable: {reasons[0]}")
    if any(measurement.value != usable[0][1].value for _, measurement in usable):
        paths = " and ".join(str(measurement.source.path) for _, measurement in usable)
        raise NotMeasured(f"{paths} give different values of {name} for the baseline; leave one out")
    return usable[0]


def incomparable(name: str, candidate: Sidecar, baseline: Sidecar) -> str | None:
    """Why the two sidecars' values of a metric may not be compared, or None where they may."""
    ours, theirs = _conditions(name, candidate), _conditions(name, baseline)
    for condition in [*ours, *(key for key in theirs if key not in ours)]:
        (fact, shown), (other_fact, other_shown) = (c.get(condition, (None, "not stated")) for c in (ours, theirs))
        if fact != other_fact:
            return f"{condition} of {name} is {shown} in {candidate.path} and {other_shown} in {baseline.path}; measure both alike"
    return None


def _conditions(name: str, sidecar: Sidecar) -> dict[str, tuple[Any, str]]:
    """What must be equal for two values of a metric to be compared: by what it is, the fact and how to show it."""
    record = sidecar.record
    if name in SIZE_METRICS:
        return {}
    if sidecar.kind != "eval" or (name in INPUT_METRICS and "input" in record):
        convention = record.get("macs_convention") if name == "macs" else None
        stated = record.get("input"), _show(record.get("input"))
        return {"the stated input": stated, "the convention": (convention, str(convention))}
    decoding = dict(record.get("decoding") or {})
    if name in CURVE_METRICS:
        decoding.pop("threshold", None)
    conditions = {"the test data": _identity(record.get("data")), "the decoding": (decoding, _show(decoding))}
    if name in INPUT_METRICS:
        return conditions
    num_scored = record["metrics"].get("num_scored")
    conditions["the normaliser"] = _identity(record.get("normalizer"))
    conditions["the number of scored utterances"] = num_scored, str(num_scored)
    if name in RUNNING_METRICS:
        conditions["the running speech"] = _running(record.get(RUNNING_METRICS[name]))
    if name in SPEED_METRICS:
        environment = record.get("environment") or {}
        machine = {key: environment.get(key) for key in ("platform", "device", "num_threads")}
        conditions["the machine"] = machine, _show(machine)
    return conditions


def _running(block: Any) -> tuple[Any, str]:
    """What was played and how; the threshold is the model's own, where a rate of rejects chose it."""
    if not isinstance(block, dict):
        return None, "none"
    if "policy" not in block:
        facts: dict[str, Any] = {key: block.get(key) for key in ("chunk_ms", "window_s")}
        return facts, _show(facts)
    facts = dict(block["policy"]) if isinstance(block["policy"], dict) else {}
    if facts.get("chosen_by") == "false_reject_rate":
        facts.pop("threshold", None)
    negatives = block.get("negatives") if isinstance(block.get("negatives"), list) else []
    played = [(each.get("file"), each.get("sha256")) for each in negatives or [] if isinstance(each, dict)]
    names = " and ".join(str(name) for name, _ in played)
    return (facts, played), f"{names or 'nothing'} with {_show(facts)}"


def _identity(block: dict[str, Any] | None) -> tuple[Any, str]:
    """What a block's sha256 says it is, and its name for the reader."""
    if not block:
        return None, "none"
    name, sha256 = block.get("file") or block.get("name"), block.get("sha256")
    return sha256, f"{name} ({str(sha256)[:8]})"


def _show(block: dict[str, Any] | None) -> str:
    return ", ".join(f"{key} {value}" for key, value in (block or {}).items()) or "not stated"


def size_note(requirements: Sequence[Requirement], baselines: Sequence[MeasuredModel]) -> str | None:
    """A word of warning where the baseline's file is larger than its model, and a gate counts the file."""
    gated = {clause.metric for requirement in requirements for clause in requirement.clauses}
    for baseline in baselines:
        optimizer = baseline.metrics.get("optimizer_size_bytes")
        if (
            optimizer
            and optimizer.value > 0
            and gated & {"ratio.size_bytes", "relative.size_bytes", "delta.size_bytes"}
        ):
            return (
                f"{baseline.file} holds {optimizer.value:,} bytes of optimizer state, which ratio.size_bytes counts; "
                f"ratio.model_size_bytes compares with the model alone"
            )
    return None
