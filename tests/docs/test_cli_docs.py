"""docs/cli.md is what --help prints, every option says what it is, and every example can be copied."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from asrcompress.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
GENERATOR = ROOT / "tools" / "make_cli_docs.py"
REMEDY = "run: python tools/make_cli_docs.py"
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_cli_docs", GENERATOR)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def test_the_page_is_what_the_generator_gives(generator: ModuleType, page: str) -> None:
    note = generator.NOTE.format(version=typer.__version__)
    if page.splitlines()[0] != note:
        pytest.skip(f"docs/cli.md was laid out by another typer than {typer.__version__}; its words are compared below")
    assert page == generator.make_page(), REMEDY


def test_neither_terminal_nor_environment_changes_the_page() -> None:
    odd = {
        "COLUMNS": "40",
        "TERM": "xterm-256color",
        "FORCE_COLOR": "1",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "TERMINAL_WIDTH": "33",
    }
    command = [sys.executable, "-c", f"import runpy; print(runpy.run_path({str(GENERATOR)!r})['make_page']() , end='')"]
    pages = [
        subprocess.run(command, env=environment, capture_output=True, check=True).stdout
        for environment in (os.environ | odd, os.environ)
    ]
    assert pages[0] == pages[1]
    assert b"\x1b" not in pages[0]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_page_has_every_option_with_its_help_and_no_other(name: str, page: str) -> None:
    section = words(page.split(f"## asrcompress {name}\n", 1)[1].split("\n## ", 1)[0])
    for parameter in COMMANDS[name].params:
        assert words(parameter.help) in section, f"{parameter.name}: {REMEDY}"
    known = {option for parameter in COMMANDS[name].params for option in (*parameter.opts, *parameter.secondary_opts)}
    listed = set(re.findall(r"(?<=\s)--[a-z][a-z-]*(?=[ ,])", section.split("Options:", 1)[1]))
    assert known >= listed - {"--help"}, REMEDY
    assert {option for option in known if option.startswith("--")} <= listed, REMEDY


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_has_help(name: str) -> None:
    command = COMMANDS[name]
    assert (command.help or "").strip()
    for parameter in command.params:
        assert (parameter.help or "").strip(), f"asrcompress {name}: {parameter.name} has no help text"


@pytest.mark.parametrize("name", ["", *sorted(COMMANDS)])
def test_examples_in_help_parse(name: str) -> None:
    text = COMMANDS[name].help if name else typer.main.get_command(app).help
    examples = commands_in(text)
    assert examples, f"asrcompress {name} --help has no example"
    if name:
        assert "Example:" in text
        assert name in {example[1] for example in examples}
    for example in examples:
        parse(example)


def test_commands_in_the_pages_parse() -> None:
    """Commands that people copy from the pages of docs/ and the README have options that exist."""
    found = 0
    for path in [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for block in re.findall(r"```(?:sh|console|yaml)\n(.*?)```", text, re.DOTALL):
            try:
                examples = commands_in(block)
                for example in examples:
                    parse(example)
            except Exception as error:
                pytest.fail(f"{path.name}: {error}\n{block}")
            found += len(examples)
    assert found >= 15  # else the pages are not read as they are written


def words(text: str | None) -> str:
    """Text as one line, and without the hyphenation of a wrapped word, so that the layout does not matter."""
    return re.sub(r"(?<=\S)- (?=\S)", "-", " ".join((text or "").split()))


def commands_in(text: str | None) -> list[list[str]]:
    """Every `asrcompress ...` command of a text: lines joined at `\\`, `|` and indented options, split at pipes."""
    joined = re.sub(r"\\\n\s*|(?<=\|)\n\s*|\n(?=\s+--[a-z])", " ", text or "")
    commands = []
    for line in joined.splitlines():
        start = re.search(r"(?:^|[\s|&;:])asrcompress (?=[a-z])(?!:)", line)
        if not start or "`" in line or re.match(r"\s*#|asrcompress \d", line):
            continue
        lexer = shlex.shlex(line[start.end() - len("asrcompress ") :], posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        part: list[str] = []
        for token in [*lexer, "|"]:
            if token[0] in "|&;>":
                if part[:1] == ["asrcompress"]:
                    commands.append(part)
                part = [] if token[0] != ">" else ["(file)"]
            else:
                part.append(token)
    return commands


def parse(example: list[str]) -> None:
    """Parse a command's options as the command line would. Nothing is run.

    Raises:
        Exception: an unknown command or option, or a value of the wrong type.
    """
    name, *arguments = example[1:]
    if name.startswith("-"):
        assert name in ("--version", "--install-completion", "--show-completion", "--help"), name
        return
    assert name in COMMANDS, f"no command '{name}'"
    COMMANDS[name].make_context(name, list(arguments))
