"""N:M codes <-> what is stored of them, against Python's own combinations and big integers."""

from __future__ import annotations

import itertools
import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.errors import AsrCompressError
from asrcompress.group_codes import GROUPS_AT_ONCE, join, split
from asrcompress.packing import pack, packed_size_bytes
from asrcompress.patterns import LARGEST_GROUP, code_sizes, group_code_bits, keep_largest, parse_pattern, pattern_name

ZERO = torch.zeros(1, 1, dtype=torch.int8)
EVERY_PATTERN = [(n, m) for m in range(2, LARGEST_GROUP + 1) for n in range(1, m)]


def int8(codes: list) -> torch.Tensor:
    return torch.tensor(codes, dtype=torch.int8)


@st.composite
def sparse_codes(draw):
    """(codes, zeros, pattern): up to keep_n codes of a group are not zero, whatever code zero is."""
    keep_n, group_m = draw(st.sampled_from(EVERY_PATTERN))
    rows, groups = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    zeros = draw(st.sampled_from([ZERO, torch.arange(rows, dtype=torch.int8).reshape(rows, 1) - 2]))
    codes = zeros.expand(rows, groups * group_m).clone()
    for row, group in itertools.product(range(rows), range(groups)):
        for place in draw(st.sets(st.integers(0, group_m - 1), max_size=keep_n)):
            codes[row, group * group_m + place] = draw(st.integers(-128, 127))
    return codes, zeros, (keep_n, group_m)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(sparse_codes())
def test_join_undoes_split_for_every_pattern(drawn):
    codes, zeros, pattern = drawn
    kept, group_codes = split(codes, zeros, pattern)
    assert kept.shape == (codes.shape[0], codes.shape[1] // pattern[1] * pattern[0])
    back = join(kept, group_codes, zeros, pattern)
    assert back.dtype == torch.int8
    assert torch.equal(back, codes)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(sparse_codes())
def test_the_group_codes_are_ranks_in_one_little_endian_number(drawn):
    codes, zeros, (keep_n, group_m) = drawn
    choices = list(itertools.combinations(range(group_m), keep_n))
    number, expected = 0, []
    by_group = zip(codes.reshape(-1, group_m), zeros.expand_as(codes).reshape(-1, group_m), strict=True)
    for position, (group, zero) in enumerate(by_group):
        nonzero = [place for place in range(group_m) if group[place] != zero[place]]
        first = [place for place in range(group_m) if place not in nonzero][: keep_n - len(nonzero)]
        places = tuple(sorted(nonzero + first))
        number |= choices.index(places) << (position * group_code_bits((keep_n, group_m)))
        expected += [int(group[place]) for place in places]
    kept, group_codes = split(codes, zeros, (keep_n, group_m))
    assert group_codes.numpy().tobytes() == number.to_bytes(len(group_codes), "little")
    assert kept.flatten().tolist() == expected


@pytest.mark.parametrize("pattern", EVERY_PATTERN, ids=pattern_name)
def test_a_group_code_is_as_short_as_it_can_be_and_never_longer_than_indices(pattern):
    keep_n, group_m = pattern
    bits = group_code_bits(pattern)
    assert 2 ** (bits - 1) < math.comb(group_m, keep_n) <= 2**bits
    assert bits <= keep_n * math.ceil(math.log2(group_m))


@pytest.mark.parametrize(("pattern", "bits"), [((2, 4), 3), ((1, 4), 2), ((4, 8), 7), ((1, 2), 1), ((8, 16), 14)])
def test_bits_of_a_group_code(pattern, bits):
    assert group_code_bits(pattern) == bits


# REFERENCE.md, table 2: bits per weight without scales.
@pytest.mark.parametrize(
    ("num_bits", "pattern", "bits_per_weight"),
    [
        (8, None, 8), (8, (2, 4), 4.75), (8, (1, 4), 2.5), (4, None, 4), (4, (2, 4), 2.75), (4, (1, 4), 1.5),
        (2, None, 2), (2, (2, 4), 1.75), (2, (1, 4), 1.0), (3, (2, 4), 2.25), (1, (2, 4), 1.25), (1, (1, 4), 0.75),
    ],
)  # fmt: skip
def test_bytes_are_those_of_the_reference_table(num_bits, pattern, bits_per_weight):
    rows, columns = 24, 64
    codes = torch.randint(1, 2, (rows, columns)).to(torch.int8)
    stored = pack(codes, num_bits).numel()
    if pattern:
        codes.reshape(-1, pattern[1])[:, pattern[0] :] = 0
        kept, group_codes = split(codes, ZERO, pattern)
        stored = pack(kept, num_bits).numel() + group_codes.numel()
    assert stored == rows * columns * bits_per_weight / 8
    assert sum(code_sizes(rows * columns, num_bits, pattern).values()) == stored


def test_a_worked_example():
    codes = int8([[0, 5, 0, -1], [0, 0, 0, 3], [0, 0, 0, 0]])
    kept, group_codes = split(codes, ZERO, (2, 4))
    assert kept.tolist() == [[5, -1], [0, 3], [0, 0]]
    assert group_codes.tolist() == [0b00_010_100, 0]  # (1, 3) is rank 4, (0, 3) is 2, (0, 1) is 0


def test_a_group_with_one_code_too_many_is_a_bug():
    with pytest.raises(ValueError, match="more that is not zero than 2:4 keeps"):
        split(int8([[1, 1, 0, 0, 1, 1, 1, 0]]), ZERO, (2, 4))
    with pytest.raises(ValueError, match="6 columns do not divide"):
        split(int8([[1, 1, 0, 0, 0, 0]]), ZERO, (2, 4))


@pytest.mark.parametrize(
    ("group_codes", "message"),
    [
        (torch.tensor([0b00_110_000, 0], dtype=torch.uint8), "the group code 6 is none of the 6 choices"),
        (torch.tensor([0, 0b10], dtype=torch.uint8), "padding bits"),
        (torch.tensor([0], dtype=torch.uint8), "where 2 bytes are due"),
        (torch.tensor([0, 0, 0], dtype=torch.uint8), "where 2 bytes are due"),
        (torch.zeros(2, dtype=torch.int8), "where 2 bytes are due"),
        (torch.zeros(2), "where 2 bytes are due"),
        (torch.zeros(1, 2, dtype=torch.uint8), "where 2 bytes are due"),
        (torch.tensor([0b00_000_011, 0], dtype=torch.uint8), "keeps another zero than its first ones"),
    ],
)
def test_hostile_group_codes_are_refused(group_codes, message):
    kept = int8([[0, 3], [1, 2], [-1, 4]])  # three groups: nine bits
    with pytest.raises(AsrCompressError, match=message):
        join(kept, group_codes, ZERO, (2, 4), "fc.weight")


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.sampled_from(EVERY_PATTERN), st.binary(min_size=14, max_size=14), st.data())
def test_any_group_codes_are_joined_as_split_makes_them_or_refused(pattern, data, draws):
    groups = 8
    kept = int8(draws.draw(st.lists(st.integers(-1, 1), min_size=groups * pattern[0], max_size=groups * pattern[0])))
    group_codes = torch.tensor(list(data[: group_code_bits(pattern)]), dtype=torch.uint8)
    try:
        codes = join(kept.reshape(groups, -1), group_codes, ZERO, pattern)
    except AsrCompressError:
        return
    again = split(codes, ZERO, pattern)
    assert torch.equal(again[0].flatten(), kept)
    assert torch.equal(again[1], group_codes)


