"""Running the real entry point, in this process: torch is loaded once. test_chain.py runs real processes."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from asrcompress.cli.main import main
from tests.conftest import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]
CLIPS = ROOT / "samples" / "kws" / "manifest.tsv"


@pytest.fixture(scope="session")
def few_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of twelve clips of the test split, of both kinds, to be judged on."""
    table = tmp_path_factory.mktemp("few") / "few.tsv"
    rows = [line.split("\t") for line in CLIPS.read_text().splitlines()[1:]]
    held = [(CLIPS.parent / path, word) for path, word, split in rows if split == "test"][:12]
    table.write_text("path\tword\n" + "".join(f"{path}\t{word}\n" for path, word in held))
    return table


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call `asrcompress` with these arguments in an empty working folder."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def call(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = ["asrcompress", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(command, int(ended.value.code or 0), out, err)

    return call
