"""A baseline is the run it says it is: its utterances are those that were written with it, every one, before decoding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.ops.baseline import read_baseline
from asrcompress.ops.eval_config import EvalConfig
from asrcompress.ops.evaluate import evaluate

Lines = list[dict]


@pytest.fixture
def baseline(tiny_s2t: Path, tiny_speech: Path, tmp_path: Path) -> Path:
    config = EvalConfig(tiny_speech, beam=1, max_len_b=4, num_resamples=100)
    return evaluate(tiny_s2t, config, output=tmp_path / "b.json")[0]


def rewrite(path: Path, change: Callable[[Lines], object], *, sign: bool) -> None:
    """Change the utterances file; `sign` puts its new sha256 into the sidecar."""
    file = path.with_name("b.utterances.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    change(lines)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if sign:
        record = json.loads(path.read_text())
        record["utterances_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        path.write_text(json.dumps(record))


def test_the_sidecar_knows_its_utterances(baseline: Path) -> None:
    record = json.loads(baseline.read_text())
    content = baseline.with_name(record["utterances_file"]).read_bytes()
    assert record["utterances_sha256"] == hashlib.sha256(content).hexdigest()
    assert len(read_baseline(baseline).utterances) == 5


def test_a_changed_file_is_noticed(baseline: Path) -> None:
    rewrite(baseline, lambda lines: lines[0].update(errors=0), sign=False)
    with pytest.raises(AsrCompressError, match=r"b\.utterances\.jsonl: .*another sha256.*evaluate the baseline"):
        read_baseline(baseline)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines.pop(), "are 4, not the 5 of the test set"),
        (lambda lines: lines[0].update(id="other"), "are 5, not the 5 of the test set"),
        (lambda lines: lines.append(lines[0]), "name an id twice"),
        (lambda lines: lines[1].pop("errors"), "have no 'errors' for utterance_1"),
        (lambda lines: lines[1].update(errors="many"), "have no 'errors' for utterance_1"),
        (lambda lines: lines[1].update(errors=-1), "have no 'errors' for utterance_1"),
    ],
)
def test_other_utterances_are_found_before_decoding(
    baseline: Path, tiny_s2t: Path, tiny_speech: Path, monkeypatch: pytest.MonkeyPatch, change: Callable, words: str
) -> None:
    rewrite(baseline, change, sign=True)
    monkeypatch.setattr("asrcompress.ops.score_asr.check_audio", None)  # nothing may be read or decoded
    config = EvalConfig(tiny_speech, beam=1, max_len_b=4, num_resamples=100, baseline=baseline)
    with pytest.raises(AsrCompressError, match=words):
        evaluate(tiny_s2t, config, output=baseline.with_name("new.json"))


@pytest.mark.parametrize("name", ["../b.utterances.jsonl", "/etc/hostname", "", ".", "..", "a/b"])
def test_an_utterances_file_in_another_folder_is_not_opened(baseline: Path, name: str) -> None:
    record = json.loads(baseline.read_text())
    record["utterances_file"] = name
    baseline.write_text(json.dumps(record))
    with pytest.raises(AsrCompressError, match=r"(plain name|cannot be read)"):
        read_baseline(baseline)


def test_a_baseline_is_read_as_strictly_as_any_sidecar(baseline: Path) -> None:
    baseline.write_text(baseline.read_text().replace('"cer": ', '"cer": NaN, "cer2": ', 1))
    with pytest.raises(AsrCompressError, match=r"metrics\.cer is nan"):
        read_baseline(baseline)
    with pytest.raises(AsrCompressError, match="is a model, not a sidecar"):
        read_baseline(baseline.with_name("m.pt"))


def test_line_separators_inside_a_text_are_no_line_ends(baseline: Path) -> None:
    """JSON leaves U+2028 as it is, and str.splitlines would cut there."""
    file = baseline.with_name("b.utterances.jsonl")
    file.write_text(file.read_text().replace("go left", "go\u2028left"), encoding="utf-8")
    record = json.loads(baseline.read_text())
    record["utterances_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    baseline.write_text(json.dumps(record))
    assert read_baseline(baseline).utterances["utterance_0"]["reference"] == "go\u2028left"
