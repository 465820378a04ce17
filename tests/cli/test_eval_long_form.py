"""Long form on the command line: what is said, what is written, and which options go together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from asrcompress.cli.long_form import long_form_config, long_form_summary

Run = Callable[..., Any]
NOTHING: dict[str, Any] = dict.fromkeys(
    ("threshold", "false_reject_rate", "smoothing_s", "debounce_s", "reset", "window_s")
)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    random = np.random.default_rng(1)
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * random.standard_normal(16000), 16000)
    (tmp_path / "clips.tsv").write_text("path\tword\n0.wav\tgo\n1.wav\tno\n2.wav\tgo\n3.wav\tno\n")
    (tmp_path / "list.txt").write_text("1.wav\n3.wav\n")
    return tmp_path / "clips.tsv"


def test_the_summary_names_rate_interval_policy_and_both_resets(run: Run, tiny_kws: Path, clips: Path) -> None:
    done = run(
        "eval", tiny_kws, "--data", clips, "--keyword", "go", "--resamples", 100, "--threshold", 0, "--debounce-s", "0.5",
        "--long-form", clips.with_name("list.txt"), "--long-form", clips.with_name("list.txt"), "--reset", "off", "-o", "e.json",
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "e.json\n"), done.stderr
    block = json.loads(Path("e.json").read_text())["long_form"]
    assert (
        sum(each["false_accepts"] for each in block["negatives"])
        == block["false_accepts"]
        == len(block["false_accept_events"])
    )
    assert len(block["negatives"]) == 2 and block["hours"] == pytest.approx(4 / 3600)
    assert block["policy"] | {"reset": False, "debounce_s": 0.5, "threshold": 0} == block["policy"]
    assert f"{block['false_accepts']} in 0.00 h) with 0 of 2 keywords missed (0.00%)" in done.stderr
    assert "\nlong form: " in done.stderr
    assert "debounce 0.5 s, reset off (with it" in done.stderr and "95% interval" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--reset", "on"), "--reset on: is for running speech; add --long-form"),
        (("--false-reject-rate", "0.1"), "--false-reject-rate 0.1: is for running speech"),
        (("--long-form", "list.txt", "--reset", "maybe"), "--reset maybe: is neither on nor off"),
        (("--long-form", "list.txt", "--threshold", "0.5", "--false-reject-rate", "0.1"), "give one"),
        (("--long-form", "list.txt", "--window-s", "0.1"), "--window-s 0.1|a window of 0.1 s"),
        (("--long-form", "gone"), "gone: no such file or folder"),
        (("--window-s", "0.5"), "--window-s 0.5: is for streams"),
    ],
)
def test_options_that_do_not_fit_are_one_line_and_write_nothing(
    run: Run, tiny_kws: Path, clips: Path, options: tuple[str, ...], words: str
) -> None:
    Path("list.txt").write_text(f"{clips.with_name('1.wav')}\n")
    done = run("eval", tiny_kws, "--data", clips, "--keyword", "go", *options, "-o", "e.json")
    assert done.returncode == 2 and done.stdout == ""
    assert any(part in done.stderr for part in words.split("|")), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not Path("e.json").exists()


def test_only_what_was_given_goes_in() -> None:
    assert long_form_config(None, **NOTHING) is None
    config = long_form_config([Path("a"), Path("b")], **(NOTHING | {"reset": "off", "smoothing_s": 0.0}))
    assert config is not None
    assert (config.negatives, config.reset, config.smoothing_s) == ((Path("a"), Path("b")), False, 0.0)
    assert (config.threshold, config.false_reject_rate, config.debounce_s, config.window_s) == (None, None, 1.0, 1.0)


def test_a_summary_of_nothing_detected() -> None:
    result = {
        "false_accepts": 0, "false_accepts_per_hour": 0.0, "false_rejects": 3, "false_reject_rate": 1.0,
        "interval": {"low": 0.0, "high": 1.84, "confidence": 0.95}, "repeated_detections": 0, "latency_from_end_ms": None,
    }  # fmt: skip
    block = result | {
        "hours": 2.0, "keywords": {"num_keywords": 3}, "without_reset": result, "with_reset": result,
        "policy": {"threshold": 1.0, "smoothing_steps": 2, "debounce_s": 1.0, "reset": True},
        "plateau": {"raw_s": None, "smoothed_s": None, "reset_s": None},
    }  # fmt: skip
    line = long_form_summary(block)
    assert line.startswith(
        "0.00 false accepts per hour (95% interval 0.00 to 1.84; 0 in 2.00 h) with 3 of 3 keywords missed"
    )
    assert "detected +" not in line and line.endswith("never as it comes, never with mean and reset")
