"""Work on many things one after the other, in order, with the next ones done ahead in threads: reading, computing and writing
overlap.

torch, NumPy, hashing and files let other threads run while they work. What is worked on at once is bounded in bytes, so that
large things are still worked on alone. Results do not depend on the number of threads.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Key = TypeVar("Key")
Result = TypeVar("Result")
MOST_THREADS = 4
AHEAD_BYTES = 1 << 27  # of what is worked on; what comes of it is in memory, too


def in_order(
    keys: Iterable[Key], work: Callable[[Key], Result], size_bytes: Callable[[Key], int], *, num_threads: int = 0
) -> Iterator[tuple[Key, Result]]:
    """Each key with what `work` makes of it, in order. The first error, in order, ends it.

    Args:
        keys: what to work on.
        work: is called in other threads, for several keys at a time, each of them with one thread of torch.
        size_bytes: about what a key is in memory; more than AHEAD_BYTES are only worked on alone.
        num_threads: 0: as many as there are processors, but no more than MOST_THREADS.
    """
    num_threads = num_threads or min(processors(), MOST_THREADS)
    left = iter(keys)
    if num_threads < 2:
        for key in left:
            yield key, work(key)
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # threads of torch inside ours would wait for each other
    waiting: deque[tuple[Key, Future[Result], int]] = deque()
    pool = ThreadPoolExecutor(num_threads)
    try:
        used, following = 0, next(left, None)
        while waiting or following is not None:
            while following is not None and len(waiting) < num_threads:
                size = size_bytes(following)
                if waiting and used + size > AHEAD_BYTES:
                    break
                waiting.append((following, pool.submit(_alone, work, following), size))
                used, following = used + size, next(left, None)
            key, future, size = waiting.popleft()
            yield key, future.result()
            del future  # and with it the result, before more is begun
            used -= size
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


class Counter:
    """Tells `progress(done, total)` of names that are worked on in several threads: each number once and in order."""

    def __init__(self, progress: Callable[[int, int], None], total: int) -> None:
        self._progress, self._total, self._lock = progress, total, threading.Lock()
        self._begun: set[str] = set()
        self._ended: set[str] = set()

    @contextmanager
    def count(self, name: str) -> Iterator[None]:
        """Around the work on a name; one that comes again is not told of again."""
        with self._lock:
            if name not in self._begun:
                self._progress(len(self._begun), self._total)
                self._begun.add(name)
        yield
        with self._lock:
            if name not in self._ended:
                self._ended.add(name)
                if len(self._ended) == self._total:
                    self._progress(self._total, self._total)


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _alone(work: Callable[[Key], Result], key: Key) -> Result:
    with torch.no_grad():
        return work(key)
