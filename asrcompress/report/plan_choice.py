"""Which option a plan gives each weight of a sensitivity table, read from the plan file without torch.

Only what a picture needs: whether the plan is sound, and what it does, is ops/plan_file.py's to say.
"""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from asrcompress.errors import AsrCompressError
from asrcompress.report.sensitivity_rows import Sensitivity, check_choice


def read_choice(path: Path, found: Sensitivity) -> dict[str, str | None]:
    """Options by unit name; None is float.

    Args:
        path: of the plan, TOML with `[plan]` and `[[rules]]`.
        found: the table that it was made from.

    Raises:
        AsrCompressError: cannot be read, is no plan, or was made for another model or from another table.
    """
    try:
        plan = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AsrCompressError(f"{path}: the plan could not be read: {error.strerror or error}") from error
    except ValueError as error:
        raise AsrCompressError(
            f"{path}: is not TOML ({error}); give a plan that asrcompress sensitivity wrote"
        ) from error
    facts, rules = plan.get("plan"), plan.get("rules", [])
    if not isinstance(facts, dict) or not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise AsrCompressError(f"{path}: has no [plan]; give a plan that asrcompress sensitivity wrote")
    model = found.record.get("model", {})
    if facts.get("model_sha256") != model.get("sha256"):
        raise AsrCompressError(f"{path}: was made for another file than {found.model}, which the table is of")
    chosen = {}
    for unit in found.units:
        fitting = [rule for rule in rules if any(fnmatchcase(unit.name, glob) for glob in _globs(rule))]
        if unit.target == "weight" and fitting:
            chosen[unit.name] = _option(fitting[-1])
    try:
        check_choice(found, chosen)
    except AsrCompressError as error:
        raise AsrCompressError(f"{path}: {error}") from error
    return chosen


def _globs(rule: dict[str, Any]) -> list[str]:
    globs = rule.get("modules")
    return [glob for glob in (globs if isinstance(globs, list) else [globs]) if isinstance(glob, str)]


def _option(rule: dict[str, Any]) -> str | None:
    """int4 or int4+2:4 as a rule says it; None where it leaves the weight in float."""
    if rule.get("level") == "float" or "bits" not in rule:
        return None
    pattern = rule.get("pattern")
    return f"int{rule['bits']}" + (f"+{pattern}" if pattern not in (None, "none") else "")
