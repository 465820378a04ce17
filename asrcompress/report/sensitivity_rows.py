"""A sensitivity record as tables, heat maps and words need it: units x options in one order, groups, which figure is exact.

Checks what it takes from the record, since a file may say anything. Lays nothing out. Standard library only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.report.rows import printable

QUALITY_METRICS = ("wer", "au_fa_fr")
OPTION = re.compile(r"int([1-9][0-9]?)(?:\+([1-9][0-9]{0,3}):([1-9][0-9]{0,3}))?")
PROXIES = {"fisher": "Fisher-weighted error", "kl": "Divergence of outputs"}


@dataclass(frozen=True)
class Option:
    """A column: codes of `num_bits`, and for a weight keep_n of every group_m, written "2:4"; None is dense."""

    name: str
    num_bits: int
    pattern: str | None


@dataclass(frozen=True)
class Cell:
    """What one option does to a unit or a group.

    cost: change of the loss in nats per token: measured where `is_exact`, else estimated; None: not known.
    quality: measured change of wer or au_fa_fr, a difference of fractions; None: not measured.
    kl: measured divergence from the float model's outputs, nats per token; None: not measured.
    size_bytes: of the weight in a file; None for activations and groups.
    fisher, kl_proxy: the proxies, before they are scaled to measurements.
    """

    cost: float | None
    is_exact: bool
    quality: float | None = None
    kl: float | None = None
    size_bytes: int | None = None
    fisher: float | None = None
    kl_proxy: float | None = None


@dataclass(frozen=True)
class Row:
    """A unit, or a group of units; `cells` by option name, without those that are not possible."""

    name: str
    kind: str
    block: str
    target: str
    num_units: int
    num_params: int
    size_bytes_float: int
    cells: Mapping[str, Cell]

    def cost(self, option: Option) -> float | None:
        """The change of the loss; None where the option is not possible or nothing is known."""
        return self.cells[option.name].cost if option.name in self.cells else None


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of a proxy with what was measured; None where there were too few pairs."""

    proxy: str
    against: str
    spearman: float | None
    low: float | None
    high: float | None
    confidence: float
    num_pairs: int


@dataclass(frozen=True)
class Sensitivity:
    """All that the formats need.

    loss, quality: of the float model; quality_name: "wer", "au_fa_fr" or "" where neither was measured.
    options: dense ones first, then pattern by pattern, most bits first.
    units: block by block, blocks in the order in which the model has them.
    """

    model: str
    loss: float | None
    quality_name: str
    quality: float | None
    options: tuple[Option, ...]
    units: tuple[Row, ...]
    kinds: tuple[Row, ...]
    blocks: tuple[Row, ...]
    correlations: tuple[Correlation, ...]
    advice: tuple[str, ...]
    warnings: tuple[str, ...]
    record: Mapping[str, Any]

    @property
    def dense(self) -> tuple[Option, ...]:
        """The options without a pattern, most bits first."""
        return tuple(option for option in self.options if option.pattern is None)

    @property
    def unit_of_loss(self) -> str:
        """What the loss is in: a keyword model decides once a clip, others once a token."""
        return "nats per clip" if self.quality_name == "au_fa_fr" else "nats per token"

    @property
    def rows(self) -> tuple[Row, ...]:
        """Units and groups."""
        return (*self.units, *self.kinds, *self.blocks)


def read_sensitivity(record: Mapping[str, Any], where: str | Path = "the record") -> Sensitivity:
    """Make a record ready to be shown.

    Args:
        record: of kind "sensitivity", as sidecar.read gives it.
        where: begins the line of an error.

    Raises:
        AsrCompressError: something that is shown has another type than docs/sidecar.schema.json says, a unit is there
            twice, or a group has no unit.
    """
    if record.get("kind") != "sensitivity":
        raise AsrCompressError(f"{where}: is not a sensitivity table; give a file that `asrcompress sensitivity` wrote")
    look = _Reader(where)
    metrics = look.table(record, "metrics")
    quality_name = next((name for name in QUALITY_METRICS if metrics.get(name) is not None), "")
    units = [look.unit(unit, f"units[{i}]", quality_name) for i, unit in enumerate(look.items(record, "units"))]
    if not units:
        raise AsrCompressError(f"{where}: units is empty; run `asrcompress sensitivity` again")
    seen: set[str] = set()
    for unit in units:
        if unit.name in seen:
            raise AsrCompressError(f"{where}: units has '{printable(unit.name)}' twice; write the sidecar again")
        seen.add(unit.name)
    blocks = list(dict.fromkeys(unit.block for unit in units))
    units.sort(key=lambda unit: blocks.index(unit.block))  # stable: within a block the record's order stays
    groups = look.table(record, "groups")
    correlations = look.items(record, "correlation")
    return Sensitivity(
        model=look.text(look.table(record, "model"), "file", "model"),
        loss=look.number(metrics, "loss", "metrics"),
        quality_name=quality_name,
        quality=look.number(metrics, quality_name, "metrics") if quality_name else None,
        options=_ordered(name for unit in units for name in unit.cells),
        units=tuple(units),
        kinds=_groups(look, groups, "kind", units, quality_name),
        blocks=_groups(look, groups, "block", units, quality_name),
        correlations=tuple(look.correlation(c, f"correlation[{i}]") for i, c in enumerate(correlations)),
        advice=tuple(look.strings(record, "advice")),
        warnings=tuple(look.strings(record, "warnings")),
        record=record,
    )


