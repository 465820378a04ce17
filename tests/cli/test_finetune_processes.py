"""Real processes of `quantize --finetune`: interrupted, killed, resumed, and shared by ranks that torchrun starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asrcompress.cli.main import app, main
from asrcompress.errors import AsrCompressError
from asrcompress.ops.load import set_threads
from tests.conftest import ROOT

KEYWORDS = ROOT / "samples" / "kws"
COMMAND = [
    "quantize", KEYWORDS / "crnn_computer.pt", "--bits", "4", "--exclude", "conv*", "--finetune", KEYWORDS / "manifest.tsv",
    "--finetune-split", "dev", "--dev", KEYWORDS / "manifest.tsv", "--dev-split", "test", "--keyword", "computer",
    "--finetune-limit", "24", "--batch-size", "4", "--epochs", "4", "--learning-rate", "3e-4", "--evaluations", "3", "-o", "m.safetensors",
]  # fmt: skip
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": "1700000000"}
RANKS = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
STATE, UPDATE = "m.training.safetensors", "fine-tune: update "
INTERRUPTED = "asrcompress: interrupted; nothing was left half-written"


@contextmanager
def started(folder: Path, *launcher: str, more: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """In a session of its own, so that a signal can be sent to all of it, as a terminal does."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, *launcher, "-m", "asrcompress", *map(str, COMMAND), *more],
        cwd=folder, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job would ignore it
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def run(
    folder: Path,
    *launcher: str,
    more: tuple[str, ...] = (),
    at: int = 0,
    stop: Callable[[subprocess.Popen[str]], None] = lambda process: None,
) -> tuple[int, str, list[str]]:
    """(exit code, stdout, lines of stderr that are asrcompress's); `stop` is called once update `at` has been evaluated."""
    lines, is_due = [], True
    with started(folder, *launcher, more=more) as process:
        assert process.stderr is not None and process.stdout is not None
        for line in process.stderr:
            lines.append(line.rstrip("\n"))
            if is_due and line.startswith(UPDATE) and evaluated(line) >= at:
                is_due = False
                stop(process)
        out = process.stdout.read()
        code = process.wait(60)
    return code, out, [line for line in lines if line.startswith(("fine-tune:", "asrcompress:", "m.safetensors:"))]


def evaluated(line: str) -> int:
    """The update that a line is of."""
    return int(line.removeprefix(UPDATE).split("/")[0])


def saved(line: str) -> int:
    """The update at which an interrupted training says that it can go on."""
    before, number, after = line.partition(line.split("holds update ")[-1].split(",")[0])
    assert before == f"fine-tune: stopped; {STATE} holds update "
    assert after == ", and the same command with --resume goes on from it"
    return int(number)


def rank(process: subprocess.Popen[str], number: int) -> int:
    """The process id of a rank that torchrun has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return next(
        int(child) for child in children if f"\0RANK={number}\0" in f"\0{Path(f'/proc/{child}/environ').read_text()}\0"
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted run leaves, in this very process."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", ENVIRONMENT["SOURCE_DATE_EPOCH"])
        patch.chdir(folder)
        set_threads(1)
        app(list(map(str, COMMAND)), standalone_mode=False)
    assert list(files(folder)) == ["m.safetensors", "m.safetensors.json"]
    return files(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def test_interrupted_then_killed_it_goes_on_to_the_same_bytes(whole: dict[str, bytes], tmp_path: Path) -> None:
    code, out, lines = run(tmp_path, at=2, stop=lambda process: process.send_signal(signal.SIGINT))
    assert (code, out, lines[-1]) == (130, "", INTERRUPTED)
    first = saved(lines[-2])
    assert first >= 2 and list(files(tmp_path)) == [STATE]
    code, out, lines = run(tmp_path, more=("--resume",), at=first + 2, stop=lambda process: process.kill())
    assert (code, out) == (-signal.SIGKILL, "")
    assert evaluated(lines[0]) == first + 2 and list(files(tmp_path)) == [STATE]
    code, out, lines = run(tmp_path, more=("--resume",))
    assert (code, out) == (0, "m.safetensors\n")
    assert evaluated(lines[0]) >= first + 4
    assert files(tmp_path) == whole


def test_ranks_interrupted_then_killed_go_on_and_give_what_one_gives(whole: dict[str, bytes], tmp_path: Path) -> None:
    code, out, lines = run(tmp_path, *RANKS, at=2, stop=lambda process: os.killpg(process.pid, signal.SIGINT))
    assert code != 0 and out == "" and lines[-1] == INTERRUPTED
    first = saved(lines[-2])
    assert list(files(tmp_path)) == [STATE]

    def kill(process: subprocess.Popen[str]) -> None:
        os.kill(rank(process, 1), signal.SIGKILL)

    code, out, lines = run(tmp_path, *RANKS, more=("--resume",), at=first + 2, stop=kill)
    assert code != 0 and out == "" and list(files(tmp_path)) == [STATE]
    (line,) = [line for line in lines if line.startswith("asrcompress:")]
    assert line.startswith("asrcompress: rank 0 of 2 has lost the others (")
    assert line.endswith("); the same command with --resume goes on from the last evaluation")
    code, out, lines = run(tmp_path, *RANKS, more=("--resume", "--parallel", "sharded"))
    assert (code, out) == (0, "m.safetensors\n"), lines
    assert [evaluated(line) for line in lines if line.startswith(UPDATE)][-1] == 24
    found = files(tmp_path)
    assert list(found) == list(whole)
    one, two = (json.loads(record["m.safetensors.json"])["training"] for record in (whole, found))
    assert (one["num_ranks"], two["num_ranks"]) == (1, 2)
    assert two["best"]["metric"] == one["best"]["metric"]
    assert two["best"]["loss"] == pytest.approx(one["best"]["loss"], rel=1e-3)


@pytest.mark.parametrize("is_said", [False, True])
def test_what_another_rank_says_is_not_said_again(
    is_said: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = AsrCompressError("dev.tsv: no such file")
    error.is_said = is_said

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr("asrcompress.cli.main._call", fail)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == ("" if is_said else "asrcompress: dev.tsv: no such file\n")
