"""What can be wrong with an input gets one line that names it, exit code 2, and leaves nothing behind."""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import Run


class RunsOnLoading:
    """Pickles as a call of os.system: reading it with plain pickle would leave a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Unknown:
    pass


def check(run: Run, path: Path, *words: str) -> None:
    data = path.parent / "data.tsv"
    data.write_text("a.wav\tgo\n")
    before = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    for arguments in (
        ["quantize", path, "-o", "out.safetensors"],
        ["analyze", path],
        ["eval", path, "--data", data],
    ):
        result = run(*arguments)
        assert result.returncode == 2, result.stderr
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert len(lines) == 1 and str(path) in lines[0] and lines[0].startswith("asrcompress: "), result.stderr
        for word in words:
            assert word in lines[0], lines[0]
    after = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    assert after == before  # nothing beside the input either
    assert list((path.parent / "work").iterdir() if (path.parent / "work").is_dir() else []) == []


def test_missing_file(run: Run, tmp_path: Path) -> None:
    check(run, tmp_path / "none.pt", "no such file")


def test_directory(run: Run, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    check(run, tmp_path / "folder", "is a directory")


def test_text_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_text("these are not weights\n")
    check(run, tmp_path / "notes.pt")


def test_empty_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty.pt").touch()
    check(run, tmp_path / "empty.pt", "empty")


def test_truncated_file(run: Run, tmp_path: Path, tiny_s2t: Path) -> None:
    (tmp_path / "half.pt").write_bytes(tiny_s2t.read_bytes()[: tiny_s2t.stat().st_size // 2])
    check(run, tmp_path / "half.pt")


def test_unknown_class(run: Run, tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.zeros(2)}, "extra": Unknown()}, tmp_path / "odd.pt")
    check(run, tmp_path / "odd.pt", "Unknown", "--trust-checkpoint")


@pytest.mark.parametrize("name", ["torch.pt", "plain.pkl"])
def test_a_pickle_that_runs_a_command_is_not_run(run: Run, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "was-run"
    content = {"model": {"w": torch.zeros(2)}, "args": RunsOnLoading(marker)}
    if name.endswith(".pt"):
        torch.save(content, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(content))
    check(run, tmp_path / name, "system")
    assert not marker.exists()


def test_unsupported_architecture(run: Run, tmp_path: Path) -> None:
    arguments = argparse.Namespace(arch="wav2letter", task="speech_to_text")
    torch.save({"args": arguments, "model": {"w": torch.zeros(2, 2)}, "extra_state": {}}, tmp_path / "other.pt")
    check(run, tmp_path / "other.pt", "wav2letter", "s2t_transformer", "kws_crnn")


def test_missing_dictionary(run: Run, tmp_path: Path, tiny_s2t: Path) -> None:
    shutil.copy(tiny_s2t, tmp_path / "alone.pt")
    check(run, tmp_path / "alone.pt", "config.yaml", "--data-dir")


def test_damaged_artifact(run: Run, tmp_path: Path, tiny_kws: Path) -> None:
    assert run("quantize", tiny_kws, "-o", tmp_path / "k.safetensors").returncode == 0
    (tmp_path / "k.safetensors.json").unlink()
    (tmp_path / "k.safetensors").write_bytes((tmp_path / "k.safetensors").read_bytes()[:-10])
    check(run, tmp_path / "k.safetensors", "damaged")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bits", "5"], "use one of 8, 4, 3, 2"),
        (["--bits", "four"], "--bits"),
        (["--granularity", "per_row"], "per_channel"),
        (["--activations", "fp8"], "none or int8"),
        (["--method", "magic"], "rtn"),
        (["--config", "absent.toml"], "absent.toml"),
        (["-o", "no/such/folder/x.safetensors"], "does not exist"),
    ],
)
def test_bad_options(run: Run, tiny_kws: Path, arguments: list[str], words: str) -> None:
    output = [] if "-o" in arguments else ["-o", "out.safetensors"]
    result = run("quantize", tiny_kws, *output, *arguments)
    assert result.returncode == 2 and words in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_recipe_with_an_unknown_key(run: Run, tiny_kws: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("bits = 4\nspeed = 'high'\n")
    result = run("quantize", tiny_kws, "-o", "o.safetensors", "--config", tmp_path / "r.toml")
    assert result.returncode == 2 and "'speed'" in result.stderr


def test_output_is_not_replaced_without_force(run: Run, tiny_kws: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_text("mine")
    result = run("quantize", tiny_kws, "-o", tmp_path / "mine.safetensors")
    assert (
        result.returncode == 2 and "--force" in result.stderr and (tmp_path / "mine.safetensors").read_text() == "mine"
    )
    assert run("quantize", tiny_kws, "-o", tmp_path / "mine.safetensors", "--force").returncode == 0


@pytest.mark.parametrize("threads", ["0", "100000"])
def test_threads_stay_within_the_machine(run: Run, tiny_kws: Path, threads: str) -> None:
    result = run("analyze", tiny_kws, "--threads", threads)
    assert result.returncode == 2 and result.stderr.startswith(f"asrcompress: --threads {threads}: use 1 to ")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--seed=-1", "--seed -1"),
        ("--max-len-b=0", "--max-len-b 0"),
        ("--lenpen=nan", "--lenpen nan"),
        ("--max-len-a=inf", "--max-len-a inf"),
        ("--device=meta", "--device meta"),
        ("--beam=5", "--beam 5: is for models that transcribe"),
        ("--normalizer=basic", "--normalizer basic: is for models that transcribe"),
    ],
)
def test_bad_options_of_eval(run: Run, tiny_kws: Path, tiny_speech: Path, option: str, words: str) -> None:
    result = run("eval", tiny_kws, "--data", tiny_speech, "-o", "e.json", option)
    assert result.returncode == 2 and words in result.stderr and len(result.stderr.splitlines()) == 1
    assert not Path("e.json").exists()


@pytest.mark.parametrize("name", ["a" * 250, "a" * 300, "link", ""])
def test_an_output_that_cannot_be_is_found_before_the_work(
    run: Run, tiny_s2t: Path, tiny_speech: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With eval's own suffix a name of 250 letters is too long, a dangling link is something, and no name is the folder `.`."""
    Path("link").symlink_to("gone")
    monkeypatch.setattr("asrcompress.ops.evaluate.open_source", None)
    result = run("eval", tiny_s2t, "--data", tiny_speech, "-o", name)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1, result.stderr
    assert os.listdir() == ["link"]
