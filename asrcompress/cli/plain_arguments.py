"""The arguments of `report` read without typer, whose loading takes several times as long as the command.

Only what is plainly right is read. For everything else, help and mistakes included, the answer is None, and typer, which
has the one declaration of every option, is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

PATHS = ("html", "junit", "markdown", "csv", "json", "svg", "plots", "history_csv", "plan")  # the last one given counts
REPEATED: dict[str, Any] = {"baseline": Path, "require": str}
FORMATS = ("table", "markdown", "json", "csv")


def read_report(arguments: list[str]) -> dict[str, Any] | None:
    """Options of `report` by name, those that were given; None where typer has to look at them."""
    options: dict[str, Any] = {}
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if argument == "--force":
            options["force"] = True
        elif argument.startswith("--"):
            flag, equals, value = argument[2:].partition("=")
            name = flag.replace("-", "_")
            if not equals:
                value = left.pop(0) if left else ""
            if "_" in flag or not _take(options, name, value):
                return None
        elif argument.startswith("-") and argument != "-":
            return None
        elif argument:
            options.setdefault("sidecars", []).append(Path(argument))
        else:
            return None
    return options


def _take(options: dict[str, Any], name: str, value: str) -> bool:
    """Put an option with its value; False where that is not plain."""
    if not value:
        return False
    if name in PATHS:
        options[name] = Path(value)
    elif name in REPEATED:
        options.setdefault(name, []).append(REPEATED[name](value))
    elif name == "format" and value in FORMATS:
        options["text_format"] = value
    else:
        return False
    return True
