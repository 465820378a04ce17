"""What `quantize` and `swap` are told: options for the whole model, and ordered rules over parts of it.

A recipe file is TOML with the options of the command line and `[[rules]]`, each with a glob `modules` and what holds for
what it fits; of the rules that fit, the last one that says something counts. Globs are over the names of modules,
weights and sites. Reading and checking is here, doing is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.grids import Granularity
from asrcompress.integers.observers import METHODS
from asrcompress.ops.choice import (
    DEFAULT_SPARSIFIER,
    NO_PATTERN,
    Said,
    as_choice,
    check_coding,
    check_said,
    drops,
    said_of,
)
from asrcompress.packing import SUPPORTED_BITS
from asrcompress.quantizers import get_quantizer, needs_statistics, supported_bits
from asrcompress.quantizers.support import require_bits
from asrcompress.sparsifiers import needs_statistics as sparsifier_needs_statistics
from asrcompress.sparsifiers.ranking import Choice

LEVELS = ("stored", "computed", "integer-only")
RULE_LEVELS = ("float", *LEVELS)
ACTIVATION_BITS = {f"int{bits}": bits for bits in range(2, 17)}


@dataclass(frozen=True)
class Rule:
    """What holds for the modules, weights or sites that a glob, or one of several, fits; None leaves a thing as it was.

    level: `float` leaves a module's weights unpacked, `stored` and `computed` keep its activations in float; `activations`: at
    level integer-only, `intN` gives the sites that fit grids of N bits. pattern: `none` undoes what is said of the whole model.
    """

    modules: str | tuple[str, ...]
    bits: int | None = None
    granularity: str | None = None
    method: str | None = None
    activations: str | None = None
    level: str | None = None
    pattern: str | None = None
    sparsifier: str | None = None
    sparsity: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.modules, list):
            object.__setattr__(self, "modules", tuple(self.modules))
        if not self.globs or not all(isinstance(glob, str) for glob in self.globs):
            raise AsrCompressError(
                "the 'modules' of a rule are no globs; give one such as modules = 'decoder.*', or a list"
            )
        where = str(self)
        _check_bits(f"{where}: bits", self.bits)
        if self.granularity is not None:
            Granularity.parse(self.granularity)
        if self.method is not None:
            get_quantizer(self.method)
        if self.activations is not None and self.activations not in ACTIVATION_BITS:
            raise AsrCompressError(f"{where}: activations '{self.activations}': use int2 to int16")
        if self.level is not None and self.level not in RULE_LEVELS:
            raise AsrCompressError(f"{where}: level '{self.level}': use {', '.join(RULE_LEVELS)}")
        _about(where, lambda both: check_said(*both), (self.pattern, self.sparsity))
        if self.sparsifier is not None:
            _about(where, sparsifier_needs_statistics, self.sparsifier)

    def __str__(self) -> str:
        rest = f" and {len(self.globs) - 1} more" if len(self.globs) > 1 else ""
        return f"rule '{self.globs[0]}'{rest}"

    @property
    def globs(self) -> tuple[str, ...]:
        """What `modules` says, as a tuple."""
        return self.modules if isinstance(self.modules, tuple) else (self.modules,)

    @cached_property
    def _plain_and_patterns(self) -> tuple[frozenset[str], tuple[str, ...]]:
        """Globs that are just names, which a plan has hundreds of, and the others."""
        patterns = tuple(glob for glob in self.globs if any(character in glob for character in "*?["))
        return frozenset(self.globs) - frozenset(patterns), patterns

    def fits(self, name: str) -> bool:
        """Whether a glob is over this module, weight or site, or over a module around it."""
        plain, patterns = self._plain_and_patterns
        parts = _parts(name)
        return not plain.isdisjoint(parts) or any(fnmatchcase(part, glob) for part in parts for glob in patterns)

    def unfitting(self, names: Iterable[str]) -> list[str]:
        """The globs that fit none of these names."""
        parts = {part for name in names for part in _parts(name)}
        return [glob for glob in self.globs if glob not in parts and not any(fnmatchcase(part, glob) for part in parts)]

    def to_json(self, keys: Iterable[str] | None = None) -> dict[str, Any]:
        """What it says of these keys, by default of all."""
        said = {key: getattr(self, key) for key in (RULE_KEYS if keys is None else keys)}
        said["modules"] = list(self.globs) if isinstance(self.modules, tuple) else self.modules
        return {key: value for key, value in said.items() if value is not None}


@dataclass(frozen=True)
class QuantizeConfig:
    """Options of `quantize`, as the recipe in the artifact records them.

    num_bits .. method: of weights. include/exclude: shell globs over weight names; a weight is packed if some include fits and
    no exclude does. What an artifact holds packed already and is not chosen stays as it is.
    level, activations: how far integers go; one follows from the other (none: stored; int8: computed).
    calibration_method: how ranges of 8-bit activation grids are chosen. intermediate_bits: of the grids between products.
    calibration_limit: utterances or clips that calibration runs. bias_correction: biases take up the mean error of rounding.
    pattern: keep_n:group_m along the input dimension, such as 2:4; weights are pruned first, then quantized. sparsity: the
    fraction of zeros in every weight instead, wherever they fall. sparsifier: how the kept ones are chosen; magnitude where
    there is one of both and nothing else is said. keep_masks: False where pattern was `none`; else a weight of which nothing
    is said keeps the zeros that an artifact has it with. entropy_coding: zstd where that makes a stored tensor smaller.
    compact: all of a small model as one coded tensor instead. plan: sha256 of the plan file that the rules are from. The
    artifact then records it, and of the rules only what counts when it is loaded, since what was packed how stands beside each
    weight; the sidecar has them whole.
    """

    num_bits: int = 8
    granularity: str = "per_channel"
    activations: str | None = None
    method: str = "rtn"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    level: str | None = None
    calibration_method: str = "minmax"
    calibration_limit: int = 64
    intermediate_bits: int = 16
    bias_correction: bool = False
    pattern: str | None = None
    sparsifier: str | None = None
    rules: tuple[Rule, ...] = ()
    plan: str | None = None
    sparsity: float | None = None
    keep_masks: bool = field(default=True, compare=False)
    entropy_coding: str | None = None
    compact: bool = False

    def __post_init__(self) -> None:
        _check_bits("--bits", self.num_bits)
        if self.activations not in (None, "none", "int8"):
            raise AsrCompressError(f"--activations {self.activations}: use none or int8")
        if self.level not in (None, *LEVELS):
            raise AsrCompressError(f"--level {self.level}: use {', '.join(LEVELS)}")
        if self.calibration_method not in METHODS:
            raise AsrCompressError(f"--calibration-method {self.calibration_method}: use {', '.join(METHODS)}")
        if not 1 <= self.calibration_limit <= 10**6:
            raise AsrCompressError(f"--calibration-limit {self.calibration_limit}: use 1 to {10**6}")
        if not 2 <= self.intermediate_bits <= 16:
            raise AsrCompressError(f"--intermediate-bits {self.intermediate_bits}: use 2 to 16")
        Granularity.parse(self.granularity)
        require_bits(self.method, self.num_bits, supported_bits(self.method), f"--bits {self.num_bits}")
        self._resolve_pattern()
        object.__setattr__(self, "entropy_coding", check_coding(self.entropy_coding, is_compact=self.compact))
        needed = {None: None, "stored": "none", "computed": "int8", "integer-only": "int8"}[self.level]
        if needed and self.activations not in (None, needed):
            raise AsrCompressError(
                f"--activations {self.activations}: level {self.level} is with --activations {needed}; leave one of them out"
            )
        activations = needed or self.activations or "none"
        object.__setattr__(self, "activations", activations)
        object.__setattr__(self, "level", self.level or ("computed" if activations == "int8" else "stored"))

    def _resolve_pattern(self) -> None:
        """`none` as None, and the sparsifier that then counts."""
        check_said(self.pattern, self.sparsity)
        is_undone = self.pattern == NO_PATTERN
        if is_undone:
            object.__setattr__(self, "pattern", None)
            object.__setattr__(self, "keep_masks", False)
        if self.sparsifier is not None:
            sparsifier_needs_statistics(self.sparsifier)
        named = [name for name in (self.sparsifier, *(rule.sparsifier for rule in self.rules)) if name is not None]
        if named and not (self.has_pattern or is_undone):
            raise AsrCompressError(
                f"sparsifier {named[0]}: there is no pattern to choose for; add --pattern 2:4 or --sparsity 0.5, or leave it out"
            )
        sparsifier = (self.sparsifier or DEFAULT_SPARSIFIER) if self.has_pattern else None
        object.__setattr__(self, "sparsifier", sparsifier)

    @property
    def is_static(self) -> bool:
        """Whether activations get static grids, from calibration."""
        return self.level == "integer-only"

    @property
    def data_needed(self) -> list[str]:
        """Options, as they are given, that look at data: asked for before any work is done."""
        methods = {self.method, *(rule.method for rule in self.rules if rule.method)}
        sparsifiers = {self.sparsifier, *(rule.sparsifier for rule in self.rules)} if self.has_pattern else set()
        return [
            *(f"method {method}" for method in sorted(methods) if needs_statistics(method)),
            *(f"sparsifier {one}" for one in sorted(filter(None, sparsifiers)) if sparsifier_needs_statistics(one)),
            *["level integer-only"] * self.is_static,
            *["bias-correction"] * self.bias_correction,
        ]

    def of_weight(self, name: str) -> tuple[int, str, str]:
        """(bits, granularity, method) of a weight."""
        chosen = [self.num_bits, self.granularity, self.method]
        for rule in self.rules:
            if rule.fits(name):
                given = (rule.bits, rule.granularity, rule.method)
                chosen = [old if new is None else new for old, new in zip(chosen, given, strict=True)]
        return chosen[0], chosen[1], chosen[2]  # type: ignore[return-value]

    @property
    def has_pattern(self) -> bool:
        """Whether some weight may be pruned, by an N:M pattern or a fraction of zeros."""
        return drops(self._said) or any(drops(rule.pattern) or drops(rule.sparsity) for rule in self.rules)

    @property
    def _said(self) -> Said:
        return self.pattern if self.pattern is not None else self.sparsity

    def sparsity_of(self, name: str) -> tuple[Choice | None, str]:
        """(pattern or fraction of zeros, sparsifier) of a weight; None where nothing is dropped of it."""
        said, sparsifier = said_of(name, self._said, self.sparsifier, self.rules)
        return as_choice(said), sparsifier

    def keeps_mask_of(self, name: str) -> bool:
        """Whether a weight that an artifact has with zeros keeps them: nothing else is said of it."""
        return self.keep_masks and said_of(name, self._said, None, self.rules)[0] is None

    def level_of(self, name: str) -> str:
        """The level of a module or weight."""
        fitting = [rule.level for rule in self.rules if rule.level is not None and rule.fits(name)]
        return fitting[-1] if fitting else str(self.level)

    def bits_of_site(self, site: str, *, is_operand: bool) -> int:
        """Bits of an activation grid; an operand of a product has 8 at most."""
        bits = bits_of_site(self.rules, site, 8 if is_operand else self.intermediate_bits)
        return min(bits, 8) if is_operand else bits

    def to_json(self) -> dict[str, Any]:
        """What the artifact records: only what says something about it."""
        record = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        defaults = (
            "bias_correction",
            "rules",
            "pattern",
            "sparsity",
            "sparsifier",
            "plan",
            "entropy_coding",
            "compact",
        )
        for key in (*defaults, *(() if self.is_static else ("calibration_method", "intermediate_bits"))):
            if key in defaults and record[key]:
                continue
            del record[key]
        del record["calibration_limit"], record["keep_masks"]
        record["rules"] = self.rules_to_json(whole=self.plan is None)
        if not record["rules"]:
            del record["rules"]
        return record

    def rules_to_json(self, *, whole: bool = True) -> list[dict[str, Any]]:
        """The rules. Not whole: what counts when the file is loaded, and no rule that says nothing of it."""
        if whole:
            return [rule.to_json() for rule in self.rules]
        said = [rule.to_json(("modules", *LOADING_KEYS)) for rule in self.rules]
        return [rule for rule in said if len(rule) > 1]


def _parts(name: str) -> list[str]:
    """A module, weight or site, and the modules around it; ":input" is in none."""
    module, _, kind = name.partition(":")
    parts = module.split(".")
    around = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return [part for part in (*around, name) if part or kind]


def bits_of_site(rules: Sequence[Rule], site: str, default: int) -> int:
    """Bits that the last fitting rule gives a site."""
    fitting = [rule.activations for rule in rules if rule.activations is not None and rule.fits(site)]
    return ACTIVATION_BITS[fitting[-1]] if fitting else default


def _about(where: str, check: Callable[[Any], object], value: Any) -> None:
    """Run a check whose message does not say where the value stands."""
    try:
        check(value)
    except AsrCompressError as error:
        raise AsrCompressError(f"{where}: {error}") from error


def _check_bits(what: str, bits: int | None) -> None:
    if bits is not None and bits not in SUPPORTED_BITS:
        raise AsrCompressError(f"{what} {bits}: use one of {', '.join(map(str, SUPPORTED_BITS))}")


SAME_THING = (("level", "activations"), ("activations", "level"), ("pattern", "sparsity"), ("sparsity", "pattern"))
RULE_KEYS = tuple(field.name for field in fields(Rule))
# What a rule says of how a file computes. The rest is about packing, and done when the file is there.
LOADING_KEYS = ("activations", "level")
OPTION_TYPES: dict[str, type] = {
    "bits": int, "granularity": str, "activations": str, "method": str, "include": list, "exclude": list, "level": str,
    "calibration_method": str, "calibration_limit": int, "intermediate_bits": int, "bias_correction": bool, "pattern": str,
    "sparsifier": str, "sparsity": float, "entropy_coding": str, "compact": bool,
}  # fmt: skip


def read_recipe(path: str | Path) -> dict[str, Any]:
    """A recipe file as options in QuantizeConfig's words, rules included.

    Raises:
        AsrCompressError: cannot be read, is not TOML, or says something that a recipe does not.
    """
    path = Path(path)
    options = read_options(read_toml(path), path)
    try:
        QuantizeConfig(**options)
    except AsrCompressError as error:
        raise AsrCompressError(f"{path}: {error}") from error
    return options


def read_finetune_table(path: str | Path) -> dict[str, Any]:
    """The table [finetune] of a recipe, in FinetuneConfig's words; empty without one.

    Raises:
        AsrCompressError: the file is no recipe, or the table says something that FinetuneConfig does not.
    """
    from asrcompress.ops.finetune_config import FinetuneConfig

    table = read_toml(path).get("finetune", {})
    known = {field.name: field for field in fields(FinetuneConfig)}
    if not isinstance(table, dict):
        raise AsrCompressError(f"{path}: 'finetune' must be a table, under a line [finetune]")
    for key in table:
        if key not in known:
            raise AsrCompressError(f"{path}: '{key}' is not an option of [finetune]; use {', '.join(known)}")
    try:
        FinetuneConfig(**table)
    except (AsrCompressError, TypeError) as error:
        raise AsrCompressError(f"{path}: [finetune]: {error}") from error
    return table


def read_toml(path: str | Path) -> dict[str, Any]:
    """A recipe file as TOML has it, unchecked.

    Raises:
        AsrCompressError: cannot be read, or is not TOML.
    """
    import tomllib

    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AsrCompressError(f"{path}: the recipe could not be read: {error.strerror}") from error
    except ValueError as error:
        raise AsrCompressError(f"{path}: is not TOML ({error}); see samples/recipes") from error


def read_options(given: dict[str, Any], where: Path | str) -> dict[str, Any]:
    """Options as a recipe has them, checked, in QuantizeConfig's words. Rules are tables or Rules.

    Raises:
        AsrCompressError: an option that there is not, or a value of another type; `where` begins the line.
    """
    options = dict(given)
    options.pop("plan", None)  # what a plan file predicts; plan_file.py reads it
    options.pop("finetune", None)  # how it is trained; read_finetune_table reads it
    rules = options.pop("rules", ())
    for key, value in options.items():
        if key not in OPTION_TYPES:
            raise AsrCompressError(f"{where}: '{key}' is not an option; use {', '.join((*OPTION_TYPES, 'rules'))}")
        check_type(where, key, value, OPTION_TYPES[key])
    if not isinstance(rules, list | tuple) or not all(isinstance(rule, dict | Rule) for rule in rules):
        raise AsrCompressError(f"{where}: 'rules' must be tables, each under a line [[rules]]")
    read = tuple(rule if isinstance(rule, Rule) else _read_rule(where, rule) for rule in rules)
    return to_config(options) | ({"rules": read} if "rules" in given else {})


def override(options: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Options under those `given`, in QuantizeConfig's words. Of two that say the same thing a new one drops the other."""
    options = dict(options)
    for one, other in SAME_THING:
        if one in given and other not in given:
            options.pop(other, None)
    return options | given


