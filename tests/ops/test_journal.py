"""Journals: what a kill leaves, what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.ops.journal import Journal, fingerprint

KEY = fingerprint({"model": "a" * 64, "options": [1, 2]})
RESULTS = {"one": {"loss": 0.1 + 0.2, "errors": None}, "two": {"loss": 1e-300}, "drei ü": {"loss": -0.0}}


def written(base: Path, rank: int = 0) -> Journal:
    journal = Journal(base, KEY, rank=rank)
    for key, result in RESULTS.items():
        journal.add(key, result)
    return journal


def test_results_come_back_bit_for_bit_from_all_ranks(tmp_path: Path) -> None:
    base = tmp_path / "s[1].json"  # which is a glob, too
    (tmp_path / "s1.json.rank0.jsonl").write_text("another's\n")
    journal = written(base)
    assert journal.results == RESULTS
    Journal(base, KEY, rank=12).add("four", 4)
    again = Journal(base, KEY, rank=3)
    assert again.results == RESULTS | {"four": 4}
    assert str(again.results["drei ü"]["loss"]) == "-0.0"
    again.remove()
    assert Journal(base, KEY).results == {} and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_wherever_the_file_is_cut_whole_lines_count_and_work_goes_on(tmp_path: Path, rank: int) -> None:
    base = tmp_path / "s.json"
    path = written(base).path
    text = path.read_bytes()
    for length in range(len(text) + 1):
        path.write_bytes(text[:length])
        journal = Journal(base, KEY, rank=rank)
        num_whole = text[:length].count(b"\n")
        assert list(journal.results) == list(RESULTS)[: max(num_whole - 1, 0)]
        journal.add("new", 1)
        assert Journal(base, KEY).results == journal.results
        (tmp_path / "s.json.rank1.jsonl").unlink(missing_ok=True)


def test_a_look_into_a_journal_minds_neither_inputs_nor_damage(tmp_path: Path) -> None:
    base = tmp_path / "s.json"
    assert Journal.peek(base, "one") is None and Journal.files_of(base) == []
    path = written(base, rank=2).path
    assert Journal.peek(base, "one") == RESULTS["one"] and Journal.peek(base, "none") is None
    assert Journal.files_of(base) == [path]
    whole = path.read_bytes()
    for text in (whole + b'{"key": "torn", "res', whole + b"[1]\n", whole + b"\xff\n", b'"x"\n' + whole):
        path.write_bytes(text)
        assert Journal.peek(base, "one") == RESULTS["one"]
        assert Journal.peek(base, "torn") is None


def test_a_journal_of_other_inputs_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "s.json").path
    before = path.read_bytes()
    with pytest.raises(
        AsrCompressError, match=r"s.json.rank0.jsonl: is the journal of .* other data .*; remove it, or use another -o"
    ):
        Journal(tmp_path / "s.json", fingerprint({"model": "b" * 64, "options": [1, 2]}), rank=1)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "text"),
    [(1, "{}"), (1, "x"), (2, '{"key": "a"}'), (3, "[]"), (2, '{"key": "a", "result'), (2, "\0" * 9), (2, "[" * 99999)],
)
def test_damage_within_is_named(tmp_path: Path, line: int, text: str) -> None:
    path = written(tmp_path / "s.json").path
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(AsrCompressError, match=rf"rank0.jsonl:{line}: the journal is damaged; remove it"):
        Journal(tmp_path / "s.json", KEY)


def test_fingerprints_tell_inputs_apart_and_not_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2, 3]}) == fingerprint({"b": [2, 3], "a": 1})
    assert len({fingerprint({"a": value}) for value in (1, 2, "1", None, [1])}) == 5


def test_nothing_that_is_not_json_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "s.json", KEY)
    with pytest.raises(ValueError, match="JSON"):
        journal.add("a", float("nan"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(AsrCompressError, match="rank0.jsonl: could not be written: No such file"):
        Journal(tmp_path / "nowhere" / "s.json", KEY).add("a", 1)


def test_a_process_killed_in_the_middle_leaves_what_it_had_finished(tmp_path: Path) -> None:
    base = tmp_path / "s.json"
    script = (
        "import sys; from asrcompress.ops.journal import Journal\n"
        f"journal = Journal({str(base)!r}, {KEY!r})\n"
        "for number in range(10**6): journal.add(str(number), {'value': number / 7})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    path = tmp_path / "s.json.rank0.jsonl"
    while not path.is_file() or path.stat().st_size < 500:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    results = Journal(base, KEY).results
    assert len(results) > 5
    assert results == {str(number): {"value": number / 7} for number in range(len(results))}
    assert json.loads(path.read_text().splitlines()[0]) == {"fingerprint": KEY}
