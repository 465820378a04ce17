"""What `sparsify` is told: an N:M pattern or a fraction of zeros for the whole model, and ordered rules over parts of it.

A recipe file is TOML with the options of the command line and `[[rules]]`, each with a glob `modules` and pattern, sparsity
or method for what it fits; of the rules that fit, the last one that says something counts. Reading and checking is here,
doing is sparsify.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.ops.choice import (
    DEFAULT_SPARSIFIER,
    Said,
    as_choice,
    check_coding,
    check_said,
    drops,
    said_of,
)
from asrcompress.ops.recipe import Rule, check_type, override, read_toml, to_config
from asrcompress.sparsifiers import needs_statistics
from asrcompress.sparsifiers.ranking import Choice


@dataclass(frozen=True)
class SparsifyConfig:
    """Options of `sparsify`, as the recipe in the artifact records them.

    pattern: keep_n:group_m along the input dimension, such as 2:4. sparsity: the fraction of zeros in every weight instead,
    wherever they fall. method: how the kept weights are chosen. include/exclude: shell globs over weight names; a weight is
    pruned if some include fits and no exclude does. rules: of these, pattern, sparsity and sparsifier count; `none` leaves a
    weight as it is. calibration_limit: utterances or clips that calibration runs. entropy_coding: zstd where that makes a
    stored tensor smaller. compact: all of a small model as one coded tensor instead.
    """

    pattern: str | None = None
    sparsity: float | None = None
    method: str = DEFAULT_SPARSIFIER
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    calibration_limit: int = 64
    rules: tuple[Rule, ...] = ()
    entropy_coding: str | None = None
    compact: bool = False

    def __post_init__(self) -> None:
        said = check_said(self.pattern, self.sparsity)
        if not (drops(said) or any(drops(rule.pattern) or drops(rule.sparsity) for rule in self.rules)):
            raise AsrCompressError(
                "nothing says what to drop; add --pattern 2:4 (two weights kept of every four) or --sparsity 0.5 (half of each matrix)"
            )
        needs_statistics(self.method)
        if not 1 <= self.calibration_limit <= 10**6:
            raise AsrCompressError(f"--calibration-limit {self.calibration_limit}: use 1 to {10**6}")
        object.__setattr__(self, "entropy_coding", check_coding(self.entropy_coding, is_compact=self.compact))

    @property
    def level(self) -> str:
        """No more than storing is asked for."""
        return "stored"

    @property
    def is_static(self) -> bool:
        """Activations are left alone."""
        return False

    def level_of(self, name: str) -> str:
        """The same for every module or weight."""
        return self.level

    @property
    def _said(self) -> Said:
        return self.pattern if self.pattern is not None else self.sparsity

    def sparsity_of(self, name: str) -> tuple[Choice | None, str]:
        """(pattern or fraction of zeros, method) of a weight; None where it is left as it is."""
        said, method = said_of(name, self._said, self.method, self.rules)
        return as_choice(said), method

    @property
    def data_needed(self) -> list[str]:
        """Methods that look at data: asked for before any work is done."""
        methods = {self.method, *(rule.sparsifier for rule in self.rules if rule.sparsifier)}
        return sorted(method for method in methods if needs_statistics(method))

    def to_json(self) -> dict[str, Any]:
        """What the artifact records, in the words of a quantizing step: there `method` is how codes are found."""
        record: dict[str, Any] = {
            "pattern": self.pattern,
            "sparsity": self.sparsity,
            "sparsifier": self.method,
            "include": list(self.include),
            "exclude": list(self.exclude),
            "rules": [rule.to_json() for rule in self.rules],
            "entropy_coding": self.entropy_coding,
            "compact": self.compact or None,
        }
        return {key: value for key, value in record.items() if value is not None and (key != "rules" or value)}


OPTION_TYPES: dict[str, type] = {
    "pattern": str, "sparsity": float, "method": str, "include": list, "exclude": list, "calibration_limit": int,
    "entropy_coding": str, "compact": bool,
}  # fmt: skip
RULE_KEYS = ("modules", "pattern", "sparsity", "method")


def sparsify_config(recipe: str | Path | None, given: dict[str, Any]) -> SparsifyConfig:
    """The options of a recipe file, if there is one, under those `given`.

    Raises:
        AsrCompressError: the recipe cannot be read, or says something that a recipe of `sparsify` does not; or the options do
            not fit together.
    """
    if recipe is None:
        return SparsifyConfig(**to_config(given))
    options = _read_options(read_toml(recipe), Path(recipe))
    try:
        return SparsifyConfig(**override(options, to_config(given)))
    except AsrCompressError as error:
        raise AsrCompressError(f"{recipe}: {error}") from error


def _read_options(table: dict[str, Any], where: Path) -> dict[str, Any]:
    options = {key: value for key, value in table.items() if key != "finetune"}  # of training; read where that is done
    rules = options.pop("rules", [])
    for key, value in options.items():
        if key not in OPTION_TYPES:
            raise AsrCompressError(
                f"{where}: '{key}' is not an option of sparsify; use {', '.join((*OPTION_TYPES, 'rules'))}"
            )
        check_type(where, key, value, OPTION_TYPES[key])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise AsrCompressError(f"{where}: 'rules' must be tables, each under a line [[rules]]")
    return to_config(options) | {"rules": tuple(_read_rule(where, rule) for rule in rules)}


def _read_rule(where: Path, rule: dict[str, Any]) -> Rule:
    for key, value in rule.items():
        if key not in RULE_KEYS:
            raise AsrCompressError(
                f"{where}: '{key}' is not an option of a rule of sparsify; use {', '.join(RULE_KEYS)}"
            )
        kind = list if key == "modules" and isinstance(value, list) else float if key == "sparsity" else str
        check_type(where, key, value, kind)
    if "modules" not in rule:
        raise AsrCompressError(f"{where}: a rule has no 'modules'; give a glob such as modules = 'decoder.*'")
    try:
        return Rule(**{"sparsifier" if key == "method" else key: value for key, value in rule.items()})
    except AsrCompressError as error:
        raise AsrCompressError(f"{where}: {error}") from error
