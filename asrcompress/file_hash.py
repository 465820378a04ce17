"""The sha256 of a file, taken beside other work where the file is large, and whether it is still the file that it was.

A file that changes while it is read, or before it is described, is an error and never a wrong number. Standard library only.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from asrcompress.errors import AsrCompressError
from asrcompress.files import sha256_file

BESIDE_FROM_BYTES = 1 << 26  # smaller ones take less time than a thread is worth
# A file system's clock may stand still for so long: a file that was changed just before is read again.
SETTLED_NS = 1_000_000_000


class FileHash:
    """The sha256 of the file at a path as it was when this was made."""

    def __init__(self, path: str | Path, known: str | None = None, identity: tuple[int, ...] | None = None) -> None:
        """Begin to read the file.

        Args:
            path: of the file.
            known: its sha256, where its bytes were read before.
            identity: of the file when they were, as `identity_of` gives it.
        """
        self.path = Path(path)
        self._begun_ns = time.time_ns()
        self._identity = identity or identity_of(self.path)
        self._sha256 = known
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        if known is None:
            self._begin()

    @property
    def sha256(self) -> str:
        """Hex.

        Raises:
            AsrCompressError: the file changed meanwhile, or could not be read.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._sha256 is None and self._error is None:  # in a process that was forked meanwhile
            self._read()
        if isinstance(self._error, AsrCompressError):
            raise self._error
        if self._sha256 is None:
            raise AsrCompressError(f"{self.path}: could not be read: {self._error}") from self._error
        return self._sha256

    def still_holds(self) -> bool:
        """Whether the file on disk is still, byte for byte, this one.

        What the file system says of it tells, where no change could have left that as it is; else it is read again.
        """
        found = identity_of(self.path)
        if found is None or self._identity is None or found[2] != self._identity[2]:
            return False
        if found == self._identity and self._begun_ns - max(found[3:]) > SETTLED_NS:
            return True
        try:
            return sha256_file(self.path) == self.sha256
        except OSError:
            return False

    def _begin(self) -> None:
        if self._identity is None or self._identity[2] < BESIDE_FROM_BYTES:
            self._read()
            return
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            found = sha256_file(self.path)
            if identity_of(self.path) != self._identity:
                raise changed(self.path)
            self._sha256 = found
        except (OSError, AsrCompressError) as error:
            self._error = error


def identity_of(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is replaced or written to, cheaply; None where there is no file. The last two are times."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def changed(path: Path) -> AsrCompressError:
    """The error for a file that is not any more what it was."""
    return AsrCompressError(f"{path}: changed while it was being measured; run again when nothing else writes to it")
