"""A record comes back as the same JSON, in few bytes where the dictionary knows its words; hostile bytes are refused."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.compact import text
from asrcompress.compact.range_coder import Decoder, Encoder
from asrcompress.compact.record import put_record, take_record
from asrcompress.errors import AsrCompressError

SHA256 = hashlib.sha256(b"x").hexdigest()
NUMBERS = st.one_of(
    st.integers(-(2**127), 2**127),
    st.integers(-300, 300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(0, 99_999).map(lambda digits: digits / 1e7),
    st.sampled_from([0, -0.0, 0.0, 1e-5, 5e-324, 191, 192, 255, 256, -1, 16383e-23, 16384e-5]),
)
LEAVES = st.one_of(NUMBERS, st.booleans(), st.none(), st.text(max_size=8), st.just(SHA256), st.just(SHA256.upper()))
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)


def bytes_of(record: dict[str, Any]) -> bytes:
    encoder = Encoder()
    put_record(encoder, record)
    return encoder.finish()


def record_of(data: bytes) -> dict[str, Any]:
    decoder = Decoder(data)
    record = take_record(decoder)
    decoder.finish()
    return record


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5))
def test_a_record_comes_back_as_the_same_json(record: dict[str, Any]) -> None:
    found = record_of(bytes_of(record))
    assert json.dumps(found, sort_keys=True) == json.dumps(record, sort_keys=True)  # -0.0 and 1.0 keep what they are


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=3))
def test_the_order_of_keys_does_not_matter(record: dict[str, Any]) -> None:
    assert bytes_of(dict(reversed(record.items()))) == bytes_of(record)


def test_a_sha256_costs_its_32_bytes_and_known_words_next_to_nothing() -> None:
    known = {"parent": {"sha256": SHA256}, "tied": {}, "vocabulary": None}
    assert len(bytes_of(known)) - len(bytes_of(known | {"parent": {"sha256": 0}})) in (31, 32)
    assert len(bytes_of(known)) < 48
    assert len(bytes_of({"grids": {":input": 0.001265}})) < 16


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"a": 2**128}, "more than 128 bits"),
        ({"a": "x" * (text.MOST_BYTES + 1)}, "is longer than 65,536"),
    ],
)
def test_what_the_layout_does_not_hold_is_said(record: dict[str, Any], message: str) -> None:
    with pytest.raises(AsrCompressError, match=message):
        bytes_of(record)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    try:
        record = record_of(data)
    except (AsrCompressError, ValueError, RecursionError):
        return
    assert bytes_of(record_of(bytes_of(record))) == bytes_of(record)


def test_a_text_that_claims_to_be_endless_is_refused_at_once() -> None:
    encoder = Encoder()
    encoder.put("length", [31], width=5, depth=5)
    encoder.put("", [2**30 - 1], width=30, depth=0)
    with pytest.raises(AsrCompressError, match="more than 65536"):
        record_of(encoder.finish())


def test_a_text_of_one_byte_too_many_is_refused() -> None:
    encoder = Encoder()
    text._put_length(encoder, text.MOST_BYTES + 1)
    with pytest.raises(AsrCompressError, match="would have 65537 bytes, more than 65536"):
        text.take_text(Decoder(encoder.finish()))


def test_hexadecimal_digits_of_another_number_are_a_text_like_others() -> None:
    record = {"short": "a" * 63, "long": "a" * 66, "shouted": "A" * 64, "sha256": "a" * 64}
    encoder = Encoder()
    put_record(encoder, record)
    assert take_record(Decoder(encoder.finish())) == record


def test_a_piece_that_goes_on_behind_the_text_is_refused() -> None:
    encoder = Encoder()
    text._put_length(encoder, 2)
    encoder.put("is piece", [1], width=1, depth=1)
    encoder.put("", [0], width=len(text.dictionary()).bit_length(), depth=0)
    text._put_length(encoder, 0)  # four bytes, and there are two
    with pytest.raises(AsrCompressError, match="from nowhere"):
        text.take_text(Decoder(encoder.finish()))


def test_a_piece_from_nowhere_is_refused() -> None:
    encoder = Encoder()
    text._put_length(encoder, 4)
    encoder.put("is piece", [1], width=1, depth=1)
    encoder.put("", [len(text.dictionary()) - 2], width=len(text.dictionary()).bit_length(), depth=0)
    text._put_length(encoder, 0)  # four bytes, and from there on there are two
    for byte in b"ab":
        encoder.put("is piece", [0], width=1, depth=1)
        encoder.put("byte", [byte], width=8, depth=8)
    with pytest.raises(AsrCompressError, match="from nowhere"):
        text.take_text(Decoder(encoder.finish()))


def test_a_number_where_only_zeros_are_is_refused() -> None:
    encoder = Encoder()
    text.put_text(encoder, b'{"a":7}')
    with pytest.raises(AsrCompressError, match="only zeros"):
        record_of(encoder.finish())


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_double_that_is_no_number_is_refused(number: float) -> None:
    import struct

    encoder = Encoder()
    text.put_text(encoder, b'{"a":0}')
    encoder.put("number", [248], width=8, depth=8)
    for byte in struct.pack(">d", number):
        encoder.put("", [byte], width=8, depth=0)
    with pytest.raises(AsrCompressError, match="not finite"):
        record_of(encoder.finish())


def test_a_list_in_a_list_and_a_symbol_without_meaning_are_refused() -> None:
    for symbols in ([251, 251], [250]):
        encoder = Encoder()
        text.put_text(encoder, b'{"a":0}')
        encoder.put("number", symbols, width=8, depth=8)
        with pytest.raises(AsrCompressError, match="of no kind"):
            record_of(encoder.finish())


@given(st.text(max_size=200), st.integers(1, 5))
def test_text_comes_back(word: str, times: int) -> None:
    data = (word * times).encode()
    encoder = Encoder()
    text.put_text(encoder, data)
    assert text.take_text(Decoder(encoder.finish())) == data


def test_the_dictionary_is_that_of_the_format() -> None:
    """Another dictionary is another format: files could not be read any more."""
    assert hashlib.sha256(text.dictionary()).hexdigest() == DICTIONARY_SHA256


DICTIONARY_SHA256 = "19539e823c2aaeb873dd405e3c6ef4457b1d6b916634ed34a1bcfe5f2cfb0197"
