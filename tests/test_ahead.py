"""Work done ahead: in order, whatever the threads do, within its bound, and ended by the first error."""

from __future__ import annotations

import threading

import pytest
import torch

from asrcompress import ahead
from asrcompress.ahead import Counter, in_order


@pytest.mark.parametrize("num_threads", [1, 3])
def test_results_come_in_order_however_long_each_takes(num_threads: int) -> None:
    first = threading.Event()

    def work(key: int) -> int:
        if num_threads > 1 and key == 0:
            assert first.wait(10), "the second key was not begun while the first was worked on"
        first.set()
        return key * key

    before = torch.get_num_threads()
    assert list(in_order(range(20), work, lambda key: 1, num_threads=num_threads)) == [(k, k * k) for k in range(20)]
    assert torch.get_num_threads() == before


def test_what_is_large_is_worked_on_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "AHEAD_BYTES", 10)
    sizes = [4, 4, 11, 4, 4, 4]
    inside: set[int] = set()
    most = 0

    def work(key: int) -> int:
        nonlocal most
        inside.add(key)
        most = max(most, sum(sizes[other] for other in inside))
        assert key != 2 or inside == {2}
        return key

    for key, _ in in_order(range(6), work, sizes.__getitem__, num_threads=3):
        inside.discard(key)  # its result is let go by now
    assert most <= 11


@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_first_error_in_order_ends_it(num_threads: int) -> None:
    begun = []

    def work(key: int) -> int:
        begun.append(key)
        if key in (2, 3):
            raise ValueError(f"no {key}")
        return key

    done = []
    with pytest.raises(ValueError, match="no 2"):
        for key, _ in in_order(range(100), work, lambda key: 1, num_threads=num_threads):
            done.append(key)
    assert done == [0, 1]
    assert len(begun) < 10


def test_nothing_is_begun_without_a_key() -> None:
    assert list(in_order([], lambda key: key, lambda key: 1, num_threads=2)) == []


def test_progress_is_told_once_a_number_whatever_the_threads_do() -> None:
    told: list[tuple[int, int]] = []
    counter = Counter(lambda done, total: told.append((done, total)), 50)

    def work(name: str) -> None:
        with counter.count(name):
            pass

    names = [str(number) for number in range(50)]
    for _ in in_order([*names, "0"], work, lambda name: 1, num_threads=4):
        pass
    assert told == [(done, 50) for done in range(51)]
