"""Processes that share work: which one this is, what falls to it, and the results of all.

torchrun's environment (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) says so; without it there is one rank. Ranks talk through
the store of torch.distributed alone: nothing here needs a GPU or a shared folder. A rank that fails or falls silent is an
error of all the others, never a wait without end.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from asrcompress.errors import AsrCompressError

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
TIMEOUT_S = 1800.0
POLL_S = 0.05
PIECE_BYTES = 2**20  # of a value in the store, which takes no large ones
GO_ON = "run the same command again: what is done is in the journal"
INTERRUPTED, ENDED = "interrupted", "ended with exit code"
SILENT = INTERRUPTED, ENDED  # how the words of a rank begin that tells the user nothing
ANSWER_S = 3.0  # that a rank which stopped may take to say why


class Ranks:
    """One of `size` processes that share work; `rank` counts from 0.

    Args:
        rank: of this process.
        size: how many there are.
        store: of torch.distributed; None where there is one rank.
        timeout_s: without a sign of life of another rank, after which it counts as lost.
        go_on: what to do when one is.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, store: Any = None, *, timeout_s: float = TIMEOUT_S, go_on: str = GO_ON
    ) -> None:
        self.rank, self.size, self.timeout_s, self.go_on = rank, size, timeout_s, go_on
        self._store, self._num_gathers = store, 0

    @property
    def store(self) -> Any:
        """A part of the store for others to talk through, torch.distributed's process groups; None where there is one rank."""
        if self._store is None:
            return None
        from torch.distributed import PrefixStore

        return PrefixStore("group", self._store)

    @property
    def local_rank(self) -> int:
        """Of this process on its machine, as torchrun says; `rank` where nobody does."""
        text = os.environ.get("LOCAL_RANK", "")
        return int(text) if text.isdigit() else self.rank

    def beat(self) -> None:
        """A sign of life, to be given during work that takes long."""
        if self._store is not None:
            self._call("add", f"beat/{self.rank}", 1)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank, on every rank; values are plain JSON. All ranks call it equally often.

        Raises:
            AsrCompressError: a rank failed, or gave no sign of life for too long.
        """
        if self._store is None:
            return [json.loads(json.dumps(value, allow_nan=False))]
        name, self._num_gathers = f"gather/{self._num_gathers}", self._num_gathers + 1
        text = json.dumps(value, allow_nan=False).encode()
        pieces = [text[start : start + PIECE_BYTES] for start in range(0, len(text), PIECE_BYTES)]
        for number, piece in enumerate(pieces):
            self._call("set", f"{name}/{self.rank}/{number}", piece)
        self._call("set", f"{name}/{self.rank}", str(len(pieces)))
        return [self._receive(name, rank) for rank in range(self.size)]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.gather(None)

    def fail(self, message: str) -> None:
        """Tell the other ranks that this one stops."""
        if self._store is not None:
            with suppress(AsrCompressError):
                self._call("set", f"failed/{self.rank}", message)

    def explain(self, error: BaseException) -> BaseException:
        """An error as the user is to see it: that another rank is gone, where this is why torch.distributed failed.

        Of errors that several ranks have, one says it: the others' are marked as said.
        """
        if self._store is None:
            return error
        found = self._loss(error)
        if isinstance(found, AsrCompressError) and not found.is_said:
            name = hashlib.sha256(str(found if found is error else self.go_on).encode()).hexdigest()
            with suppress(AsrCompressError):
                found.is_said = self._call("add", f"said/{name}", 1) > 1
        return found

    def _loss(self, error: BaseException) -> BaseException:
        if not isinstance(error, RuntimeError) or not _is_of_transport(error):
            return error
        end = time.monotonic() + ANSWER_S
        # torchrun tells the ranks that are left to end, too; this one ends anyway, and first says why.
        with suppress(AsrCompressError, SystemExit):
            while time.monotonic() < end:
                for rank in range(self.size):
                    if rank != self.rank and self._call("check", [f"failed/{rank}"]):
                        return self._stopped(rank)
                time.sleep(POLL_S)
        return AsrCompressError(self._lost(error))

    def _stopped(self, rank: int) -> AsrCompressError:
        """That a rank stopped, and whether it has said so."""
        message = self._call("get", f"failed/{rank}").decode()
        error = AsrCompressError(f"rank {rank} of {self.size} stopped: {message}")
        error.is_said = not message.startswith(SILENT)
        return error

    def _lost(self, error: BaseException) -> str:
        return f"rank {self.rank} of {self.size} has lost the others ({str(error).splitlines()[0][:120]}); {self.go_on}"

    def leave(self) -> None:
        """The last thing that a rank does. The store may live in rank 0, which waits until the others are gone."""
        if self._store is not None:
            self._call("set", f"left/{self.rank}", "")
            for rank in range(1, self.size if self.rank == 0 else 0):
                self._wait_for(f"left/{rank}", rank)

    def _receive(self, name: str, rank: int) -> Any:
        self._wait_for(f"{name}/{rank}", rank)
        count = int(self._call("get", f"{name}/{rank}"))
        return json.loads(b"".join(self._call("get", f"{name}/{rank}/{number}") for number in range(count)))

    def _wait_for(self, key: str, rank: int) -> None:
        beats, since = -1, time.monotonic()
        while not self._call("check", [key]):
            if self._call("check", [f"failed/{rank}"]):
                raise self._stopped(rank)
            found = self._call("add", f"beat/{rank}", 0)
            if found != beats:
                beats, since = found, time.monotonic()
            elif time.monotonic() - since > self.timeout_s:
                raise AsrCompressError(
                    f"rank {rank} of {self.size} has given no sign of life for {self.timeout_s:g} s; {self.go_on}"
                )
            time.sleep(POLL_S)

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._store, method)(*arguments)
        except (RuntimeError, OSError) as error:  # torch's store errors are RuntimeErrors
            raise AsrCompressError(self._lost(error)) from error


@contextmanager
def connect(*, timeout_s: float = TIMEOUT_S, go_on: str = GO_ON) -> Iterator[Ranks]:
    """The ranks of this run; an error in one ends the others. `go_on`: what to do when a rank is lost.

    Raises:
        AsrCompressError: torchrun's environment is there in part or makes no sense, or the others cannot be reached.
    """
    given = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    if "RANK" not in given and "WORLD_SIZE" not in given:
        yield Ranks()
        return
    rank, size = _numbers(given)
    if size == 1:
        yield Ranks()
        return
    missing = [name for name in VARIABLES if name not in given]
    if missing:
        raise AsrCompressError(f"{missing[0]} is not set though WORLD_SIZE is {size}; start the ranks with torchrun")
    from torch.distributed import PrefixStore, rendezvous

    try:
        store, _, _ = next(iter(rendezvous("env://", timeout=timedelta(seconds=min(timeout_s, 300.0)))))
    except (RuntimeError, ValueError, OSError) as error:
        raise AsrCompressError(
            f"rank {rank} of {size}: the others cannot be reached at {given['MASTER_ADDR']}:{given['MASTER_PORT']} "
            f"({str(error).splitlines()[0][:120]}); start the ranks with torchrun"
        ) from error
    ranks = Ranks(rank, size, PrefixStore("asrcompress", store), timeout_s=timeout_s, go_on=go_on)
    try:
        yield ranks
        ranks.leave()
    except BaseException as error:
        found = ranks.explain(error)
        ranks.fail(_words(found))
        if found is error:
            raise
        raise found from error


def _words(error: BaseException) -> str:
    """What the other ranks are told."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, SystemExit):
        return f"{ENDED} {error.code}"
    return str(error).splitlines()[0][:500] if str(error) else type(error).__name__


def _is_of_transport(error: RuntimeError) -> bool:
    """Whether torch.distributed failed to reach another rank; gloo's errors are plain RuntimeErrors."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error) or "Connection closed by peer" in str(error)


def _numbers(given: dict[str, str]) -> tuple[int, int]:
    try:
        rank, size = int(given.get("RANK", "0")), int(given.get("WORLD_SIZE", "1"))
    except ValueError:
        rank, size = -1, 0
    if not 0 <= rank < size:
        raise AsrCompressError(
            f"RANK={given.get('RANK')} and WORLD_SIZE={given.get('WORLD_SIZE')}: is not what torchrun sets; unset both for one process"
        )
    return rank, size
