"""The plan file: a recipe with one rule for the weights that share an option, and a table `[plan]` that says what it predicts.

`quantize --plan` carries it out and holds it to its word; `--config` takes its rules as any recipe's. Written here by hand,
since no TOML writer puts in comments and the values are numbers, names and lists of names.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.files import atomic_write
from asrcompress.ops.recipe import NO_PATTERN, OPTION_TYPES, QuantizeConfig, Rule, read_options
from asrcompress.ops.units import Option
from asrcompress.patterns import pattern_name
from asrcompress.quantizers import supported_bits

PLAN_FORMAT = "asrcompress.plan.v1"
TOLERANCE = 0.005  # of the predicted size
NO_SHA256 = "0" * 64


@dataclass(frozen=True)
class PlanFacts:
    """What `[plan]` says.

    model: name of the checkpoint that it was made for. model_size_bytes: of the float model in it, to which ratios are.
    size_bytes: predicted of the whole file. budget_bytes: what it must never exceed. predicted: changes against the float
    model by name, such as loss_change (nats a token) and relative_wer. sensitivity_sha256: of the table it was made from.
    objective: what was made least.
    """

    model: str
    model_sha256: str
    model_size_bytes: int
    size_bytes: int
    budget_bytes: int
    predicted: Mapping[str, float] = field(default_factory=dict)
    sensitivity_sha256: str | None = None
    objective: str | None = None


@dataclass(frozen=True)
class PlanFile:
    """A plan that was read: its facts, its options in QuantizeConfig's words, and the sha256 of the file."""

    path: Path
    sha256: str
    facts: PlanFacts
    options: dict[str, Any]

    def require_model(self, path: Path, sha256: str) -> None:
        """Raise unless this is the file that the plan was made for: other weights have other costs."""
        if sha256 != self.facts.model_sha256:
            raise AsrCompressError(
                f"{self.path}: was made for {self.facts.model} (sha256 {self.facts.model_sha256[:12]}), and {path} is another file "
                f"(sha256 {sha256[:12]}); make a plan for it with asrcompress sensitivity, or take the rules alone: --config {self.path}"
            )

    def require_size(self, size_bytes: int) -> None:
        """Raise when a file of this size would break the plan's budget."""
        over = size_bytes - self.facts.budget_bytes
        if over > 0:
            smaller = self.facts.budget_bytes - over
            instead = f", or plan for {smaller} bytes" if over < smaller else ""
            raise AsrCompressError(
                f"{self.path}: the file would take {size_bytes} bytes, {over} more than the plan's budget of {self.facts.budget_bytes} "
                f"(predicted: {self.facts.size_bytes}); options on the command line, other calibration data, or a method that needs zero "
                f"points take what the plan did not count: leave them out{instead}"
            )

    def misses_prediction(self, size_bytes: int) -> bool:
        """Whether a size is further than 0.5 % from what was predicted."""
        return abs(size_bytes - self.facts.size_bytes) > TOLERANCE * self.facts.size_bytes

    def describe(self) -> dict[str, Any]:
        """What the sidecar records of it."""
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "size_bytes": self.facts.size_bytes,
            "budget_bytes": self.facts.budget_bytes,
            **{f"predicted_{name}": value for name, value in self.facts.predicted.items()},
            "sensitivity_sha256": self.facts.sensitivity_sha256,
            "objective": self.facts.objective,
        }


def plan_config(
    config: QuantizeConfig,
    choice: Mapping[str, Option | None],
    *,
    sparsifier: str | None = None,
    sha256: str = NO_SHA256,
) -> QuantizeConfig:
    """The options that carry out a choice: those given, and a rule for the weights of each option.

    Args:
        config: options besides the choice; rules of its own come first.
        choice: weight -> option; None leaves it in float.
        sparsifier: how weights with a pattern are pruned; by default as `config` has it.
        sha256: of the plan file.
    """
    by_option: dict[Option | None, list[str]] = {}
    for name, option in choice.items():
        by_option.setdefault(option, []).append(name)
    plain = supported_bits(config.method)
    counts = Counter(option.num_bits for option in choice.values() if option and option.num_bits in plain)
    rules = [_rule(by_option[option], option, config, sparsifier) for option in sorted(by_option, key=_order)]
    return replace(
        config,
        num_bits=max(counts, key=lambda bits: (counts[bits], bits)) if counts else config.num_bits,
        rules=(*config.rules, *rules),
        plan=sha256,
    )


def plan_text(config: QuantizeConfig, facts: PlanFacts, num_params: Mapping[str, int] | None = None) -> str:
    """A plan as TOML.

    Args:
        config: what `plan_config` gives.
        facts: what `[plan]` says.
        num_params: of each weight, for the summary at the top.
    """
    lines = [*_summary(config, facts, num_params or {}), ""]
    for key in OPTION_TYPES:
        value = getattr(config, "num_bits" if key == "bits" else key)
        if value is not None and (key != "activations") and _counts(config, key):
            lines.append(f"{key} = {_toml(value)}")
    for rule in config.rules:
        lines += ["", "[[rules]]"]
        lines += [f"{key} = {_toml(value)}" for key, value in rule.to_json().items()]
    lines += ["", "[plan]", f"format = {_toml(PLAN_FORMAT)}"]
    known = {key: value for key, value in vars(facts).items() if key != "predicted" and value is not None}
    known |= {f"predicted_{name}": value for name, value in facts.predicted.items()}
    lines += [f"{key} = {_toml(value)}" for key, value in known.items()]
    return "\n".join(lines) + "\n"


