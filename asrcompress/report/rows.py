"""What every format shows: one row per model and test set, the columns that have something in them, the notes.

Names and units are the sidecars' and the gate's own, fractions included, so that a heading can be copied into
--require. Does not lay anything out; the formats do.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.gate import (
    COMPARISONS,
    SIZE_METRICS,
    NotMeasured,
    Requirement,
    Result,
    compare,
    evaluate,
    percent_note,
    size_note,
)
from asrcompress.report.trace_rows import running_note
from asrcompress.report.training_rows import Training, describe, read_training
from asrcompress.sidecar import MeasuredModel, Sidecar, merge

# In the order of the table. A comparison is shown where there is a baseline, a column where a row has a value.
COLUMNS = (
    "size_bytes", "ratio.size_bytes", "model_size_bytes", "ratio.model_size_bytes", "size_bytes_without_entropy_coding",
    "onnx_size_bytes", "onnx_max_logit_difference", "fairseq_size_bytes", "c_flash_bytes", "c_ram_bytes", "num_params",
    "macs", "ratio.macs", "wer", "delta.wer", "relative.wer", "cer",
    "au_fa_fr", "relative.au_fa_fr", "ratio.au_fa_fr", "false_accept_rate", "false_reject_rate",
    "false_accepts_per_hour", "long_form_false_reject_rate", "detection_latency_ms", "stream_latency_ms", "stream_state_bytes",
    "stream_max_difference", "stream_num_different", "real_time_factor",
)  # fmt: skip
QUALITY_METRICS = ("wer", "au_fa_fr")  # what a plot has on its quality axis
# Counts are left out: how many more reference words a run had says nothing.
RATES_PER_HOUR = frozenset({"false_accepts_per_hour"})
THREE_DIGITS = frozenset(
    {"au_fa_fr", "stream_max_difference", "onnx_max_logit_difference", *RATES_PER_HOUR}
)  # over decades
RUNNING = {"streaming": "streamed", "long_form": "long form"}  # blocks of an evaluation, and how a row is told by them
UNSTRUCTURED = "unstructured"  # of a pattern, in a sidecar
# What a course on small keyword models asks for, and no metric says as it stands: headings with a space, so that none is taken
# for a name in --require.
KEYWORD_COLUMNS: dict[str, Callable[[dict[str, float]], float]] = {
    "MiB as float32": lambda values: values["num_params"] * 4 / 2**20,
    "MiB of the file": lambda values: values["size_bytes"] / 2**20,
    "times smaller": lambda values: 1 / values["ratio.size_bytes"],
    "times fewer MACs": lambda values: 1 / values["ratio.macs"],
}
COMPARED = tuple(dict.fromkeys(name.rpartition(".")[2] for name in COLUMNS))


@dataclass(frozen=True)
class Row:
    """One model. `values` holds its metrics and its comparisons with the baseline, by the grammar's names.

    `training` is how it was fine-tuned, where a sidecar says so.
    """

    label: str
    is_baseline: bool
    measured: MeasuredModel
    values: dict[str, float]
    training: Training | None = None

    def interval(self, name: str) -> dict[str, Any] | None:
        """The confidence interval of a metric, where there is one."""
        return self.measured.interval(name)


@dataclass(frozen=True)
class Column:
    """A heading and one cell of text per row."""

    heading: str
    cells: tuple[str, ...]
    is_number: bool = True


@dataclass(frozen=True)
class Report:
    """All that the formats need. `results` is empty when nothing was required."""

    rows: tuple[Row, ...]
    results: tuple[Result, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool | None:
        """Whether every requirement is kept; None when there was none."""
        return all(result.passed for result in self.results) if self.results else None


def build_report(
    sidecars: Sequence[Sidecar], baseline: Sequence[Sidecar] = (), requirements: Sequence[Requirement] = ()
) -> Report:
    """Join the sidecars, compare every model with the baseline and hold it to the requirements.

    Raises:
        AsrCompressError: the sidecars contradict each other, `baseline` describes two models, or there
            is a requirement and no model besides the baseline to hold to it.
    """
    if len({sidecar.sha256 for sidecar in baseline}) > 1:
        names = " and ".join(str(sidecar.path) for sidecar in baseline)
        raise AsrCompressError(f"{names}: describe different models; --baseline takes the sidecars of one")
    models = merge([*baseline, *sidecars])
    baseline_sha256 = baseline[0].sha256 if baseline else None
    baselines = [model for model in models if model.sha256 == baseline_sha256]
    candidates = [model for model in models if model.sha256 != baseline_sha256]
    if requirements and not candidates:
        raise AsrCompressError(
            f"{sidecars[0].path}: describes the baseline itself; give the sidecars of the file to gate"
        )
    labels = _labels([*baselines, *candidates])
    rows = tuple(
        Row(label, is_baseline, model, _values(model, [] if is_baseline else baselines), _training(model))
        for label, model in zip(labels, [*baselines, *candidates], strict=True)
        for is_baseline in [model.sha256 == baseline_sha256]
    )
    results = tuple(
        evaluate(requirement, row.measured, baselines, row.label)
        for row in rows
        if not row.is_baseline
        for requirement in requirements
    )
    return Report(rows, results, tuple(_notes(rows, requirements, baselines)))


def _values(model: MeasuredModel, baselines: Sequence[MeasuredModel]) -> dict[str, float]:
    values: dict[str, float] = {name: m.value for name, m in model.metrics.items()}
    for name in COMPARED if baselines else ():
        for prefix in COMPARISONS:
            try:
                values[f"{prefix}.{name}"] = compare(prefix, name, model, baselines).value
            except NotMeasured:
                continue
    return values


def _training(model: MeasuredModel) -> Training | None:
    found = (read_training(sidecar.record, sidecar.path) for sidecar in model.sidecars)
    return next((training for training in found if training), None)


def _labels(models: Sequence[MeasuredModel]) -> list[str]:
    """File names; with the test set, then the sha256, then a number, where one alone is not unique."""
    plain = [printable(model.file) for model in models]
    for suffix in (_data_name, lambda model: model.sha256[:8]):
        repeated = {label for label in plain if plain.count(label) > 1}
        plain = [
            f"{label} ({suffix(model)})" if label in repeated else label
            for label, model in zip(plain, models, strict=True)
        ]
    return [
        f"{label} #{plain[:i].count(label) + 1}" if plain.count(label) > 1 else label for i, label in enumerate(plain)
    ]


def _data_name(model: MeasuredModel) -> str:
    data = (model.evaluation.record.get("data") if model.evaluation else None) or {}
    how = [words for block, words in RUNNING.items() if model.evaluation and model.evaluation.record.get(block)]
    return ", ".join([printable(data.get("file") or "not evaluated"), *how])


def _notes(rows: Sequence[Row], requirements: Sequence[Requirement], baselines: Sequence[MeasuredModel]) -> list[str]:
    notes = [_measured_on(row) for row in rows]
    notes = [f"measured on {text}" for text in dict.fromkeys(notes) if text]
    for row in rows:
        scored, total = row.values.get("num_scored"), row.values.get("num_utterances")
        if scored is not None and total is not None and scored != total:
            notes.append(f"{row.label}: {scored:,} of {total:,} utterances were scored")
        quality = [name for name in QUALITY_METRICS if name in row.values]
        if baselines and not row.is_baseline and quality and f"delta.{quality[0]}" not in row.values:
            try:
                compare("delta", quality[0], row.measured, baselines)
            except NotMeasured as error:
                notes.append(f"{row.label}: not compared with the baseline: {error}")
    notes += [text for row in rows if (text := _paired(row))]
    notes += [text for row in rows if (text := training_note(row))]
    notes += [text for row in rows if (text := spoken_note(row))]
    warnings = [size_note(requirements, baselines), percent_note(requirements)]
    return [printable(note) for note in [*notes, *filter(None, warnings)]]


def _paired(row: Row) -> str:
    """The difference by paired resampling, where an evaluation was given its baseline."""
    paired = (row.measured.evaluation.record.get("paired") if row.measured.evaluation else None) or {}
    ends = [paired.get(key) for key in ("delta", "low", "high")]
    if not all(isinstance(end, int | float) for end in ends):
        return ""
    name = f"delta.{paired.get('metric')}"
    delta, low, high = (number_text(name, float(end)) for end in ends if end is not None)
    return f"{row.label}: {name} is {delta}, [{low}, {high}] by paired resampling of utterances"


def training_note(row: Row) -> str:
    """How a model was fine-tuned or distilled, in one sentence; "" where it was not."""
    if row.training is None:
        return ""
    how = "distilled" if row.training.is_distilled else "fine-tuned"
    return printable(f"{row.label}: {how}, {describe(row.training)}")


def spoken_text(row: Row) -> str:
    """What a row's evaluation measured on running speech, in one sentence; "" where it did not."""
    evaluation = row.measured.evaluation
    return running_note(evaluation.record, evaluation.path) if evaluation else ""


