"""The record beside a file: building one, reading one, joining those that describe the same model.

A sidecar is JSON: units in names, fractions, null = not measured, no NaN. docs/sidecar.schema.json is
the full contract, which tests validate against; `read` checks as much as reporting and gating rely on.
Does not compare models; gate.py does. Standard library only.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress import __version__
from asrcompress.errors import AsrCompressError
from asrcompress.files import read_json, sha256_file

SCHEMA_VERSION = 1
KINDS = ("artifact", "analyze", "eval", "sensitivity", "export")
# Of those that lie beside the model itself; an export's lies beside the folder that was written.
SUFFIXES = {"artifact": ".json", "analyze": ".analyze.json", "eval": ".eval.json", "sensitivity": ".sensitivity.json"}
MAX_DEPTH = 32
METRIC_NAME = re.compile(r"[a-z][a-z0-9_]*")
MODEL_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
# Facts about the file itself: they stand in every sidecar's model block, so no command has to repeat them.
MODEL_METRICS = ("size_bytes", "model_size_bytes", "optimizer_size_bytes", "num_params")
# Metrics that are a statement about an input; where analyze and eval state different ones, analyze's is shown.
INPUT_METRICS = ("macs", "thop_macs", "bops")


# ---------------------------------------------------------------- writing


def sidecar_path(model: str | Path, kind: str) -> Path:
    """Where the sidecar of this kind lies: x.safetensors -> x.safetensors.json, .analyze.json, .eval.json, .sensitivity.json."""
    model = Path(model)
    return model.with_name(model.name + SUFFIXES[kind])


def describe_environment(*, device: str, num_threads: int) -> dict[str, Any]:
    """Versions and machine type, without host or user names. Does not import what it names."""
    import platform

    return {
        "python": platform.python_version(),
        "torch": _version("torch"),
        "torchaudio": _version("torchaudio"),
        "fairseq": _version("fairseq-fixed") or _version("fairseq"),
        "platform": f"{platform.system()}-{platform.machine()}",
        "device": device,
        "num_threads": num_threads,
    }


def created_at() -> str:
    """The time that a record carries, in UTC to the second: now, or SOURCE_DATE_EPOCH, so that a run can be repeated to the byte.

    SOURCE_DATE_EPOCH is in seconds since 1970, as at https://reproducible-builds.org/specs/source-date-epoch/.

    Raises:
        AsrCompressError: SOURCE_DATE_EPOCH is not a number of seconds, or none that a date has.
    """
    from datetime import UTC, datetime

    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    try:
        if given and not re.fullmatch(r"[0-9]+", given):
            raise ValueError(given)
        time = datetime.fromtimestamp(int(given), UTC) if given else datetime.now(UTC)
    except (ValueError, OverflowError, OSError):
        raise AsrCompressError(
            f"SOURCE_DATE_EPOCH={given[:40]!a}: is not a date in seconds since 1970; write digits, such as $(date +%s), or unset it"
        ) from None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _version(distribution: str) -> str | None:
    import importlib.metadata

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def build(
    kind: str, *, model: dict[str, Any], metrics: dict[str, Any], environment: dict[str, Any], **fields: Any
) -> dict[str, Any]:
    """Put a sidecar record together, in the order a reader wants it.

    Args:
        kind: one of KINDS.
        model: the model block: file, format, sha256, size_bytes, ...
        metrics: numbers by name; None where something was not measured.
        environment: what `describe_environment` gives.
        fields: whatever else the kind carries (data, intervals, layers, ...).

    Raises:
        ValueError: the record would not be a valid sidecar (a bug in the caller).
        AsrCompressError: SOURCE_DATE_EPOCH is set and is no date.
    """
    record = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "tool": {"name": "asrcompress", "version": __version__},
        "created_at": created_at(),
        "environment": environment,
        "model": model,
        **fields,
        "metrics": metrics,
    }
    try:
        check(record, "the record")
    except AsrCompressError as error:
        raise ValueError(str(error)) from error
    return record


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Sidecar:
    """A record and the file it was read from."""

    path: Path
    record: dict[str, Any]

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return str(self.record["kind"])

    @property
    def sha256(self) -> str:
        """The sha256 of the model that the record describes (not of the sidecar)."""
        return str(self.record["model"]["sha256"])


def read(path: str | Path) -> Sidecar:
    """Read one sidecar.

    Raises:
        AsrCompressError: a model was given instead, the file is missing or not a sidecar, its
            schema_version is not ours, it holds NaN or infinity, or the file that it describes
            lies beside it and has been replaced since.
    """
    path = Path(path)
    if path.suffix in MODEL_SUFFIXES:
        siblings = [sidecar_path(path, kind) for kind in reversed(SUFFIXES)]
        found = [str(sibling) for sibling in siblings if sibling.is_file()]
        hint = (
            f"give {' or '.join(found)}"
            if found
            else f"give its sidecar; `asrcompress eval {path} --data ...` writes one"
        )
        raise AsrCompressError(f"{path}: is a model, not a sidecar; {hint}")
    record = read_json(path)
    check(record, path)
    _require_current(path, record["model"])
    return Sidecar(path, record)


def _require_current(path: Path, described: dict[str, Any]) -> None:
    """Raise when the model beside the sidecar is another one; a sidecar that was placed elsewhere has none beside it."""
    model = path.parent / Path(described["file"]).name
    if not os.path.isfile(model):  # False, too, for a name that no file can have
        return
    try:
        found = model.stat()
        same = found.st_size == described["size_bytes"]
        same = same and _sha256_of(model, found.st_size, found.st_mtime_ns) == described["sha256"]
    except OSError as error:
        raise AsrCompressError(f"{model}: could not be read: {error.strerror or error}") from error
    if not same:
        raise AsrCompressError(
            f"{path}: describes another file than {model} is now; measure that again, or move the sidecar elsewhere"
        )


@functools.lru_cache
def _sha256_of(path: Path, size_bytes: int, changed_ns: int) -> str:
    """Once for all sidecars of a file; size and time are there to tell its versions apart."""
    return sha256_file(path)


def check(record: dict[str, Any], where: str | Path) -> None:
    """Raise AsrCompressError, naming `where` and the field, unless `record` can be reported and gated on."""
    version, kind = record.get("schema_version"), record.get("kind")
    if isinstance(version, int) and not isinstance(version, bool) and version > SCHEMA_VERSION:
        raise AsrCompressError(
            f"{where}: schema_version {version} is newer than {SCHEMA_VERSION}, which this asrcompress reads; update asrcompress"
        )
    if version != SCHEMA_VERSION or isinstance(version, bool) or kind not in KINDS:
        raise AsrCompressError(
            f"{where}: is not a sidecar (schema_version {SCHEMA_VERSION}, kind {', '.join(KINDS)}); "
            f"give a file that asrcompress quantize, analyze, eval or sensitivity wrote"
        )
    for name, value in _walk(record, where):
        _check_value(name, value, where)
    model = _expect(record, "model", dict, where)
    _expect(model, "file", str, where, "model.")
    if not re.fullmatch(r"[0-9a-f]{64}", _expect(model, "sha256", str, where, "model.")):
        raise AsrCompressError(f"{where}: model.sha256 is not 64 hex digits; write the sidecar again")
    for name, value in _expect(record, "metrics", dict, where).items():
        if not METRIC_NAME.fullmatch(name):
            raise AsrCompressError(f"{where}: metrics: {name!r} is not a metric name (small letters, digits, _)")
        _expect_number(value, f"metrics.{name}", where, optional=True)
    for name in MODEL_METRICS:
        _expect_number(model.get(name), f"model.{name}", where, optional=True)
    if not isinstance(model.get("size_bytes"), int) or model["size_bytes"] <= 0:
        raise AsrCompressError(f"{where}: model.size_bytes is not a file's size; write the sidecar again")
    for name in ("data", "decoding", "intervals", "normalizer", "paired", "curve", "input", "environment"):
        if record.get(name) is not None:
            _expect(record, name, dict, where)
    if kind in ("eval", "sensitivity"):
        _expect(_expect(record, "data", dict, where), "sha256", str, where, "data.")
    for name, interval in (record.get("intervals") or {}).items():
        for end in ("low", "high", "confidence") if isinstance(interval, dict) else ("low",):
            number = interval.get(end) if isinstance(interval, dict) else None
            _expect_number(number, f"intervals.{name}.{end}", where)
    _check_curve(record.get("curve"), where)


def _walk(record: dict[str, Any], where: str | Path) -> Iterator[tuple[str, Any]]:
    """Every leaf and every key with its dotted name; a loop, since nesting may be hostile."""
    stack: list[tuple[str, Any, int]] = [("", record, 0)]
    while stack:
        name, value, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise AsrCompressError(f"{where}: is nested more than {MAX_DEPTH} deep; no sidecar is, write it again")
        if isinstance(value, dict):
            for key, item in value.items():
                yield name or "a key", key
                stack.append((f"{name}.{key}" if name else str(key), item, depth + 1))
        elif isinstance(value, list):
            stack.extend((name, item, depth + 1) for item in value)
        else:
            yield name, value


def _check_value(name: str, value: Any, where: str | Path) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise AsrCompressError(f"{where}: {name} is {value}, which nobody measured; measure again, or write null")
    if isinstance(value, int | float) and abs(value) >= 2**63:
        raise AsrCompressError(f"{where}: {name} is too large a number to be true; write the sidecar again")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise AsrCompressError(f"{where}: {name!a} holds half a character; write the sidecar again") from None


def _expect(record: dict[str, Any], name: str, kind: type, where: str | Path, prefix: str = "") -> Any:
    value = record.get(name)
    if not isinstance(value, kind):
        noun = "an object" if kind is dict else "a string"
        raise AsrCompressError(f"{where}: {prefix}{name} is not {noun}; write the sidecar again")
    return value


def _expect_number(value: Any, name: str, where: str | Path, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = "measure again, or write null" if optional else "write the sidecar again"
        raise AsrCompressError(f"{where}: {name} is not a number; {hint}")


def _check_curve(curve: dict[str, Any] | None, where: str | Path) -> None:
    lists = [] if curve is None else [curve.get(n) for n in ("threshold", "false_accept_rate", "false_reject_rate")]
    if any(not isinstance(items, list) or len(items) != len(lists[0] or []) for items in lists):
        raise AsrCompressError(f"{where}: curve does not hold three lists of one length; write the sidecar again")
    for items in lists:
        for item in items or []:
            _expect_number(item, "curve", where)


# ---------------------------------------------------------------- joining


@dataclass(frozen=True)
class Measurement:
    """A number and the sidecar that says it (which also says on what data or input)."""

    value: int | float
    source: Sidecar


@dataclass(frozen=True)
class MeasuredModel:
    """One model as its sidecars describe it together, with at most one evaluation.

    `metrics` holds what was measured; `unmeasured` the names that a sidecar gives as null.
    """

    sidecars: tuple[Sidecar, ...]
    metrics: dict[str, Measurement]
    unmeasured: frozenset[str]

    @property
    def sha256(self) -> str:
        """Of the model's file."""
        return self.sidecars[0].sha256

    @property
    def file(self) -> str:
        """The model file's base name."""
        return str(self.sidecars[0].record["model"]["file"])

    @property
    def compression(self) -> dict[str, Any]:
        """The model block's `compression`; empty for a float checkpoint."""
        blocks = [sidecar.record["model"].get("compression") for sidecar in self.sidecars]
        return next((block for block in blocks if isinstance(block, dict)), {})

    @property
    def evaluation(self) -> Sidecar | None:
        """The sidecar of kind "eval", where there is one."""
        return next((sidecar for sidecar in self.sidecars if sidecar.kind == "eval"), None)

    def interval(self, name: str) -> dict[str, Any] | None:
        """The confidence interval of a metric, where the evaluation has one."""
        record = self.evaluation.record if self.evaluation else {}
        interval: dict[str, Any] | None = (record.get("intervals") or {}).get(name)
        return interval


