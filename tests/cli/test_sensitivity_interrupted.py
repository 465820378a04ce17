"""Real processes of `sensitivity`: killed, interrupted, shared by ranks, watched on a terminal."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asrcompress.ops.load import set_threads
from asrcompress.ops.sensitivity import run
from asrcompress.ops.sensitivity_config import SensitivityConfig
from asrcompress.ops.sensitivity_files import SensitivityData
from asrcompress.ops.sensitivity_plan import Target
from tests.conftest import ROOT

MODEL, CLIPS = ROOT / "samples" / "kws" / "crnn_computer.pt", ROOT / "samples" / "kws" / "manifest.tsv"
COMMAND = [
    "sensitivity", MODEL, "--data", CLIPS, "--split", "dev", "--keyword", "computer",
    "--bits", "8,4,2", "--patterns", "2:4,1:4", "--top", "8", "--sample", "10", "--target-size-ratio", "0.15", "-o", "t.json",
]  # fmt: skip
NAMES = ["t.html", "t.json", "t.plan.toml", "t.svg"]
JOURNAL = "t.json.journal.rank0.jsonl"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": "1700000000"}
RANKS = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def start(folder: Path, *launcher: str, **options: object) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, *launcher, "-m", "asrcompress", *map(str, COMMAND)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, text=True, env=ENVIRONMENT, **(pipes | options))  # type: ignore[call-overload, no-any-return]


def finish(folder: Path, *launcher: str) -> subprocess.CompletedProcess[str]:
    process = start(folder, *launcher)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.terminate()
    return subprocess.CompletedProcess([], process.returncode, out, err)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def wait_for_trials(process: subprocess.Popen[str], journal: Path, count: int) -> None:
    """Until the journal holds what it is of, the proxies and some trials."""
    end = time.monotonic() + 90
    while not journal.is_file() or journal.read_bytes().count(b"\n") < 2 + count:
        assert process.poll() is None, "too fast to be stopped"
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted run leaves, in this very process."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", ENVIRONMENT["SOURCE_DATE_EPOCH"])
        set_threads(1)
        config = SensitivityConfig(bits=(8, 4, 2), patterns=("2:4", "1:4"), top=8, sample=10)
        run(MODEL, SensitivityData(CLIPS, "dev", "computer"), config, target=Target(0.15), output=folder / "t.json")
    assert list(files(folder)) == NAMES
    return files(folder)


def test_killed_in_the_middle_it_resumes_to_the_same_bytes(whole: dict[str, bytes], tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for_trials(process, tmp_path / JOURNAL, 10)
    process.kill()
    process.communicate()
    left = files(tmp_path)
    assert list(left) == [JOURNAL]
    lines = left[JOURNAL].count(b"\n")
    assert 12 <= lines < 60
    (tmp_path / JOURNAL).write_bytes(left[JOURNAL] + b'{"key": "unit conv.0.weight int8", "result": {"lo')  # torn
    result = finish(tmp_path)
    assert (result.returncode, result.stdout) == (0, "t.json\n"), result.stderr
    assert files(tmp_path) == whole


def test_interrupted_it_leaves_its_journal_alone_and_says_so(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for_trials(process, tmp_path / JOURNAL, 5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == ""
    assert err.splitlines() == [
        f"{JOURNAL}: keeps what was measured; the same command goes on from there",
        "asrcompress: interrupted; nothing was left half-written",
    ]
    assert list(files(tmp_path)) == [JOURNAL] and files(tmp_path)[JOURNAL].endswith(b"}\n")


def test_two_ranks_give_the_bytes_of_one_and_print_once(whole: dict[str, bytes], tmp_path: Path) -> None:
    result = finish(tmp_path, *RANKS)
    assert (result.returncode, result.stdout) == (0, "t.json\n"), result.stderr
    assert result.stderr.count("What to leave alone") == 1
    assert files(tmp_path) == whole


def test_the_terminal_shows_what_is_done_and_how_long_it_takes(tmp_path: Path, whole: dict[str, bytes]) -> None:
    """Against a clock that runs fast, so that stages that take milliseconds here count as slow."""
    script = (
        "import runpy, sys, time\n"
        "clock = time.monotonic\n"
        "time.monotonic = lambda: 100 * clock()\n"
        "runpy.run_module('asrcompress', run_name='__main__')\n"
    )
    master, slave = pty.openpty()
    command = [sys.executable, "-c", script, *map(str, COMMAND)]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"t.json\n")
    text = shown.decode()
    bars = re.findall(r"([a-z ]+) \[[#.]{24}\] (\d+)/(\d+), (\d+:\d\d) left", text)
    assert {"codes of weights", "exact trials"} <= {label for label, *_ in bars}
    trials = [(int(done), int(total)) for label, done, total, _ in bars if label == "exact trials"]
    assert trials == sorted(trials) and len({total for _, total in trials}) == 1
    table = text[text.index("crnn_computer.pt: loss") :]
    assert "\x1b[K" not in table and " left\r" not in table  # every line of progress is wiped before the table
    assert max(len(line) for line in table.split("What to leave alone")[0].splitlines()) <= 100
    assert files(tmp_path) == whole
