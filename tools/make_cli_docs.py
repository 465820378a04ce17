"""Write docs/cli.md: what `--help` prints for asrcompress and each of its subcommands.

    python tools/make_cli_docs.py            writes docs/cli.md
    python tools/make_cli_docs.py --check    says whether docs/cli.md is up to date (exit 1 if not)

The width is fixed and nothing is read from the terminal or the environment, so the same code gives
the same page everywhere. Only typer lays the text out; its version is noted in the page, since
another one may lay it out differently.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from asrcompress.cli.main import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
WIDTH = 100
NOTE = "<!-- made by tools/make_cli_docs.py with typer {version}; do not edit -->"
INTRODUCTION = """\
# The command line

Every command reads a checkpoint *or* an artifact. stdout carries data only: the path of what was written, or JSON with `--json`;
everything else goes to stderr. A command that is given no model takes its path from stdin, so commands chain with `|`.

| exit code | means |
|---|---|
| 0 | it worked; every gate passed |
| 1 | a gate failed (`report --require`, `analyze --require-level`) |
| 2 | the one line on stderr says what to change: a file, an option, or runs that cannot be compared |
| 3 | a bug in asrcompress; the traceback is on stderr |
| 130, 141, 143 | Ctrl-C; nobody reads the pipe any more; terminated |

Files are written whole or not at all, and replaced only with `--force`. Globs of `--include` and `--exclude` are over weight names as
`quantize --dry-run` lists them.
"""


def help_of(*command: str) -> str:
    """What `asrcompress <command> --help` prints, without colour, WIDTH columns wide."""
    environment = {"COLUMNS": str(WIDTH), "TERM": "dumb", "NO_COLOR": "1", "FORCE_COLOR": None}
    result = CliRunner().invoke(
        app, [*command, "--help"], prog_name="asrcompress", terminal_width=WIDTH, env=environment
    )
    if result.exit_code:
        raise SystemExit(f"asrcompress {' '.join(command)} --help ends with {result.exit_code}: {result.exception!r}")
    return "\n".join(line.rstrip() for line in result.stdout.strip().splitlines())


def make_page() -> str:
    """The whole page."""
    parts = [NOTE.format(version=typer.__version__), INTRODUCTION, _section("asrcompress")]
    group: Any = typer.main.get_command(app)
    parts += [_section(f"asrcompress {name}", name) for name in group.commands]
    return "\n".join(parts)


def _section(title: str, *command: str) -> str:
    return f"## {title}\n\n```text\n{help_of(*command)}\n```\n"


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    page = make_page()
    if check:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page)
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
