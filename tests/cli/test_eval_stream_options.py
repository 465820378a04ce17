"""eval --streaming on the command line: what is said and written, a gate on it, and which options it needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def command(samples_dir: Path) -> list[object]:
    kws = samples_dir / "kws"
    return [
        "eval", kws / "crnn_computer.pt", "--data", kws / "manifest.tsv", "--keyword", "computer", "--split", "test", "--limit", 6,
        "--resamples", 100, "-o", "e.json",
    ]  # fmt: skip


def test_the_summary_says_pieces_steps_difference_and_state(run: Run, command: list[object]) -> None:
    done = run(*command, "--streaming", "--chunk-ms", "20..300", "--window-s", "2")
    assert (done.returncode, done.stdout) == (0, "e.json\n"), done.stderr
    block = json.loads(Path("e.json").read_text())["streaming"]
    assert (block["chunk_ms"], block["window_s"], block["window_steps"]) == ([20.0, 300.0], 2.0, 23)
    assert f"streamed in pieces of 20..300 ms: 66 steps, at most {block['max_difference']:.1e}" in done.stderr
    assert f"state {block['state_bytes']} B" in done.stderr and "of other codes" not in done.stderr
    gates = [
        run("report", "e.json", "--require", f"stream_max_difference<={limit}").returncode for limit in ("1e-5", "0")
    ]
    assert gates == [0, int(block["max_difference"] > 0)]


def test_by_default_pieces_are_100_ms_and_the_window_a_second(run: Run, command: list[object]) -> None:
    assert run(*command, "--streaming").returncode == 0
    block = json.loads(Path("e.json").read_text())["streaming"]
    assert (block["chunk_ms"], block["seed"], block["window_s"]) == ([100.0, 100.0], None, 1.0)
    assert block["num_chunks"] == 6 * 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--chunk-ms", "100"), "--chunk-ms 100: is for streams; add --streaming, or leave it out"),
        (("--streaming", "--chunk-ms", "500..10"), "--chunk-ms 500..10: is out of range"),
        (("--streaming", "--chunk-ms", "often"), "--chunk-ms often: is no length"),
        (("--streaming", "--window-s", "0"), "a window of 0.0 s: is out of range; use 0.19 s"),
        (("--streaming", "--batch-size", "4"), "--batch-size 4: a stream is heard alone"),
    ],
)
def test_wrong_options_are_one_line(run: Run, command: list[object], options: tuple[str, ...], words: str) -> None:
    done = run(*command, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and words in done.stderr
    assert list(Path().iterdir()) == []
