"""Compiling and loading the library: once, for this user alone, and never in silence where it cannot be had."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess

import pytest
import torch

from asrcompress.errors import AsrCompressError
from asrcompress.kernels import build
from asrcompress.ops.load import environment
from tests.kernels.conftest import packed, product_in_words


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """The module as in a new process, with a cache of its own, on a processor that has all it needs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(build.SWITCH, raising=False)
    monkeypatch.setattr(build, "_processor", lambda: set(build.NEEDED))
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
    assert build.library() is not None and build.state() == "avx512_vnni"
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


def test_what_is_not_this_users_is_not_loaded(fresh, monkeypatch):
    quick(monkeypatch)
    fresh.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(build.os, "geteuid", lambda: os.getuid() + 1)
    assert build.library() is not None and not list(fresh.iterdir())


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_neither_a_group_nor_the_world_may_write(fresh, monkeypatch, mode):
    quick(monkeypatch)
    fresh.mkdir(parents=True)
    fresh.chmod(mode)
    assert build.library() is not None and not list(fresh.iterdir())


def another_source(patch, folder):
    copied = folder / "c"
    shutil.copytree(build.SOURCE, copied)
    with (copied / "rows.h").open("a") as handle:
        handle.write("// another\n")
    patch.setattr(build, "SOURCE", copied)


def another_compiler(patch, folder):
    compiler = folder / "cc"
    version = f'[ "$1" = --version ] && [ -e {folder}/newer ] && echo newer'
    compiler.write_text(f'#!/bin/sh\n{version}\nexec {shutil.which("gcc") or shutil.which("cc")} "$@"\n')
    compiler.chmod(0o700)
    patch.setenv("CC", str(compiler))


@pytest.mark.parametrize(
    "change",
    [
        another_source,
        lambda patch, folder: patch.setattr(build, "FLAGS", (*build.FLAGS, "-DANOTHER")),
        lambda patch, folder: patch.setattr(build, "_processor", lambda: {*build.NEEDED, "another"}),
        lambda patch, folder: (folder / "newer").touch(),
    ],
    ids=["source", "flags", "processor", "compiler"],
)
def test_what_was_compiled_from_or_for_something_else_is_not_taken(fresh, monkeypatch, tmp_path, change):
    calls = quick(monkeypatch)
    another_compiler(monkeypatch, tmp_path)
    build.library()
    change(monkeypatch, tmp_path)
    build._load.cache_clear()
    assert build.library() is not None and len(calls) == 2 and len(list(fresh.iterdir())) == 2


def test_a_compiler_that_fails_leaves_nothing_behind(fresh, monkeypatch):
    monkeypatch.setattr(build, "FLAGS", ("-no-such-flag",))
    assert build.library() is None and not list(fresh.iterdir())


def test_a_compiler_that_hangs_is_given_up(fresh, monkeypatch):
    run = subprocess.run

    def hang(command, **options):
        if "-o" in command:
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return run(command, **options)

    monkeypatch.setattr(build.subprocess, "run", hang)
    assert build.library() is None and build.state().startswith("torch (")


def test_without_the_instructions_nothing_is_compiled(fresh, monkeypatch):
    calls = quick(monkeypatch)
    monkeypatch.setattr(build, "_processor", lambda: build.NEEDED - {"avx512bw"})
    assert build.library() is None and build.state() == "torch (the processor has no avx512bw)" and not calls


def test_a_record_says_how_integers_were_multiplied_only_where_they_were(fresh, monkeypatch):
    quick(monkeypatch)
    build.library()  # which another part of the process may have wanted
    assert "integer_kernels" not in environment("cpu")
    assert environment("cpu", multiplied=True)["integer_kernels"] == "avx512_vnni"


def test_a_compiler_that_says_nothing_is_told_by_its_status(fresh, monkeypatch):
    monkeypatch.setenv("CC", "/bin/false")
    assert build.library() is None and build.state() == "torch (/bin/false failed with status 1)"


def test_a_switch_that_is_neither_on_nor_off_is_an_error(fresh, monkeypatch):
    monkeypatch.setenv(build.SWITCH, "maybe")
    with pytest.raises(AsrCompressError, match="ASRCOMPRESS_KERNELS=maybe: use on or off"):
        build.library()