def _read_rule(where: Path | str, rule: dict[str, Any]) -> Rule:
    for key, value in rule.items():
        if key not in RULE_KEYS:
            raise AsrCompressError(f"{where}: '{key}' is not an option of a rule; use {', '.join(RULE_KEYS)}")
        if key == "modules" and isinstance(value, list):
            check_type(where, key, value, list)
        else:
            check_type(where, key, value, {"bits": int, "sparsity": float}.get(key, str))
    if "modules" not in rule:
        raise AsrCompressError(f"{where}: a rule has no 'modules'; give a glob such as modules = 'decoder.*'")
    try:
        return Rule(**rule)
    except AsrCompressError as error:
        raise AsrCompressError(f"{where}: {error}") from error


def check_type(where: Path | str, key: str, value: Any, wanted: type) -> None:
    """Raise when the value of an option is of another type than `wanted`; a list is one of strings."""
    value = list(value) if isinstance(value, tuple) else value
    if type(value) is not wanted or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
        raise AsrCompressError(f"{where}: '{key}' must be {'a list of strings' if wanted is list else wanted.__name__}")


def to_config(options: dict[str, Any]) -> dict[str, Any]:
    """The options' names and values in QuantizeConfig's words: `bits` is num_bits, lists are tuples."""
    renamed = {"num_bits" if name == "bits" else name: value for name, value in options.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in renamed.items()}


def recorded_rules(recipe: dict[str, Any]) -> tuple[Rule, ...]:
    """The rules of an artifact's recipe.

    Raises:
        AsrCompressError, TypeError: they are damaged.
    """
    return tuple(Rule(**rule) for rule in recipe.get("rules", []))
