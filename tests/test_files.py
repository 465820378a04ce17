"""Whole files or none: who may read them, what is replaced, and what an interruption leaves."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.files import atomic_write, check_outputs, read_json, require_absent, sha256_file, write_json


@pytest.fixture
def umask():
    """Sets the umask for one test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def write(path, data=b"new", *, force=False):
    with atomic_write(path, force=force) as handle:
        handle.write(data)


def test_sha256_is_the_published_one(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
@pytest.mark.parametrize("force", [False, True])
def test_the_umask_says_who_may_read_a_file(tmp_path, umask, mask, mode, force):
    umask(mask)
    write(tmp_path / "file", force=force)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_nothing_is_replaced_without_force(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(AsrCompressError, match=r"file: exists already; .*--force"):
        write(path)
    assert path.read_bytes() == b"old"
    write(path, force=True)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_came_into_being_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(AsrCompressError, match="exists already"), atomic_write(path) as handle:
        handle.write(b"new")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
@pytest.mark.parametrize("force", [False, True])
def test_whatever_goes_wrong_leaves_things_as_they_were(tmp_path, error, force):
    path = tmp_path / "file"
    if force:
        path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path, force=force) as handle:
        handle.write(b"half")
        handle.flush()
        raise error
    assert os.listdir(tmp_path) == (["file"] if force else [])
    assert not force or path.read_bytes() == b"old"


def test_nothing_is_seen_under_the_name_before_it_is_whole(tmp_path):
    path = tmp_path / "file"
    with atomic_write(path) as handle:
        handle.write(b"half")
        handle.flush()
        assert not path.exists()
    assert path.read_bytes() == b"half"


def test_a_full_disk_is_a_users_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AsrCompressError, match="file: could not be written: No space left on device"):
        write(tmp_path / "file")
    assert os.listdir(tmp_path) == []


def test_a_file_system_without_hard_links_still_works(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("force", [False, True])
def test_a_directory_and_a_missing_folder_are_refused(tmp_path, force):
    with pytest.raises(AsrCompressError, match="is a directory"):
        require_absent(tmp_path, force=force)
    with pytest.raises(AsrCompressError, match=r"folder .*absent does not exist; create it first"):
        write(tmp_path / "absent" / "file", force=force)


@pytest.mark.parametrize("make", [os.link, os.symlink, lambda source, target: None], ids=["link", "symlink", "itself"])
@pytest.mark.parametrize("force", [False, True])
def test_an_input_is_never_an_output(tmp_path, make, force):
    (tmp_path / "in").write_bytes(b"input")
    make(tmp_path / "in", tmp_path / "out")
    output = tmp_path / "out" if (tmp_path / "out").exists() else tmp_path / "." / "in"
    with pytest.raises(AsrCompressError, match="is an input"):
        check_outputs([tmp_path / "new", output], [tmp_path / "in"], force=force)
    assert (tmp_path / "in").read_bytes() == b"input"


def test_two_outputs_are_two_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AsrCompressError, match="a file of its own"):
        check_outputs([Path("a"), tmp_path / "a"], [], force=True)
    check_outputs([Path("a"), tmp_path / "b"], [], force=False)
    assert os.listdir(tmp_path) == []  # looking leaves nothing


@pytest.mark.parametrize("what", ["fifo", "/dev/null", "directory", "link to /dev/null"])
def test_what_is_no_file_is_not_replaced(tmp_path, what):
    path = Path("/dev/null") if what == "/dev/null" else tmp_path / "out"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "directory":
        path.mkdir()
    elif what.startswith("link"):
        path.symlink_to("/dev/null")
    before = path.lstat()
    with pytest.raises(AsrCompressError, match=r"is a (device or a pipe|directory); give the name of a file"):
        check_outputs([path], [], force=True)
    with pytest.raises(AsrCompressError), atomic_write(path, force=True):
        pass
    assert path.lstat().st_ino == before.st_ino


def test_a_dangling_link_is_something_that_exists(tmp_path):
    path = tmp_path / "out"
    path.symlink_to(tmp_path / "gone")
    with pytest.raises(AsrCompressError, match="exists already"):
        check_outputs([path], [], force=False)
    with pytest.raises(AsrCompressError, match="exists already"):
        write(path)
    write(path, force=True)
    assert path.read_bytes() == b"new" and not path.is_symlink()


def test_a_link_that_came_into_being_meanwhile_is_not_silently_kept(tmp_path):
    with pytest.raises(AsrCompressError, match="exists already"), atomic_write(tmp_path / "out") as handle:
        handle.write(b"new")
        (tmp_path / "out").symlink_to(tmp_path / "gone")


def test_the_longest_name_that_the_file_system_takes(tmp_path):
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    with pytest.raises(AsrCompressError, match="name too long"):
        check_outputs([tmp_path / ("a" * (longest + 1))], [], force=False)
    check_outputs([tmp_path / ("a" * longest)], [], force=False)
    write(tmp_path / ("a" * longest))
    assert os.listdir(tmp_path) == ["a" * longest]


@pytest.mark.parametrize("role", ["input", "output"])
def test_a_name_that_is_not_utf_8_is_refused(tmp_path, role):
    path = tmp_path / os.fsdecode(b"m\xff.pt")
    paths = ([path], []) if role == "output" else ([tmp_path / "out"], [path])
    with pytest.raises(AsrCompressError, match=r"m\\udcff\.pt.*not UTF-8"):
        check_outputs(*paths, force=False)


def test_a_folder_that_takes_no_file_is_found_before_any_work(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)  # root may write anywhere, so the mode of a folder cannot show it
    with pytest.raises(AsrCompressError, match=r"out: cannot be written: Permission denied"):
        check_outputs([tmp_path / "out"], [], force=True)


def test_trouble_with_the_temporary_file_does_not_hide_the_cause(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", fail)
    with pytest.raises(ValueError, match="the cause"), atomic_write(tmp_path / "out"):
        raise ValueError("the cause")


def test_json_comes_back_as_it_was_written(tmp_path):
    record = {"name": "größe", "none": None, "list": [1, 2.5, True]}
    write_json(tmp_path / "a.json", record)
    assert read_json(tmp_path / "a.json") == record
    assert (tmp_path / "a.json").read_text(encoding="utf-8").endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_not_json_and_leaves_no_file(tmp_path, value):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"wer": value})
    assert os.listdir(tmp_path) == []


NO_OBJECTS = [b"", b"{", b"[1]", b"3", b"\xff\xfe{}", b"[" * 100_000, b'{"a": 1} x']


@pytest.mark.parametrize("data", NO_OBJECTS, ids=lambda data: repr(data[:12]))
def test_what_is_no_json_object_is_one_line_that_names_the_file(tmp_path, data):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(AsrCompressError, match=r"a\.json: ") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_an_absent_file_and_a_directory_are_one_line_too(tmp_path):
    with pytest.raises(AsrCompressError, match="no such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(AsrCompressError, match="could not be read"):
        read_json(tmp_path)
