"""`asrcompress report` as a shell sees it: exit codes, streams, files; in a process that has no torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "tests" / "examples"
FLOAT, INT8, INT4 = (f"checkpoint_best.{name}.eval.json" for name in ("pt", "int8.safetensors", "int4.safetensors"))
TABLE = "crnn_happy.pt.sensitivity.json"
# A process in which nothing heavy can be imported, not even by accident.
WITHOUT_TORCH = """
import sys
for name in "torch torchaudio numpy scipy fairseq jiwer thop safetensors soundfile sentencepiece jsonschema".split():
    sys.modules[name] = None
from asrcompress.cli.main import main
sys.argv[0] = "asrcompress"
main()
"""


@pytest.fixture
def folder(tmp_path):
    for path in EXAMPLES.glob("*.json"):
        shutil.copy(path, tmp_path)
    return tmp_path


@pytest.fixture
def report(folder):
    def run(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess:
        inherited = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
        return subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, "report", *arguments],
            cwd=folder, input=stdin, capture_output=True, text=True, timeout=60, check=False,
            env=inherited | {"PYTHONPATH": str(ROOT)} | environment,
        )  # fmt: skip

    return run


def error_line(done: subprocess.CompletedProcess) -> str:
    """The one line of an error that the user can fix; nothing on stdout."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_passed_gates_exit_0_and_write_every_format(report, folder):
    done = report(
        INT8, "checkpoint_best.int8.safetensors.analyze.json", "--baseline", FLOAT, "--baseline", "checkpoint_best.pt.analyze.json",
        "--require", "ratio.model_size_bytes<=0.27", "--require", "relative.wer<=0.01 or excess.wer<=0", "--require", "ratio.macs<=1",
        "--html", "r.html", "--junit", "r.xml", "--markdown", "r.md", "--csv", "r.csv", "--json", "r.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("PASS") == 3
    assert json.loads((folder / "r.json").read_text())["passed"] is True
    assert ElementTree.parse(folder / "r.xml").getroot().get("failures") == "0"
    assert (folder / "r.html").read_text().startswith("<!DOCTYPE html>")
    assert "all gates passed" in (folder / "r.md").read_text()
    assert len((folder / "r.csv").read_text().splitlines()) == 3
    assert not [path.name for path in folder.iterdir() if path.name.endswith(".part")]


def test_a_failed_gate_exits_1_says_so_on_stderr_and_leaves_the_report(report, folder):
    done = report(INT4, "--baseline", FLOAT, "--require", "delta.wer<=0.005", "--require", "cer<=1", "--junit", "r.xml")
    assert done.returncode == 1
    assert "gate failed: checkpoint_best.int4.safetensors: delta.wer<=0.005: delta.wer is 0.014" in done.stderr
    assert done.stderr.count("\n") == 1
    assert ElementTree.parse(folder / "r.xml").getroot().get("failures") == "1"


def test_not_measured_exits_2_also_beside_failed_gates_and_leaves_the_report(report, folder):
    done = report(
        INT4, "--baseline", FLOAT, "--require", "delta.wer<=0.005", "--require", "ratio.macs<=1", "--junit", "r.xml"
    )
    assert done.returncode == 2
    assert "ratio.macs<=1" in done.stderr.splitlines()[-1]
    assert "not measured" in done.stderr
    root = ElementTree.parse(folder / "r.xml").getroot()
    assert (root.get("failures"), root.get("errors")) == ("1", "1")


def test_another_test_set_exits_2(report, folder):
    record = json.loads((folder / INT8).read_text())
    record["data"] |= {"file": "dev.tsv", "sha256": "0" * 64}
    (folder / INT8).write_text(json.dumps(record))
    done = report(INT8, "--baseline", FLOAT, "--require", "delta.wer<=1")
    assert done.returncode == 2
    assert "not comparable" in done.stderr
    assert "dev.tsv" in done.stderr


def test_a_report_without_gates(report):
    done = report(FLOAT, INT8, "crnn_happy.pt.eval.json")
    assert done.returncode == 0
    table = done.stdout.split("\n\n")[0].splitlines()
    assert len([line for line in table if line.startswith(("checkpoint_best", "crnn_happy"))]) == 3
    assert "by paired resampling" in done.stdout


def test_a_sensitivity_table_is_shown_and_written_in_every_format(report, folder):
    done = report(
        TABLE, "--html", "r.html", "--svg", "r.svg", "--markdown", "r.md", "--csv", "r.csv", "--json", "r.json"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("crnn_happy.pt: loss 0.0123 nats per clip")
    assert "What to leave alone" in done.stdout
    assert max(map(len, done.stdout.split("What to")[0].splitlines())) <= 100
    assert ElementTree.parse(folder / "r.svg").getroot().tag.endswith("svg")
    assert (folder / "r.html").read_text().startswith("<!DOCTYPE html>")
    assert (folder / "r.md").read_text().startswith("## Sensitivity of crnn")
    assert json.loads((folder / "r.json").read_text()) == json.loads((folder / TABLE).read_text())
    assert (folder / "r.csv").read_text().startswith("unit,kind,")


@pytest.mark.parametrize(("text_format", "begin"), [("csv", "unit,"), ("json", "{"), ("markdown", "## ")])
def test_a_sensitivity_table_comes_through_a_pipe_in_any_format(report, text_format, begin):
    done = report("--format", text_format, stdin=f"{TABLE}\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(begin)


def test_a_wrong_source_date_epoch_is_found_before_the_work(report):
    assert "SOURCE_DATE_EPOCH='soon'" in error_line(report(INT8, SOURCE_DATE_EPOCH="soon"))
    assert report(INT8, SOURCE_DATE_EPOCH="1").returncode == 0


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_paths_come_through_a_pipe(report, arguments):
    done = report(*arguments, "--format", "json", stdin=f"{INT8}\n\n{INT4}\r\n")
    assert [row["label"] for row in json.loads(done.stdout)["rows"]] == [
        "checkpoint_best.int8.safetensors",
        "checkpoint_best.int4.safetensors",
    ]


@pytest.mark.parametrize("text_format", ["table", "markdown", "json", "csv"])
def test_a_pipe_is_neither_wrapped_nor_coloured_nor_markup(report, folder, text_format):
    record = json.loads((folder / INT8).read_text())
    record["model"]["file"] = (
        "a-very-long-name-that-no-terminal-of-eighty-columns-could-show-in-one-line.[int8].safetensors"
    )
    (folder / INT8).write_text(json.dumps(record))
    done = report(
        INT8, "--baseline", FLOAT, "--format", text_format, FORCE_COLOR="1", COLUMNS="40", TERM="xterm-256color"
    )
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    name = (
        record["model"]["file"].replace("[", "\\[").replace("]", "\\]")
        if text_format == "markdown"
        else record["model"]["file"]
    )
    assert name in done.stdout


def test_notes_go_to_stderr_where_stdout_is_for_machines(report):
    done = report(INT8, "--baseline", FLOAT, "--require", "ratio.size_bytes<=1", "--format", "csv")
    assert "optimizer state" in done.stderr
    assert "optimizer state" not in done.stdout


def test_a_character_that_the_terminal_lacks_stops_nothing(report, folder):
    record = json.loads((folder / INT8).read_text())
    record["model"]["file"] = "modèle.safetensors"
    (folder / INT8).write_text(json.dumps(record))
    done = report(INT8, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "mod\\xe8le.safetensors" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("absent.json",), "absent.json: no such file"),
        (("m.safetensors",), "give m.safetensors.eval.json"),
        (("absent.pt",), "asrcompress eval absent.pt"),
        ((".",), "could not be read"),
        (("broken.json",), "broken.json: is not JSON"),
        (("list.json",), "list.json: holds no JSON object"),
        (("nan.json",), "nan.json: metrics.wer is nan"),
        ((INT8, "--require", "wer<0.05 and cer<0.05"), "repeat --require"),
        ((INT8, "--require", "wer"), "in quotes"),
        ((INT8, "--junit", "r.xml"), "--require"),
        ((INT8, "--html", INT8, "--force"), "is an input"),
        ((INT8, "--html", "r", "--csv", "r"), "a file of its own"),
        ((INT8, "--html", FLOAT), "exists already"),
        ((INT8, "--html", "absent/r.html"), "does not exist"),
        ((INT8, "--format", "pdf"), "pdf"),
        ((INT8, "--baseline", "nan.json"), "nan.json: metrics.wer is nan"),
        ((INT8, "--baseline", INT8, "--require", "delta.wer<=0"), "the baseline itself"),
        ((), "sidecars"),
        ((INT8, "--svg", "r.svg"), "heat map of a sensitivity table"),
        ((INT8, "--plan", "absent.toml"), "--plan: is for the heat map"),
        ((TABLE, "--plan", "absent.toml"), "absent.toml: the plan could not be read"),
        ((TABLE, "--plan", TABLE), "is not TOML"),
        ((TABLE, INT8), f"`asrcompress report {TABLE}` alone"),
        ((INT8, "--baseline", TABLE), "is not compared with models"),
        ((TABLE, "--require", "wer<=0.1", "--junit", "r.xml"), "leave out --require and --junit"),
        ((TABLE, "--baseline", FLOAT), "leave out --baseline"),
        ((TABLE, "--svg", TABLE, "--force"), "is an input"),
        (("broken.sensitivity.json",), "units is not a list"),
    ],
)
def test_what_the_user_can_fix_is_one_line_and_writes_nothing(report, folder, arguments, said):
    (folder / "m.safetensors").write_bytes(b"\0")
    (folder / "m.safetensors.eval.json").write_text("{}")
    (folder / "broken.json").write_text('{"schema_version": 1,')
    (folder / "list.json").write_text("[1]")
    (folder / "nan.json").write_text((folder / INT8).read_text().replace('"wer": 0.0', '"wer": NaN, "cer2": 0.0', 1))
    table = json.loads((folder / TABLE).read_text())
    (folder / "broken.sensitivity.json").write_text(json.dumps(table | {"units": None}))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert said in error_line(report(*arguments))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_force_replaces(report, folder):
    (folder / "r.csv").write_text("old")
    assert report(INT8, "--csv", "r.csv").returncode == 2
    assert report(INT8, "--csv", "r.csv", "--force").returncode == 0
    assert (folder / "r.csv").read_text().startswith("model,")


def test_written_files_obey_the_umask(folder):
    code = f"import os; os.umask(0o027)\n{WITHOUT_TORCH}"
    subprocess.run([sys.executable, "-c", code, "report", INT8, "--csv", "r.csv"], cwd=folder, check=True,
                   capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert (folder / "r.csv").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
@pytest.mark.parametrize("width", [80, 140])
def test_on_a_terminal_the_numbers_fit_and_verdicts_are_coloured(folder, width):
    import fcntl
    import struct
    import termios

    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    arguments = ["report", INT8, INT4, "--baseline", FLOAT, "--require", "wer<=0.04"]
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", WITHOUT_TORCH, *arguments], cwd=folder, env=environment,
                               stdin=subprocess.DEVNULL, stdout=slave, stderr=subprocess.DEVNULL)  # fmt: skip
    os.close(slave)
    output = b""
    try:
        while chunk := os.read(master, 65536):
            output += chunk
    except OSError:  # the terminal is gone when the process is
        pass
    os.close(master)
    assert process.wait(timeout=60) == 1
    table = output.decode().replace("\r", "").split("\n\n")[0]
    assert all(len(line.replace("\x1b[1m", "").replace("\x1b[0m", "")) <= width for line in table.splitlines())
    assert "ratio.model_size_bytes" in table
    assert b"\x1b[31mFAIL" in output


def test_plots_are_files_in_a_folder_that_is_made(report, folder):
    done = report(INT8, "checkpoint_best.int8.safetensors.analyze.json", "--baseline", FLOAT, "--plots", "pictures")
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (folder / "pictures").iterdir())
    assert names == ["wer-against-macs.svg", "wer-against-size_bytes.svg"]
    for name in names:
        ElementTree.parse(folder / "pictures" / name)
    again = report(INT8, "--plots", "pictures")
    assert "exists already" in error_line(again)
    assert report(INT8, "--plots", "pictures", "--force").returncode == 0


def test_plots_that_cannot_be_are_refused_before_anything_is_written(report, folder):
    done = report("checkpoint_best.int8.safetensors.analyze.json", "--plots", "none", "--csv", "r.csv")
    assert "nothing to draw" in error_line(done)
    done = report(INT8, "--plots", FLOAT, "--csv", "r.csv")
    assert "cannot be a folder for pictures" in error_line(done)
    done = report(TABLE, "--plots", "none")
    assert "leave out --plots" in error_line(done)
    assert not (folder / "none").exists()
    assert not (folder / "r.csv").exists()


def test_the_history_of_a_training_is_csv(report, folder):
    from tests.fixtures.training_records import LINES, tuned_record

    (folder / "small.safetensors.json").write_text(json.dumps(tuned_record()))
    done = report("small.safetensors.json", "--history-csv", "h.csv")
    assert done.returncode == 0, done.stderr
    assert len((folder / "h.csv").read_text().splitlines()) == 1 + len(LINES)
    done = report(INT8, "--history-csv", "other.csv")
    assert "no sidecar tells of a training" in error_line(done)
    assert not (folder / "other.csv").exists()