def write_plan(path: str | Path, text: str, *, force: bool = False) -> str:
    """Write a plan, whole or not at all; its sha256."""
    data = text.encode()
    with atomic_write(path, force=force) as handle:
        handle.write(data)
    return hashlib.sha256(data).hexdigest()


def read_plan(path: str | Path) -> PlanFile:
    """Read a plan file.

    Raises:
        AsrCompressError: cannot be read, is no recipe, or has no `[plan]`.
    """
    import tomllib

    path = Path(path)
    try:
        data = path.read_bytes()
        table = tomllib.loads(data.decode())
    except OSError as error:
        raise AsrCompressError(f"{path}: the plan could not be read: {error.strerror}") from error
    except ValueError as error:
        raise AsrCompressError(
            f"{path}: is not TOML ({error}); give a plan that asrcompress sensitivity wrote"
        ) from error
    options = read_options(table, path)
    try:
        QuantizeConfig(**options)
    except AsrCompressError as error:
        raise AsrCompressError(f"{path}: {error}") from error
    if "plan" not in table:
        raise AsrCompressError(
            f"{path}: is a recipe without [plan]; give it as --config, or a plan that asrcompress sensitivity wrote"
        )
    return PlanFile(path, hashlib.sha256(data).hexdigest(), _read_facts(path, table["plan"]), options)


def _read_facts(path: Path, table: Any) -> PlanFacts:
    if not isinstance(table, dict) or table.get("format") != PLAN_FORMAT:
        said = table.get("format") if isinstance(table, dict) else table
        raise AsrCompressError(
            f"{path}: [plan] has format {said!r}, not {PLAN_FORMAT}; use the asrcompress that wrote it"
        )
    kinds = {"model": str, "model_sha256": str, "model_size_bytes": int, "size_bytes": int, "budget_bytes": int}
    for key, kind in kinds.items():
        if type(table.get(key)) is not kind or (kind is int and table[key] <= 0):
            raise AsrCompressError(
                f"{path}: [plan] has no '{key}', or one that is not {kind.__name__}; write the plan again"
            )
    predicted = {
        key.removeprefix("predicted_"): float(value)
        for key, value in table.items()
        if key.startswith("predicted_") and type(value) in (int, float)
    }
    sensitivity, objective = table.get("sensitivity_sha256"), table.get("objective")
    return PlanFacts(
        **{key: table[key] for key in kinds},
        predicted=predicted,
        sensitivity_sha256=sensitivity if isinstance(sensitivity, str) else None,
        objective=objective if isinstance(objective, str) else None,
    )


def _order(option: Option | None) -> tuple[bool, int, float]:
    """Float first, then from more bits to fewer, from dense to sparse."""
    if option is None:
        return False, 0, 0.0
    return True, -option.num_bits, 1 - option.pattern[0] / option.pattern[1] if option.pattern else 0.0


def _rule(names: list[str], option: Option | None, config: QuantizeConfig, sparsifier: str | None) -> Rule:
    globs = tuple(escape(name) for name in names)
    if option is None:
        return Rule(globs, level="float")
    pattern = NO_PATTERN if config.has_pattern else None
    return Rule(
        globs,
        bits=option.num_bits,
        method=None if option.num_bits in supported_bits(config.method) else "binary",
        pattern=pattern_name(option.pattern) if option.pattern else pattern,
        sparsifier=sparsifier if option.pattern else None,
    )


def _counts(config: QuantizeConfig, key: str) -> bool:
    """Whether an option says something: a default that has no bearing here is left out."""
    if key in ("calibration_method", "intermediate_bits"):
        return config.is_static
    if key in ("include", "exclude", "bias_correction", "calibration_limit"):
        return bool(getattr(config, key) != getattr(QuantizeConfig(), key))
    return True


def _summary(config: QuantizeConfig, facts: PlanFacts, num_params: Mapping[str, int]) -> list[str]:
    ratio = facts.size_bytes / facts.model_size_bytes
    lines = [
        f"# A plan for {facts.model}, made by asrcompress sensitivity. Carry it out:",
        f"#   asrcompress quantize {facts.model} --plan THIS_FILE -o OUTPUT.safetensors"
        + (" --calibrate DATA" if config.data_needed else ""),
        f"# Predicted: {facts.size_bytes} bytes, {ratio:.2%} of the float model's {facts.model_size_bytes}; never above {facts.budget_bytes}.",
    ]
    if facts.predicted:
        said = ", ".join(f"{name.replace('_', ' ')} {value:+.4g}" for name, value in facts.predicted.items())
        lines.append(f"# Against the float model: {said}.")
    for rule in config.rules:
        if not (rule.bits or rule.level == "float"):
            continue
        params = sum(num_params.get(glob, 0) for glob in rule.globs)
        pattern = f"+{rule.pattern}" if rule.pattern not in (None, NO_PATTERN) else ""
        option = f"int{rule.bits}{pattern}" if rule.bits else "float"
        lines.append(f"# {option}: {len(rule.globs)} weights" + (f" of {params} parameters" if params else ""))
    return [line.replace("\n", " ").replace("\r", " ") for line in lines]


def _toml(value: object) -> str:
    """A value in TOML. Strings are JSON's, whose escapes TOML shares, but for DEL, which only TOML escapes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        items = [_toml(item) for item in value]
        return f"[{', '.join(items)}]" if len(items) < 2 else "[\n" + "".join(f"    {item},\n" for item in items) + "]"
    return json.dumps(value, allow_nan=False)
