"""`asrcompress report`: sidecars in; a table, files for people and machines, and an exit code out.

The options as typer has them; what is done with them is in report_command.py, and plain_arguments.py reads the usual ones.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from asrcompress.cli.options import Force


class TextFormat(StrEnum):
    """What can go to stdout."""

    table = "table"
    markdown = "markdown"
    json = "json"
    csv = "csv"


def report(
    sidecars: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SIDECAR...", help="Sidecars (.json) to report on; - or a pipe: paths from stdin, one a line."
        ),
    ] = None,
    baseline: Annotated[
        list[Path] | None, typer.Option("--baseline", help="Sidecar of the baseline; repeat for its others.")
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require", help="A gate, such as 'wer<=0.05', 'delta.wer<=0.005' or 'ratio.size_bytes<=0.27'; repeat."
        ),
    ] = None,
    text_format: Annotated[TextFormat, typer.Option("--format", help="What goes to stdout.")] = TextFormat.table,
    html: Annotated[Path | None, typer.Option("--html", help="Write one self-contained HTML page.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write the gates as JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the table and gates as markdown.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write all metrics as CSV.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write all metrics and gates as JSON.")] = None,
    svg: Annotated[Path | None, typer.Option("--svg", help="Write a sensitivity table's heat map as SVG.")] = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            "--plots", metavar="FOLDER", help="Write the pictures of the HTML page as SVG files into a folder."
        ),
    ] = None,
    history_csv: Annotated[
        Path | None,
        typer.Option("--history-csv", help="Write the history of all trainings as CSV, a line per evaluation."),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="Mark in a sensitivity table what this plan (.toml) chooses.")
    ] = None,
    force: Force = False,
) -> None:
    """Compare models by their sidecars, and gate them; or show one sensitivity table. Needs no torch.

    --html draws quality against bytes and against MACs (known from analyze's sidecars), the baseline marked, and the Pareto
    front. A file that was trained is marked where its own sidecar (small.safetensors.json) is among those given, and --html
    draws the training. --plots writes the same pictures as files.

    Exit code 0: every gate passed; 1: a gate failed; 2: a metric was not measured, runs are not comparable, or an
    input is wrong.

    \b
    Example:
      asrcompress report small.safetensors.eval.json --baseline float.pt.eval.json \\
        --require 'ratio.model_size_bytes<=0.27' --require 'delta.wer<=0.005' --html report.html
      asrcompress report float.pt.sensitivity.json --html sensitivity.html --svg heat-map.svg
    """
    from asrcompress.cli.report_command import run_report

    code = run_report(
        sidecars=sidecars, baseline=baseline, require=require, text_format=text_format, html=html, junit=junit, markdown=markdown,
        csv=csv, json=json, svg=svg, plots=plots, history_csv=history_csv, plan=plan, force=force,
    )  # fmt: skip
    if code:
        raise typer.Exit(code)
