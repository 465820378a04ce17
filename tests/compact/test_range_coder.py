"""What is put comes back, in about as many bits as it has; nothing but the shortest bytes is taken."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrcompress.compact.range_coder import Decoder, Encoder
from asrcompress.errors import AsrCompressError


@st.composite
def puts(draw: st.DrawFn) -> tuple[int, list[int], int, int]:
    """(kind, values, width, depth) of one call."""
    width = draw(st.integers(1, 40))
    values = draw(
        st.lists(st.one_of(st.sampled_from([0, (1 << width) - 1]), st.integers(0, (1 << width) - 1)), max_size=20)
    )
    return draw(st.integers(0, 2)), values, width, draw(st.integers(0, min(width, 8)))


def encoded(plan: list[tuple[int, list[int], int, int]]) -> bytes:
    encoder = Encoder()
    for kind, values, width, depth in plan:
        encoder.put(kind, values, width=width, depth=depth)
    return encoder.finish()


def decoded(data: bytes, plan: list[tuple[int, list[int], int, int]]) -> list[list[int]]:
    decoder, found = Decoder(data), []
    for kind, values, width, depth in plan:
        before = decoder.num_bits
        found.append(decoder.take(kind, len(values), width=width, depth=depth))
        assert decoder.num_bits >= before
    decoder.finish()
    return found


@given(st.lists(puts(), max_size=5))
def test_what_is_put_comes_back(plan: list[tuple[int, list[int], int, int]]) -> None:
    assert decoded(encoded(plan), plan) == [values for _, values, _, _ in plan]


@given(st.lists(puts(), max_size=5), st.binary(min_size=1, max_size=8))
def test_other_bytes_with_the_same_meaning_are_refused(
    plan: list[tuple[int, list[int], int, int]], rest: bytes
) -> None:
    """Bytes appended are other numbers, or refused: nothing hides behind the end."""
    try:
        assert decoded(encoded(plan) + rest, plan) != [values for _, values, _, _ in plan]
    except AsrCompressError as error:
        assert "coded bytes" in str(error)


def test_a_carry_runs_through_bytes_of_255() -> None:
    """0.1111... in binary, and then a little more: the carry must reach the first byte."""
    plan = [(0, [0x7FFF] + [0xFFFF] * 40, 16, 0), (1, [0] * 4000, 1, 1), (2, [1, 0, 1], 1, 1)]
    for tail in range(64):
        both = [*plan, (3, [tail, 63 - tail], 6, 2)]
        assert decoded(encoded(both), both) == [values for _, values, _, _ in both]


def test_noise_costs_its_bits_and_what_repeats_next_to_nothing() -> None:
    rng = random.Random(0)
    noise = [rng.randrange(1 << 12) for _ in range(1000)]
    assert len(encoded([("n", noise, 12, 0)])) in (1500, 1501)
    assert len(encoded([("r", [5] * 10_000, 4, 4)])) < 60


def test_a_skewed_source_costs_little_more_than_its_entropy() -> None:
    """Codes as of a trained weight: 3 000 draws of a normal distribution, rounded to 4 bits."""
    rng = random.Random(1)
    codes = [max(-7, min(7, round(rng.gauss(0, 2.2)))) & 15 for _ in range(3000)]
    entropy = -sum(codes.count(code) * math.log2(codes.count(code) / 3000) for code in set(codes)) / 8
    assert entropy < len(encoded([("codes", codes, 4, 4)])) < entropy + 16


def test_the_bytes_are_those_of_the_format() -> None:
    """A change of any constant would make files unreadable."""
    data = encoded([("a", [3, 1, 4, 1, 5, 9, 2, 6], 4, 3), ("b", [2**20 - 1, 7], 20, 8), ("a", [5, 3, 5], 4, 3)])
    assert data.hex() == GOLDEN


GOLDEN = "df2d036da6fd8387a769ac"


def test_what_follows_the_last_number_is_refused_however_far_behind_it_is() -> None:
    plan = [("a", [1, 2, 3], 8, 8)]
    decoder = Decoder(encoded(plan) + bytes(100) + b"\1")
    assert decoder.take("a", 3, width=8, depth=8) == [1, 2, 3]
    with pytest.raises(AsrCompressError, match="do not end"):
        decoder.finish()


def test_noise_has_no_more_bits_than_it_has() -> None:
    """The largest code that there is lies above all that 16 bits say, once the interval is no multiple of 2^16."""
    decoder = Decoder(b"\xff" * 40)
    decoder.take("a", 5, width=1, depth=1)
    with pytest.raises(AsrCompressError, match="none that the coder writes"):
        decoder.take("b", 1, width=16, depth=0)


@pytest.mark.parametrize("data", [b"\0", b"\1\0"])
def test_zeros_at_the_end_are_refused(data: bytes) -> None:
    decoder = Decoder(data)
    with pytest.raises(AsrCompressError, match="do not end"):
        decoder.finish()
