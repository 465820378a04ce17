"""Trials that are broken off, resumed and shared give what one uninterrupted run gives, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from asrcompress.grids import Granularity, QuantizedWeight
from asrcompress.ops.journal import Journal
from asrcompress.ops.load import open_source
from asrcompress.ops.probe import Probe, read_probe_data
from asrcompress.ops.ranks import Ranks, connect
from asrcompress.ops.trials import Trial, make_trial, run_trials
from asrcompress.ops.units import Option, Unit, weight_units
from asrcompress.quantizers import get_quantizer

ROOT = Path(__file__).resolve().parents[2]
KEY = "0" * 64


def make_probe(checkpoint: Path, table: Path) -> Probe:
    source = open_source(checkpoint)
    probe: Probe

    def candidate(unit: Unit, option: Option) -> QuantizedWeight:
        return get_quantizer("rtn")(
            probe.model.get_parameter(unit.name).detach(), num_bits=option.num_bits, granularity=Granularity.parse("per_channel"),
            name=unit.name, statistics=None,
        )  # fmt: skip

    probe = Probe(source, [], candidate, read_probe_data(source, table))
    probe.add_units(weight_units(probe.model))
    return probe


def make_trials(probe: Probe) -> list[Trial]:
    trials = [make_trial({name: Option(bits)}, decode=bits == 2) for name in probe.units for bits in (4, 2)]
    return [*trials, make_trial({name: Option(3) for name in probe.units}, decode=True), make_trial({})]


def main(checkpoint: str, table: str, base: str, out: str) -> None:
    """What a process of these tests does: `python -m tests.ops.test_trials ...`, under torchrun or not."""
    torch.set_num_threads(1)
    with connect(timeout_s=60) as ranks:
        probe = make_probe(Path(checkpoint), Path(table))
        results = run_trials(make_trials(probe), probe, Journal(base, KEY, rank=ranks.rank), ranks)
        text = json.dumps([result.to_json() for result in results])
        Path(f"{out}.{ranks.rank}").write_text(text)


@pytest.fixture(scope="module")
def probe(tiny_s2t: Path, tiny_speech: Path) -> Iterator[Probe]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield make_probe(tiny_s2t, tiny_speech)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def expected(probe: Probe, tmp_path_factory: pytest.TempPathFactory) -> str:
    base = tmp_path_factory.mktemp("whole") / "s.json"
    results = run_trials(make_trials(probe), probe, Journal(base, KEY), Ranks())
    assert len({result.loss for result in results}) > len(results) / 2
    return json.dumps([result.to_json() for result in results])


def counted(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of trials that are measured from now on."""
    measured: list[str] = []
    plain = Probe.measure

    def measure(self: Probe, changes: dict[str, Option], *, decode: bool):
        measured.append(make_trial(changes, decode=decode).key)
        return plain(self, changes, decode=decode)

    monkeypatch.setattr(Probe, "measure", measure)
    return measured


def test_killed_in_the_middle_and_resumed(
    probe: Probe, expected: str, tiny_s2t: Path, tiny_speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "s.json"
    arguments = [str(tiny_s2t), str(tiny_speech), str(base), str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-m", "tests.ops.test_trials", *arguments], cwd=ROOT)
    path = tmp_path / "s.json.rank0.jsonl"
    while process.poll() is None and (not path.is_file() or path.read_bytes().count(b"\n") < 5):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = list(Journal(base, KEY).results)
    trials = make_trials(probe)
    assert 4 <= len(done) < len(trials)
    measured, seen = counted(probe, monkeypatch), []
    results = run_trials(trials, probe, Journal(base, KEY), Ranks(), lambda *progress: seen.append(progress))
    assert json.dumps([result.to_json() for result in results]) == expected
    assert measured == [trial.key for trial in trials if trial.key not in done]
    assert seen == [(number, len(trials)) for number in range(len(done), len(trials) + 1)]
    measured.clear()
    run_trials(trials, lambda: pytest.fail("a probe is not needed"), Journal(base, KEY), Ranks())
    assert measured == []


def test_two_ranks_give_what_one_gives_on_both(
    expected: str, tiny_s2t: Path, tiny_speech: Path, tmp_path: Path
) -> None:
    base = tmp_path / "s.json"
    arguments = [str(tiny_s2t), str(tiny_speech), str(base), str(tmp_path / "out")]
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "0",
        "--standalone",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*launch, "-m", "tests.ops.test_trials", *arguments], cwd=ROOT, env=environment, check=True, timeout=120
    )
    assert [(tmp_path / f"out.{rank}").read_text() for rank in (0, 1)] == [expected] * 2
    counts = [len((tmp_path / f"s.json.rank{rank}.jsonl").read_text().splitlines()) - 1 for rank in (0, 1)]
    assert max(counts) - min(counts) <= 1 and sum(counts) == len(json.loads(expected))


def test_trials_are_told_apart_by_their_keys(probe: Probe, tmp_path: Path) -> None:
    one = make_trial({"b": Option(4), "a": Option(2, (2, 4))}, decode=True)
    assert (
        one.key == "a=int2+2:4 b=int4 decoded" == make_trial({"a": Option(2, (2, 4)), "b": Option(4)}, decode=True).key
    )
    assert make_trial({}).key == "none"
    with pytest.raises(ValueError, match="same key"):
        run_trials([one, one], probe, Journal(tmp_path / "s.json", KEY), Ranks())


if __name__ == "__main__":
    main(*sys.argv[1:])