def spoken_note(row: Row) -> str:
    """The same as a note on the row."""
    said = spoken_text(row)
    return printable(f"{row.label}: {said}") if said else ""


def _measured_on(row: Row) -> str:
    """The conditions of a row's quality, so that rows of different test sets are not read as one series."""
    if row.measured.evaluation is None:
        return ""
    record = row.measured.evaluation.record
    parts = [str(record["data"].get("file"))]
    for name, noun in (("num_utterances", "utterances"), ("num_reference_words", "reference words")):
        if row.values.get(name) is not None:
            parts.append(f"{row.values[name]:,} {noun}")
    if record.get("normalizer"):
        parts.append(f"normaliser {record['normalizer'].get('name')}")
    parts.extend(f"{key} {value}" for key, value in (record.get("decoding") or {}).items())
    return ", ".join(parts)


# ---------------------------------------------------------------- columns and text


def columns(report: Report) -> list[Column]:
    """The columns that have a value in some row; a cell without one is empty."""
    rows = report.rows
    baseline_mark = " (baseline)"
    found = [Column("model", tuple(row.label + (baseline_mark if row.is_baseline else "") for row in rows), False)]
    for heading in ("bits", "patterns", "activations", "level", "packed_params_share"):
        cells = tuple(compression_text(heading, row.measured.compression) for row in rows)
        if heading == "patterns":
            cells = tuple(
                cell + _dropped_text(row.measured) * bool(cell) for cell, row in zip(cells, rows, strict=True)
            )
        if any(cells):
            found.append(Column(heading, cells, heading in ("bits", "packed_params_share")))
    if any(row.training for row in rows):
        updates = (f"{row.training.best.update:,}" if row.training else "" for row in rows)
        found.append(Column("finetune_updates", tuple(updates)))
    for name in COLUMNS:
        if _repeats_size(name, rows) or all(name not in row.values for row in rows):
            continue
        texts = tuple(number_text(name, row.values[name]) if name in row.values else "" for row in rows)
        found.append(Column(name, texts))
        found += _interval_columns(name, rows)
    return found + _keyword_columns(rows)