@pytest.mark.parametrize(
    "text", ["4:2", "4:4", "0:4", "2", "2:4:8", "a:b", "2:17", "", "²:4", "02:4", "2: 4", "-1:4", "2:" + "9" * 5000]
)
def test_what_is_no_pattern_is_refused(text):
    assert parse_pattern("2:4") == (2, 4)
    with pytest.raises(AsrCompressError, match="use keep_n:group_m"):
        parse_pattern(text)


def test_it_is_quick():
    codes = torch.randint(-7, 8, (1000, 4000), dtype=torch.int8)
    codes.reshape(-1, 4)[:, ::2] = 0
    begin = time.process_time()
    kept, group_codes = split(codes, ZERO, (2, 4))
    assert torch.equal(join(kept, group_codes, ZERO, (2, 4)), codes)
    assert time.process_time() - begin < 2  # about 0.1 s; four million weights
    assert packed_size_bytes(10**6, 3) == group_codes.numel()


@pytest.mark.parametrize(("keep_n", "group_m"), [(2, 4), (1, 4), (1, 2), (2, 5), (4, 8)])
def test_what_is_kept_is_by_rank_and_of_equals_the_first(keep_n, group_m):
    """Against sorting, over more groups than are worked on at once, with many ties."""
    shape = (2, (GROUPS_AT_ONCE // 2 + 3) * group_m)
    score = torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(group_m)) / 4
    groups = score.reshape(-1, group_m)
    for of_magnitude in (False, True):
        order = (groups.abs() if of_magnitude else groups).sort(dim=1, descending=True, stable=True).indices
        expected = torch.zeros(groups.shape, dtype=torch.bool).scatter_(1, order[:, :keep_n], value=True)
        assert torch.equal(keep_largest(score, keep_n, group_m, of_magnitude=of_magnitude), expected.reshape(shape))
    assert torch.equal(keep_largest(score.double(), keep_n, group_m, of_magnitude=True), expected.reshape(shape))
