"""What a command loads before it works: modules are counted, not seconds. tests/bench/bench_startup.py has the seconds."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from asrcompress.cli.commands import COMMANDS, build
from asrcompress.cli.main import app
from asrcompress.cli.plain_arguments import FORMATS, PATHS, REPEATED, read_report
from asrcompress.cli.report import TextFormat
from tests.cli.conftest import Run

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "examples" / "checkpoint_best.int8.safetensors.eval.json"
BASELINE = EXAMPLE.with_name("checkpoint_best.pt.eval.json")
SCRIPT = """
import sys
from asrcompress.cli.main import main
sys.argv[0] = "asrcompress"
try:
    main()
finally:
    print(*sys.modules, sep="\\n", file=open(sys.argv[-1] + ".modules", "w"))
"""
REPORT = typer.main.get_command(app).commands["report"]  # type: ignore[attr-defined]


def modules(*arguments: object, into: Path) -> set[str]:
    """What is loaded when the command has ended; `into` is where its last argument points."""
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=120)
    return set(into.with_name(into.name + ".modules").read_text().split())


def test_report_loads_neither_typer_nor_what_only_writers_need(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    loaded = modules("report", EXAMPLE, "--baseline", BASELINE, "--require", "delta.wer<=1", "--csv", page, into=page)
    unwanted = {"torch", "numpy", "typer", "pydantic", "rich", "importlib.metadata", "argparse", "email", "zipfile"}
    assert loaded & unwanted == set()
    assert len(loaded) < 130, sorted(loaded)  # 104 when this was written, of which an empty Python has 33


def test_help_loads_no_command_and_does_not_parse(tmp_path: Path) -> None:
    """Typer's parser brings in pydantic, which takes twice as long as all of typer."""
    script = (
        "import sys\nfrom asrcompress.cli.main import main\nsys.argv = ['asrcompress', '--help']\n"
        "try: main()\nexcept SystemExit: pass\nsys.stderr.write('\\n'.join(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(ended.stderr.split())
    ours = {name for name in loaded if name.startswith("asrcompress.")}
    assert ours == {
        "asrcompress.cli", "asrcompress.cli.commands", "asrcompress.cli.main", "asrcompress.cli.output", "asrcompress.errors",
    }  # fmt: skip
    assert loaded & {"torch", "numpy", "rich", "pydantic"} == set()


def test_quantize_loads_neither_a_compiler_nor_what_it_does_not_use(tiny_kws: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.safetensors"
    loaded = modules("quantize", tiny_kws, "-o", output, into=output)
    assert json.loads(Path(f"{output}.json").read_text())["kind"] == "artifact"
    unwanted = {"torch._dynamo", "torch._inductor", "sympy", "fairseq", "torchaudio", "scipy", "soundfile", "jiwer"}
    assert loaded & unwanted == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_summaries_are_those_of_the_commands(name: str) -> None:
    module, summary = COMMANDS[name]
    text = inspect.getdoc(getattr(import_module(f"asrcompress.cli.{module}"), module)) or ""
    assert " ".join(text.split("\n\n")[0].split()) == summary, "put the docstring's first paragraph into COMMANDS"


@pytest.mark.parametrize("width", [50, 80, 110, 200])
def test_help_without_the_commands_is_help_with_them(width: int) -> None:
    environment = {"COLUMNS": str(width), "TERM": "dumb"}
    texts = {
        CliRunner().invoke(each, ["--help"], terminal_width=width, env=environment).stdout for each in (app, build(""))
    }
    assert len(texts) == 1 and "sensitivity" in texts.pop()


def test_one_loaded_command_is_what_it_is_among_all() -> None:
    alone, among = (typer.main.get_command(each).commands["quantize"] for each in (build("quantize"), app))  # type: ignore[attr-defined]
    assert [(each.name, each.opts, each.help) for each in alone.params] == [
        (each.name, each.opts, each.help) for each in among.params
    ]


def test_the_garbage_collector_is_on_when_a_command_works(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import gc

    seen = []
    monkeypatch.setattr("asrcompress.ops.analyze.analyze", lambda *_, **__: seen.append(gc.isenabled()))
    run("analyze", "model.pt")
    assert seen == [True]


# ---------------------------------------------------------------- arguments that are read without typer

VALUES = ["a.json", "-", "--force", "", "x=1", "table", "html", "wer<=0.05", "-o", "--", "-x"]
OPTIONS = [f"--{name.replace('_', '-')}" for name in (*PATHS, *REPEATED, "format", "force")]
WORDS = [
    *VALUES,
    *OPTIONS,
    "--help",
    "-h",
    "--htm",
    "--history_csv",
    "--html=p.html",
    "--require=a=b",
    "--format=csv",
    "--force=1",
    "--svg=",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=5))
@example(["--require", "-x"])
@example(["a.json", "--history-csv", "h.csv", "-"])
@example(["--format", "table", "--baseline", "a.json", "--baseline=b.json", "--html", "1", "--html", "2"])
def test_what_is_read_without_typer_is_what_typer_reads(arguments: list[str]) -> None:
    found = read_report(arguments)
    if found is None:
        return
    expected = REPORT.make_context("report", list(arguments)).params
    given_by_typer = {name: value for name, value in expected.items() if name in found}
    assert given_by_typer == found
    defaults = REPORT.make_context("report", []).params
    assert {name: value for name, value in expected.items() if name not in found} == {
        name: value for name, value in defaults.items() if name not in found
    }


def test_every_option_of_report_can_be_read_without_typer() -> None:
    assert {option for each in REPORT.params for option in each.opts if option.startswith("--")} == set(OPTIONS) | {
        "--help"
    } - {"--help"}
    assert set(FORMATS) == {each.value for each in TextFormat}
    for option in OPTIONS:
        assert read_report(["a.json", option, *([] if option == "--force" else ["table"])]) is not None


@pytest.mark.parametrize("arguments", [["--html"], ["--nonsense", "a"], ["--format", "pdf"], ["--help"], [""]])
def test_mistakes_and_help_are_left_to_typer(arguments: list[str]) -> None:
    assert read_report(arguments) is None


def test_a_wrong_date_is_an_error_of_report_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    ended = run("report", EXAMPLE)
    assert ended.returncode == 2 and "SOURCE_DATE_EPOCH" in ended.stderr