def check_choice(found: Sensitivity, chosen: Mapping[str, str | None]) -> None:
    """Raise AsrCompressError when a plan names a unit or an option that the table does not have."""
    units = {unit.name: unit for unit in found.units}
    for name, option in chosen.items():
        if name not in units:
            raise AsrCompressError(
                f"the plan names '{printable(name)}', which this table lacks: it is of another model"
            )
        if option is not None and option not in units[name].cells:
            raise AsrCompressError(
                f"the plan gives '{printable(name)}' {printable(option)}, which this table lacks: it was made from another"
            )


def _ordered(names: Iterable[str]) -> tuple[Option, ...]:
    """Options without a pattern first, then patterns in the order in which they come, most bits first in each."""
    options = [parse_option(name) for name in dict.fromkeys(names)]
    patterns = list(dict.fromkeys([None, *(option.pattern for option in options)]))
    return tuple(sorted(options, key=lambda option: (patterns.index(option.pattern), -option.num_bits)))


def parse_option(name: str) -> Option:
    """int4 or int4+2:4.

    Raises:
        ValueError: `name` is not an option.
    """
    match = OPTION.fullmatch(name)
    if not match:
        raise ValueError(name)
    return Option(name, int(match[1]), f"{match[2]}:{match[3]}" if match[2] else None)


def _groups(look: _Reader, groups: Mapping[str, Any], by: str, units: list[Row], quality_name: str) -> tuple[Row, ...]:
    """A row per kind or block: what was measured of the group at once, else the sum over its units."""
    measured = {}
    for i, group in enumerate(look.items(groups, by, "groups")):
        where = f"groups.{by}[{i}]"
        measured[look.text(group, "name", where)] = dict(look.cells(group, where, quality_name, "loss_change"))
    members: dict[str, list[Row]] = {}
    for unit in units:
        members.setdefault(getattr(unit, by), []).append(unit)
    for name in measured:
        if name not in members:
            raise AsrCompressError(f"{look.where}: groups.{by}: no unit is in '{printable(name)}'; write it again")
    return tuple(_group(name, by, rows, measured.get(name, {})) for name, rows in members.items())


def _group(name: str, by: str, rows: list[Row], measured: dict[str, Cell]) -> Row:
    cells = {}
    for option in dict.fromkeys(option for row in rows for option in row.cells):
        found = measured.get(option)
        if found is None or not found.is_exact:
            costs = [row.cells[option].cost for row in rows if option in row.cells]
            known = [cost for cost in costs if cost is not None]
            found = Cell(math.fsum(known) if len(known) == len(costs) else None, False)
        cells[option] = found
    kinds, blocks, targets = ({getattr(row, key) for row in rows} for key in ("kind", "block", "target"))
    return Row(
        name=name,
        kind=name if by == "kind" else _only(kinds),
        block=name if by == "block" else _only(blocks),
        target=_only(targets) or "both",
        num_units=len(rows),
        num_params=sum(row.num_params for row in rows),
        size_bytes_float=sum(row.size_bytes_float for row in rows),
        cells=cells,
    )


def _only(values: set[str]) -> str:
    return next(iter(values)) if len(values) == 1 else ""


