"""Ranks that meet, and ranks that get lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from torch.distributed import HashStore

from asrcompress.errors import AsrCompressError
from asrcompress.ops import ranks as module
from asrcompress.ops.ranks import Ranks, connect


def together(size: int, work: Callable[[Ranks], Any], timeout_s: float = 20.0) -> list[Any]:
    """What `work` gives, or raises, in each of `size` ranks of one store."""
    store, results = HashStore(), [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(Ranks(rank, size, store, timeout_s=timeout_s))
        except AsrCompressError as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return results


def test_every_rank_has_every_value_in_order_again_and_again() -> None:
    def work(ranks: Ranks) -> list[Any]:
        time.sleep(0.03 * ranks.rank)
        found = [ranks.gather({"rank": ranks.rank, "round": number, "text": "ü"}) for number in range(3)]
        ranks.barrier()
        ranks.leave()
        return found

    expected = [[{"rank": rank, "round": number, "text": "ü"} for rank in range(3)] for number in range(3)]
    assert together(3, work) == [expected] * 3


def test_large_values_go_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 7)
    value = {"numbers": [0.1 * number for number in range(100)]}
    assert together(2, lambda ranks: ranks.gather(value if ranks.rank else None)) == [[None, value]] * 2


def test_a_rank_that_fails_ends_the_others_with_its_words() -> None:
    def work(ranks: Ranks) -> Any:
        if ranks.rank == 1:
            ranks.fail("dev.tsv: no such file")
            return None
        return ranks.gather(1)

    assert str(together(2, work)[0]) == "rank 1 of 2 stopped: dev.tsv: no such file"


def test_a_silent_rank_is_lost_and_a_slow_one_is_not() -> None:
    def work(ranks: Ranks) -> Any:
        for _ in range(8 if ranks.rank == 1 else 0):
            time.sleep(0.1)
            ranks.beat()
        return None if ranks.rank == 2 else ranks.gather(ranks.rank)

    begin = time.monotonic()
    first, second, _ = together(3, work, timeout_s=0.4)
    assert time.monotonic() - begin < 10
    expected = (
        "rank 2 of 3 has given no sign of life for 0.4 s; run the same command again: what is done is in the journal"
    )
    assert str(first) == str(second) == expected


def test_a_lost_store_is_one_line() -> None:
    class Gone:
        def set(self, *_: object) -> None:
            raise RuntimeError("Connection reset\nby peer")

    with pytest.raises(
        AsrCompressError, match=r"rank 1 of 2 has lost the others \(Connection reset\); run the same command again"
    ):
        Ranks(1, 2, Gone()).gather(1)


def test_one_rank_needs_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in module.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with connect() as ranks:
        assert (ranks.rank, ranks.size, ranks.gather([1, None])) == (0, 1, [[1, None]])
        ranks.beat()
        ranks.barrier()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with connect() as ranks:
        assert ranks.size == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 and WORLD_SIZE=2: is not what torchrun sets"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK=x and WORLD_SIZE=2: is not what torchrun sets"),
        (
            {"RANK": "1", "WORLD_SIZE": "2"},
            "MASTER_ADDR is not set though WORLD_SIZE is 2; start the ranks with torchrun",
        ),
        (
            {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"},
            "rank 1 of 2: the others cannot be reached",
        ),
    ],
)
def test_an_environment_that_makes_no_sense_is_said(
    values: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in module.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AsrCompressError, match=message), connect(timeout_s=1):
        pass
