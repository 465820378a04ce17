"""Codes <-> bytes, against Python's own big integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.packing import (
    CODES_OF_WORD,
    SUPPORTED_BITS,
    WORDS_AT_ONCE,
    pack,
    pack_lanes,
    packed_size_bytes,
    unpack,
    unpack_lanes,
)


@st.composite
def codes_and_bits(draw):
    num_bits = draw(st.sampled_from(SUPPORTED_BITS))
    half = 2 ** (num_bits - 1)
    code = st.sampled_from((-1, 1)) if num_bits == 1 else st.integers(-half, half - 1)
    return draw(st.lists(code, max_size=40)), num_bits


def int8(codes: list[int]) -> torch.Tensor:
    return torch.tensor(codes, dtype=torch.int8)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(codes_and_bits())
def test_the_bytes_are_one_little_endian_number_in_twos_complement(drawn):
    codes, num_bits = drawn
    fields = [(code + 1) // 2 for code in codes] if num_bits == 1 else codes  # one bit: -1 is 0, 1 is 1
    number = sum((code & (2**num_bits - 1)) << (place * num_bits) for place, code in enumerate(fields))
    size_bytes = (len(codes) * num_bits + 7) // 8
    packed = pack(int8(codes), num_bits)
    assert packed.numpy().tobytes() == number.to_bytes(size_bytes, "little")
    assert packed.numel() == packed_size_bytes(len(codes), num_bits) == size_bytes


@settings(max_examples=150, derandomize=True, deadline=None)
@given(codes_and_bits())
def test_unpack_undoes_pack(drawn):
    codes, num_bits = drawn
    back = unpack(pack(int8(codes), num_bits), num_bits, len(codes))
    assert back.dtype == torch.int8
    assert back.tolist() == codes


@pytest.mark.parametrize(
    ("codes", "num_bits", "expected"),
    [
        ([1, -1, 7], 4, [0xF1, 0x07]),
        ([1, -1, 0, 1], 2, [0b01_00_11_01]),
        ([1, 2, 3], 3, [0b11_010_001, 0]),
        ([-4, 3], 3, [0b00_011_100]),
        ([1, -1, -1, 1], 1, [0b1001]),
    ],
)
def test_worked_examples(codes, num_bits, expected):
    assert pack(int8(codes), num_bits).tolist() == expected


def test_no_row_is_padded_and_strides_do_not_matter():
    codes = int8([1, 2, 3, -1, -2, -3]).reshape(2, 3)
    assert torch.equal(pack(codes, 4), pack(codes.flatten(), 4))
    assert torch.equal(pack(codes.t(), 4), pack(codes.t().contiguous(), 4))
    assert packed_size_bytes(3133, 3) == 1175


def test_eight_bits_keep_their_shape():
    codes = torch.from_numpy(np.arange(-128, 128, dtype=np.int8)).reshape(16, 16)
    assert torch.equal(pack(codes, 8), codes)
    assert torch.equal(unpack(codes, 8, 256), codes.flatten())
    assert torch.equal(unpack(codes.view(torch.uint8), 8, 256), codes.flatten())


@pytest.mark.parametrize(("num_bits", "code"), [(4, 8), (4, -9), (3, 4), (3, -5), (2, 2), (2, -3)])
def test_a_code_that_does_not_fit_is_refused(num_bits, code):
    with pytest.raises(ValueError, match="outside"):
        pack(int8([0, code]), num_bits)


@pytest.mark.parametrize("code", [0, 2, -2, -128])
def test_one_bit_holds_nothing_but_minus_one_and_one(code):
    with pytest.raises(ValueError, match="neither -1 nor 1"):
        pack(int8([1, code]), 1)


@pytest.mark.parametrize("num_bits", [0, 5, 7, 16])
def test_other_widths_are_refused(num_bits):
    with pytest.raises(ValueError):
        pack(int8([0]), num_bits)
    with pytest.raises(ValueError):
        unpack(torch.zeros(2, dtype=torch.uint8), num_bits, 1)


def test_only_int8_codes_are_packed():
    with pytest.raises(ValueError):
        pack(torch.zeros(4), 4)


@pytest.mark.parametrize("num_bits", SUPPORTED_BITS)
@pytest.mark.parametrize("change", [-1, 1])
def test_one_byte_more_or_less_is_refused(num_bits, change):
    size = packed_size_bytes(9, num_bits)
    with pytest.raises(ValueError, match="bytes where 9 codes"):
        unpack(torch.zeros(size + change, dtype=torch.uint8), num_bits, 9)


def test_padding_bits_must_be_zero():
    with pytest.raises(ValueError, match="padding"):
        unpack(torch.tensor([0x11, 0x10], dtype=torch.uint8), 4, 3)


@pytest.mark.parametrize("num_bits", range(1, 8))
def test_many_numbers_are_the_same_stream_as_few(num_bits):
    """Against NumPy's bits, over more than is worked on at once, with a last word that is not full."""
    count = WORDS_AT_ONCE * CODES_OF_WORD + 8 * 5 + 3
    flat = np.random.default_rng(num_bits).integers(0, 256, count, dtype=np.uint8)
    bits = np.unpackbits(flat[:, None], axis=1, bitorder="little")[:, :num_bits]
    stream = pack_lanes(flat, num_bits)
    assert np.array_equal(stream, np.packbits(bits.reshape(-1), bitorder="little"))
    assert np.array_equal(unpack_lanes(stream, num_bits, count), flat & np.uint8(2**num_bits - 1))
