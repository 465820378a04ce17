"""Letting go of a mapped tensor's pages frees memory and changes no value; what is not mapped is left alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from asrcompress.mapped import Made, Outlined, outlines, release


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.mark.skipif(sys.platform != "linux", reason="pages are let go on Linux")
def test_pages_of_a_file_are_let_go_and_come_back_as_they_were(tmp_path: Path) -> None:
    values = torch.arange(8_000_000, dtype=torch.float32)  # 32 MB
    torch.save({"a": values, "b": values.flip(0).clone()}, tmp_path / "x.pt")
    mapped = torch.load(tmp_path / "x.pt", mmap=True, weights_only=True)
    before = resident_bytes()
    assert torch.equal(mapped["a"], values)
    read = resident_bytes()
    release(mapped["a"])
    assert read - before > 30_000_000 and resident_bytes() - before < 5_000_000
    assert torch.equal(mapped["a"], values) and torch.equal(mapped["b"], values.flip(0))


@pytest.mark.parametrize("count", [1, 5_000_000])
def test_memory_without_a_file_is_left_alone(count: int) -> None:
    values = torch.arange(count, dtype=torch.float32)  # small ones share pages with others
    release(values)
    release(torch.empty(0))
    release(torch.empty(3, device="meta"))
    assert torch.equal(values, torch.arange(count, dtype=torch.float32))


def test_a_made_value_is_made_each_time_and_only_when_asked_for() -> None:
    asked: list[str] = []

    def make(name: str) -> str:
        asked.append(name)
        return name * 2

    made = Made(iter(["b", "a"]), make)
    assert list(made) == ["b", "a"] and len(made) == 2 and "a" in made and "c" not in made and asked == []
    assert made["a"] == "aa" and made.get("a") == "aa" and asked == ["a", "a"]
    with pytest.raises(KeyError):
        made["c"]


def test_outlines_need_no_value() -> None:
    def fail(name: str) -> torch.Tensor:
        raise AssertionError(name)

    def shapes() -> Iterator[tuple[str, torch.Tensor]]:
        yield "a", torch.empty(2, 3, device="meta")

    assert outlines(Outlined(dict(shapes()), fail))["a"].shape == (2, 3)
    plain = {"a": torch.zeros(1)}
    assert outlines(plain) is plain
