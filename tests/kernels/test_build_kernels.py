"""Compiling and loading the library: once, for this user alone, and never in silence where it cannot be had."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest
import torch

from asrcompress.kernels import build
from tests.kernels.conftest import packed, product_in_words


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """The module as in a new process, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build._load.cache_clear()
    yield tmp_path / "cache" / "asrcompress" / "kernels"
    build._load.cache_clear()


def quick(monkeypatch):
    """A compiler that compiles an empty file: what is tested is around it."""
    calls = []
    run = subprocess.run

    def compile_nothing(command, **options):
        if "-o" in command:
            calls.append(command)
            command = [command[0], "-shared", "-x", "c", os.devnull, "-o", command[command.index("-o") + 1]]
        return run(command, **options)

    monkeypatch.setattr(build.subprocess, "run", compile_nothing)
    return calls


def test_it_is_compiled_once_and_kept_where_nobody_else_writes(fresh, monkeypatch):
    calls = quick(monkeypatch)
    said = []
    monkeypatch.setattr(build, "announce", said.append)
    assert not build.was_asked()
    assert build.library() is not None and build.state() == "avx512_vnni" and build.was_asked()
    build._load.cache_clear()
    assert build.library() is not None
    (found,) = fresh.iterdir()
    assert len(calls) == 1 and len(said) == 1 and stat.S_IMODE(fresh.stat().st_mode) == 0o700 and found.suffix == ".so"
    assert build.SOURCE / "kernels.c" in map(type(build.SOURCE), calls[0])


def test_a_library_that_others_could_have_written_is_compiled_anew(fresh, monkeypatch):
    calls = quick(monkeypatch)
    build.library()
    (found,) = fresh.iterdir()
    found.chmod(0o777)
    build._load.cache_clear()
    assert build.library() is not None and len(calls) == 2
    assert not found.stat().st_mode & 0o022


def test_a_folder_that_others_can_write_to_is_not_used(fresh, monkeypatch):
    quick(monkeypatch)
    fresh.mkdir(parents=True)
    fresh.chmod(0o777)
    assert build.library() is not None and not list(fresh.iterdir())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda patch: patch.setenv(build.SWITCH, "off"), "torch (ASRCOMPRESS_KERNELS=off)"),
        (lambda patch: patch.setattr(build, "_processor", lambda: {"avx2"}), "torch (the processor has no avx512_vnni"),
        (lambda patch: patch.setenv("PATH", "/nowhere"), "torch (no C compiler)"),
        (lambda patch: patch.setattr(build, "FLAGS", ("-no-such-flag",)), "torch ("),
    ],
    ids=["switched-off", "processor", "compiler", "broken-compiler"],
)
def test_without_it_torch_multiplies_and_the_reason_is_said(fresh, monkeypatch, change, reason):
    change(monkeypatch)
    monkeypatch.delenv("CC", raising=False)
    if "processor" in reason:
        monkeypatch.setattr(build, "NEEDED", {"avx512_vnni"})
    assert build.library() is None and build.state().startswith(reason)
    weight, x = packed(6, 8), torch.randn(2, 8)
    assert torch.equal(weight.integer_product(x), product_in_words(x, weight))
    assert not list(fresh.glob("*.so")) if fresh.exists() else True
