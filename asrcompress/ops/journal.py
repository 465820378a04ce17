"""A journal of finished work: what is in it need not be done again after an interruption.

JSON lines, appended and synced one by one, in a file per rank beside the output. The first line says what the work was
done on. A process may be killed at any moment: a last line without its end is as if it had never been begun.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from asrcompress.errors import AsrCompressError

SUFFIX = re.compile(r"\.rank[0-9]+\.jsonl")


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """sha256 of all that results depend on: hashes of model and data, options. Plain JSON, the order of keys aside."""
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Journal:
    """Results by key, of this run and of earlier ones that were broken off.

    Args:
        base: what the journal belongs to, such as the report that is being made; files are `<base>.rank<n>.jsonl`.
        fingerprint: of the inputs.
        rank: whose file is written to; those of all ranks are read.

    Raises:
        AsrCompressError: a journal of other inputs is there, or one that is damaged or cannot be written.
    """

    def __init__(self, base: str | Path, fingerprint: str, *, rank: int = 0) -> None:
        self.base, self.fingerprint = Path(base), fingerprint
        self.path = self.base.with_name(f"{self.base.name}.rank{rank}.jsonl")
        self.results: dict[str, Any] = {}
        self._started = False
        for path in self.files():
            self.results |= self._read(path)

    def files(self) -> list[Path]:
        """The files of all ranks that are there."""
        return self.files_of(self.base)

    @staticmethod
    def files_of(base: str | Path) -> list[Path]:
        """The files of all ranks of a journal, in order."""
        base = Path(base)
        found = base.parent.glob(f"{_escaped(base.name)}.rank*.jsonl")
        return sorted(path for path in found if SUFFIX.fullmatch(path.name.removeprefix(base.name)))

    @staticmethod
    def peek(base: str | Path, key: str) -> Any:
        """One result of a journal, whatever its inputs; None where it is not there, or the journal cannot be read."""
        for path in Journal.files_of(base):
            with suppress(OSError, ValueError, RecursionError):
                for line in path.read_bytes().split(b"\n")[:-1]:
                    entry = json.loads(line)
                    if isinstance(entry, dict) and entry.get("key") == key:
                        return entry.get("result")
        return None

    def add(self, key: str, result: Any) -> None:
        """Write down a result; it is on disk when this returns.

        Raises:
            AsrCompressError: it could not be written.
            ValueError: the result is not JSON, or holds NaN.
        """
        line = json.dumps({"key": key, "result": result}, ensure_ascii=False, allow_nan=False)
        try:
            if not self._started:
                self._start()
            _append(self.path, line)
        except OSError as error:
            raise AsrCompressError(f"{self.path}: could not be written: {error.strerror or error}") from error
        self.results[key] = json.loads(line)["result"]

    def remove(self) -> None:
        """Delete the files of all ranks, when all is done."""
        for path in self.files():
            path.unlink(missing_ok=True)

    def _start(self) -> None:
        """Begin the rank's file, or cut off the line that an earlier run did not finish."""
        text = self.path.read_bytes() if self.path.is_file() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            with open(self.path, "r+b") as handle:
                handle.truncate(len(whole))
        if not whole:
            _append(self.path, json.dumps({"fingerprint": self.fingerprint}))
        self._started = True

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            text = path.read_bytes()
        except OSError as error:
            raise AsrCompressError(f"{path}: could not be read: {error.strerror or error}") from error
        lines = text.split(b"\n")[:-1]
        found: dict[str, Any] = {}
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                if number == 1:
                    theirs = entry["fingerprint"]
                else:
                    found[str(entry["key"])] = entry["result"]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise AsrCompressError(
                    f"{path}:{number}: the journal is damaged; remove it to start anew, or use another -o"
                ) from error
            if number == 1 and theirs != self.fingerprint:
                raise AsrCompressError(
                    f"{path}: is the journal of a run with another model, other data or options; remove it, or use another -o"
                )
        return found


def _append(path: Path, line: str) -> None:
    """One write a line, synced: a kill leaves it whole, torn or out, and what is before it as it was."""
    with open(path, "ab", buffering=0) as handle:
        handle.write(line.encode() + b"\n")
        os.fsync(handle.fileno())


def _escaped(name: str) -> str:
    """A file name as a glob that fits it alone."""
    return re.sub(r"([*?\[])", r"[\1]", name)