def _keyword_columns(rows: Sequence[Row]) -> list[Column]:
    """Of models with an AU FA-FR, where there are some."""
    found = []
    for heading, derive in KEYWORD_COLUMNS.items():
        cells = []
        for row in rows:
            try:
                cells.append(f"{derive(row.values):.6g}" if "au_fa_fr" in row.values else "")
            except (KeyError, ZeroDivisionError):  # not measured, or not compared
                cells.append("")
        if any(cells):
            found.append(Column(heading, tuple(cells)))
    return found


def compression_text(key: str, compression: dict[str, Any]) -> str:
    """A cell on how a model was compressed; `bits` as 4+8 where its weights differ, `patterns` as 1:4+2:4."""
    value = compression.get(key)
    if key == "bits":
        value = "+".join(map(str, value)) if isinstance(value, list) else compression.get("num_bits")
    if key == "patterns" and isinstance(value, list):
        value = "+".join(map(str, value))
    if key == "packed_params_share" and isinstance(value, int | float):
        return f"{value:.4f}"
    return "" if value is None else printable(value)


def _dropped_text(model: MeasuredModel) -> str:
    """How much of the unstructured weights is dropped, as " 50 %", where a sidecar counts them."""
    for sidecar in model.sidecars:
        try:
            honesty = sidecar.record.get("honesty") or {}
            counted = [
                (w["num_kept"], w["num_params"]) for w in honesty.get("sparse", []) if w["pattern"] == UNSTRUCTURED
            ]
            codes = [w for w in honesty.get("codes", []) if w.get("pattern") == UNSTRUCTURED]
            counted += [(w["num_kept"], sum(w["histogram"])) for w in codes]
            kept, total = sum(kept for kept, _ in counted), sum(total for _, total in counted)
        except (KeyError, TypeError, AttributeError):
            raise AsrCompressError(
                f"{sidecar.path}: honesty does not count weights as it should; write the sidecar again"
            ) from None
        if total:
            return f" {(1 - kept / total) * 100:.3g} %"
    return ""


def _interval_columns(name: str, rows: Sequence[Row]) -> list[Column]:
    """A column for each confidence that the rows' intervals of a metric have; usually one."""
    intervals = [row.interval(name) for row in rows]
    confidences = sorted({interval["confidence"] for interval in intervals if interval})
    return [
        Column(
            f"{name} {confidence:.3g} interval",
            tuple(_ends(name, i) if i and i["confidence"] == confidence else "" for i in intervals),
        )
        for confidence in confidences
    ]


def _ends(name: str, interval: dict[str, Any]) -> str:
    low, high = interval["low"], interval["high"]
    if name in RATES_PER_HOUR:
        return f"[{low:.3g}, {high:.3g}]"
    return f"[{low:.4f}, {high:.4f}]" if high >= 0.001 else f"[{low:.3g}, {high:.3g}]"


def _repeats_size(name: str, rows: Sequence[Row]) -> bool:
    """The model-only size says nothing new where no file holds anything but its model."""
    twin = name.replace("model_size_bytes", "size_bytes")
    return twin != name and all(row.values.get(name) == row.values.get(twin) for row in rows)


def number_text(name: str, value: float) -> str:
    """A number as a reader wants it: counts in full with separators, rates in few digits, signs on differences."""
    sign = "+" if name.startswith(("delta.", "relative.")) else ""
    if isinstance(value, int):
        return f"{value:{sign},}"
    bare = name.rpartition(".")[2]
    if name.startswith(("ratio.", "relative.")) or bare in SIZE_METRICS or bare == "real_time_factor":
        return f"{value:{sign}.4f}"
    if bare.endswith("_ms"):
        return f"{value:{sign}.2f}"
    return f"{value:{sign}.3g}" if bare in THREE_DIGITS else f"{value:{sign}.5f}"


def printable(text: Any) -> str:
    """Text from a file, made fit for a terminal and XML: no control or unassigned character gets through."""
    return "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cn", "Cs", "Co", "Zl", "Zp") else c for c in str(text)
    )