def merge(sidecars: Sequence[Sidecar]) -> list[MeasuredModel]:
    """Join sidecars by their model's sha256, in order of first appearance.

    A model evaluated twice (two test sets) becomes two entries that share its other sidecars.
    The same record given twice counts once.

    Raises:
        AsrCompressError: two sidecars contradict each other about one model, or one is a sensitivity table, which is
            about what might be done to a model and not about a file.
    """
    for sidecar in sidecars:
        if sidecar.kind == "sensitivity":
            raise AsrCompressError(
                f"{sidecar.path}: is a sensitivity table, which is not compared with models; "
                f"`asrcompress report {sidecar.path}` alone shows it"
            )
    groups: dict[str, list[Sidecar]] = {}
    for sidecar in sidecars:
        group = groups.setdefault(sidecar.sha256, [])
        if all(sidecar.record != other.record for other in group):
            group.append(sidecar)
    models: list[MeasuredModel] = []
    for group in groups.values():
        shared = sorted((s for s in group if s.kind != "eval"), key=lambda s: KINDS.index(s.kind))
        evaluations = [s for s in group if s.kind == "eval"]
        models.extend(_join([*shared, *each]) for each in ([[e] for e in evaluations] or [[]]))
    return models


def _join(sidecars: list[Sidecar]) -> MeasuredModel:
    metrics: dict[str, Measurement] = {}
    unmeasured: set[str] = set()
    for sidecar in sidecars:
        model = sidecar.record["model"]
        said = [(name, model[name]) for name in MODEL_METRICS if name in model]
        for name, value in [*said, *sidecar.record["metrics"].items()]:
            known = metrics.get(name)
            if value is None:
                unmeasured.add(name)
            elif known is None:
                metrics[name] = Measurement(value, sidecar)
            elif known.value != value and not _other_input(name, known.source, sidecar):
                raise AsrCompressError(
                    f"{sidecar.path}: says {name} is {value}, {known.source.path} says {known.value}, "
                    f"for the same {model['file']}; leave out the wrong one, or measure again"
                )
    return MeasuredModel(tuple(sidecars), metrics, frozenset(unmeasured - metrics.keys()))


def _other_input(name: str, first: Sidecar, second: Sidecar) -> bool:
    """True where analyze and eval each state a cost, for inputs of their own: no contradiction."""
    kinds_differ = first.kind != second.kind
    return name in INPUT_METRICS and kinds_differ and first.record.get("input") != second.record.get("input")