class _Reader:
    """Takes values out of a record, each with the type that it must have; `where` begins the line of an error."""

    def __init__(self, where: str | Path) -> None:
        self.where = where

    def wrong(self, place: str, noun: str) -> AsrCompressError:
        return AsrCompressError(f"{self.where}: {printable(place)} is not {noun}; write the sidecar again")

    def table(self, record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = record.get(key)
        if not isinstance(value, Mapping):
            raise self.wrong(key, "an object")
        return value

    def items(self, record: Mapping[str, Any], key: str, place: str = "") -> list[Mapping[str, Any]]:
        value = record.get(key)
        place = f"{place}.{key}" if place else key
        if not isinstance(value, list):
            raise self.wrong(place, "a list")
        for i, item in enumerate(value):
            if not isinstance(item, Mapping):
                raise self.wrong(f"{place}[{i}]", "an object")
        return value

    def text(self, record: Mapping[str, Any], key: str, place: str) -> str:
        value = record.get(key)
        if not isinstance(value, str):
            raise self.wrong(f"{place}.{key}", "a string")
        return value

    def number(self, record: Mapping[str, Any], key: str, place: str) -> float | None:
        value = record.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(f"{place}.{key}", "a number or null")
        return float(value)

    def count(self, record: Mapping[str, Any], key: str, place: str) -> int | None:
        value = record.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise self.wrong(f"{place}.{key}", "a count or null")
        return value

    def strings(self, record: Mapping[str, Any], key: str) -> list[str]:
        value = record.get(key)
        if not isinstance(value, list) or any(not isinstance(item, str) for item in value):
            raise self.wrong(key, "a list of strings")
        return value

    def unit(self, unit: Mapping[str, Any], place: str, quality_name: str) -> Row:
        return Row(
            name=self.text(unit, "name", place),
            kind=self.text(unit, "kind", place),
            block=self.text(unit, "block", place),
            target=self.text(unit, "target", place),
            num_units=1,
            num_params=self.count(unit, "num_params", place) or 0,
            size_bytes_float=self.count(unit, "size_bytes_float", place) or 0,
            cells=dict(self.cells(unit, place, quality_name, "cost")),
        )

    def cells(self, row: Mapping[str, Any], place: str, quality_name: str, cost_key: str) -> Iterator[tuple[str, Cell]]:
        """The options of a row by name; one of which nothing is known at all is not possible, and left out."""
        seen: set[str] = set()
        for i, option in enumerate(self.items(row, "options", place)):
            where = f"{place}.options[{i}]"
            name = self.text(option, "option", where)
            if not OPTION.fullmatch(name):
                raise self.wrong(f"{where}.option", "an option such as int4 or int4+2:4")
            if name in seen:
                raise AsrCompressError(f"{self.where}: {place} has {name} twice; write the sidecar again")
            seen.add(name)
            keys = ("loss_change", cost_key, "fisher", "kl_proxy", "kl")
            loss, cost, fisher, kl_proxy, kl = (self.number(option, key, where) for key in keys)
            if loss is None and cost is None and fisher is None and kl_proxy is None:
                continue
            quality = self.number(option, f"{quality_name}_change", where) if quality_name else None
            size = self.count(option, "size_bytes", where)
            shown = cost if loss is None else loss
            yield name, Cell(shown, loss is not None, quality, kl, size, fisher, kl_proxy)

    def correlation(self, found: Mapping[str, Any], place: str) -> Correlation:
        confidence = self.number(found, "confidence", place)
        if confidence is None:
            raise self.wrong(f"{place}.confidence", "a number")
        return Correlation(
            proxy=self.text(found, "proxy", place),
            against=self.text(found, "against", place),
            spearman=self.number(found, "spearman", place),
            low=self.number(found, "low", place),
            high=self.number(found, "high", place),
            confidence=confidence,
            num_pairs=self.count(found, "num_pairs", place) or 0,
        )


# ---------------------------------------------------------------- what hurts

HURTS_FROM = 0.05  # of the float model's loss: an option that raises the loss by more is said to hurt


def hurts_from(found: Sensitivity) -> float:
    """The change of the loss above which an option is said to hurt, in nats per token."""
    return HURTS_FROM * found.loss if found.loss and found.loss > 0 else 0.01


def ranking_option(found: Sensitivity) -> Option:
    """The option that rows are sorted by: the dense one of fewest bits at which at most half of the units hurt.

    Units differ there: with more bits nothing hurts, with fewer nearly everything does.
    """
    limit = hurts_from(found)
    options = found.dense or found.options
    for option in reversed(options):
        costs = [cost for unit in found.units if (cost := unit.cost(option)) is not None]
        if sum(cost > limit for cost in costs) * 2 <= len(costs):
            return option
    return options[0]


def by_sensitivity(rows: Sequence[Row], option: Option) -> list[Row]:
    """The rows, the most costly at an option first, those without a figure last."""
    return sorted(rows, key=lambda row: -math.inf if (cost := row.cost(option)) is None else cost, reverse=True)
