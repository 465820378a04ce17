"""The sha256 of a file, and whether it is still that file."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from asrcompress import file_hash
from asrcompress.errors import AsrCompressError
from asrcompress.file_hash import FileHash, identity_of

DATA = b"speech" * 1000


@pytest.fixture(params=["at once", "beside"])
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "beside":
        monkeypatch.setattr(file_hash, "BESIDE_FROM_BYTES", 1)
    path = tmp_path / "model"
    path.write_bytes(DATA)
    return path


def test_it_is_that_of_the_bytes(path: Path) -> None:
    hashed = FileHash(path)
    assert hashed.sha256 == hashlib.sha256(DATA).hexdigest()
    assert hashed.sha256 == FileHash(path, hashed.sha256).sha256


@pytest.mark.parametrize("is_old", [False, True])
def test_bytes_of_the_same_size_do_not_pass_for_the_file(
    path: Path, is_old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_old:  # nobody changed it lately: what the file system says of it is believed
        monkeypatch.setattr(file_hash, "SETTLED_NS", -10_000_000_000)
    hashed = FileHash(path)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    assert hashed.still_holds()
    time.sleep(0.02)
    path.write_bytes(DATA[:-1] + b"!")
    os.utime(path, ns=times)  # whoever sets the clock back cannot set that of the change
    assert not hashed.still_holds()
    path.write_bytes(DATA)
    assert hashed.still_holds()
    path.unlink()
    assert not hashed.still_holds()


def test_a_settled_file_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_hash, "SETTLED_NS", -10_000_000_000)
    hashed = FileHash(path)
    assert hashed.sha256
    monkeypatch.setattr(file_hash, "sha256_file", lambda path: pytest.fail("was read again"))
    assert hashed.still_holds()


def test_a_file_that_changes_while_it_is_read_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> str:
        path.write_bytes(DATA + b"!")
        return "0" * 64

    monkeypatch.setattr(file_hash, "sha256_file", read)
    with pytest.raises(AsrCompressError, match="model: changed while it was being measured"):
        assert FileHash(path).sha256


def test_a_file_that_is_gone_is_an_error_in_one_line(tmp_path: Path) -> None:
    assert identity_of(tmp_path / "none") is None
    with pytest.raises(AsrCompressError, match="none: could not be read"):
        assert FileHash(tmp_path / "none").sha256
