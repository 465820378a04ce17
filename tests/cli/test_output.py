"""The progress line: on a terminal, after two seconds, with an estimate of what is left, and gone at the end."""

from __future__ import annotations

import io
import sys

import pytest

from asrcompress.cli import output


class Screen(io.StringIO):
    """stderr that is a terminal or not, beside a clock that stands until it is moved."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self.is_terminal, self.now = is_terminal, 1000.0

    def isatty(self) -> bool:
        return self.is_terminal

    def new(self) -> str:
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


def watch(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool = True) -> Screen:
    """Called by each test: between fixtures and tests pytest puts its own stderr in place."""
    found = Screen(is_terminal)
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setattr(output.time, "monotonic", lambda: found.now)
    return found


def test_quick_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = watch(monkeypatch)
    update = output.progress_bar("trials")
    for done in range(10):
        update(done, 10)
        screen.now += 0.19
    update(10, 10)
    assert sys.stderr is screen and screen.getvalue() == ""


def test_slow_work_shows_what_is_done_and_what_is_left_and_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = watch(monkeypatch)
    update = output.progress_bar("trials")
    update(0, 100)
    screen.now += 3
    update(0, 100)  # nothing is known of the rate
    assert screen.new() == ""
    screen.now += 7
    update(10, 100)
    assert screen.new() == "trials [##......................] 10/100, 1:30 left"
    screen.now += 0.1
    update(11, 100)  # too soon to be read
    assert screen.new() == ""
    screen.now += 9.9
    update(20, 100)
    assert screen.new() == "\r\x1b[Ktrials [####....................] 20/100, 1:20 left"
    update(100, 100)
    assert screen.new() == "\r\x1b[K"
    update(100, 100)
    assert screen.new() == ""


def test_time_counts_from_when_work_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = watch(monkeypatch)
    update = output.progress_bar("trials")
    screen.now += 100  # what is prepared for it
    update(0, 10)
    screen.now += 5
    update(5, 10)
    assert screen.new().endswith("5/10, 0:05 left")
    update(10, 10)


def test_a_message_does_not_stand_behind_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = watch(monkeypatch)
    update = output.progress_bar("trials")
    update(0, 10)
    screen.now += 5
    update(5, 10)
    screen.new()
    output.say("interrupted")
    assert screen.new() == "\r\x1b[Kinterrupted\n"
    output.say("again")
    assert screen.new() == "again\n"


def test_what_an_earlier_run_did_does_not_count_for_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = watch(monkeypatch)
    update = output.progress_bar("trials")
    update(80, 100)
    screen.now += 10
    update(80, 100)
    assert screen.new() == ""
    update(90, 100)
    assert screen.new().endswith("90/100, 0:10 left")
    update(100, 100)


def test_without_a_terminal_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = watch(monkeypatch, is_terminal=False)
    update = output.progress_bar("trials")
    update(0, 2)
    screen.now += 100
    update(1, 2)
    assert screen.getvalue() == ""


@pytest.mark.parametrize(
    ("metric", "said"), [("wer", "dev WER 4.00% (best 3.00%)"), ("au_fa_fr", "dev AU FA-FR 4.000e-02 (best 3.000e-02)")]
)
def test_a_training_tells_its_metric_on_a_terminal(monkeypatch, capsys, metric, said):
    from asrcompress.training.trainer import Evaluation, Progress

    monkeypatch.setattr(output, "_line", [])
    monkeypatch.setattr(output.sys.stderr, "isatty", lambda: True)
    report = output.finetune_progress()
    history = [Evaluation(update, 0.0, value, 0.5, None, 1e-4, None) for update, value in ((0, 0.03), (5, 0.04))]
    report.on_update(Progress(5, history), 20, metric)
    report.on_update(Progress(6, history), 20, metric)
    shown = capsys.readouterr().err
    assert said in shown and "6/20" in shown and " left, " in shown
