"""A record, which is JSON, as a text in which every number is 0, and the numbers.

So the records of two models with the same options have one text, which the dictionary may hold. Numbers are what they are in
JSON, exactly; a sha256 is a number, too, and so is a list of up to 5 numbers. Does not know what a record says.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from asrcompress.compact.range_coder import Decoder, Encoder
from asrcompress.compact.text import MOST_BYTES, put_text, take_text
from asrcompress.errors import AsrCompressError

DIGEST = re.compile(r"[0-9a-f]{64}\Z")
Number = int | float | str | list[Any]  # str: a sha256, 64 digits
# A number is one symbol of 8 bits and, from SMALL on, bits behind it that are noise.
SMALL = 192  # symbol n: the number n
POSITIVE, NEGATIVE = 191, 207  # + k, 1 <= k <= 16: k bytes, most significant first, of n, or of -1 - n
DECIMAL, DECIMAL_BITS = 224, 14  # + e, e < 24: m of 14 bits, for m x 10^-e
DOUBLE, SHA256 = 248, 249  # 8 bytes of a double, most significant first; 32 bytes
LIST, LONGEST_LIST = 250, 5  # + k: the next k numbers, which are no lists


def put_record(encoder: Encoder, record: dict[str, Any]) -> None:
    """Code a record.

    Raises:
        AsrCompressError: its text is longer than MOST_BYTES, or an integer has more than 128 bits.
    """
    numbers: list[Number] = []
    plain = json.dumps(_zeroed(record, numbers), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = plain.encode()
    if len(text) > MOST_BYTES:
        raise AsrCompressError(f"its record of {len(text):,} bytes is longer than {MOST_BYTES:,}")
    put_text(encoder, text)
    for number in numbers:
        _put_number(encoder, number)


def take_record(decoder: Decoder) -> dict[str, Any]:
    """The inverse of `put_record`.

    Raises:
        AsrCompressError, ValueError, RecursionError: what is coded is no record.
    """
    text = take_text(decoder).decode()

    def number(literal: str) -> Number:
        if literal != "0":
            raise AsrCompressError("a number in its record is where only zeros are")
        return _take_number(decoder, may_be_list=True)

    record = json.loads(text, parse_int=number, parse_float=number, parse_constant=number)
    if not isinstance(record, dict):
        raise AsrCompressError("its record is no object")
    return record


def _zeroed(value: Any, numbers: list[Number]) -> Any:
    """The value with 0 for each number, which is appended to `numbers`; objects with their keys in order."""
    if isinstance(value, dict):
        return {key: _zeroed(value[key], numbers) for key in sorted(value)}
    if isinstance(value, list | tuple):
        if 1 <= len(value) <= LONGEST_LIST and all(_is_number(inner) for inner in value):
            numbers.append(list(value))
            return 0
        return [_zeroed(inner, numbers) for inner in value]
    if not _is_number(value):
        return value
    numbers.append(value)
    return 0


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return DIGEST.match(value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def _put_number(encoder: Encoder, number: Number) -> None:
    if isinstance(number, list):
        encoder.put("number", [LIST + len(number)], width=8, depth=8)
        for inner in number:
            _put_number(encoder, inner)
        return
    symbol, noise = _symbol(number)
    encoder.put("number", [symbol], width=8, depth=8)
    for part, width in noise:
        encoder.put("", [part], width=width, depth=0)


def _symbol(number: int | float | str) -> tuple[int, Iterator[tuple[int, int]]]:
    """(symbol, (part, bits of it) of the noise behind it)."""
    if isinstance(number, str):
        return SHA256, _bytes(bytes.fromhex(number))
    if isinstance(number, float):
        digits, exponent = _decimal(number)
        if 0 <= digits < 1 << DECIMAL_BITS and 0 <= exponent < DOUBLE - DECIMAL:
            return DECIMAL + exponent, iter([(digits, DECIMAL_BITS)])
        return DOUBLE, _bytes(struct.pack(">d", number))
    if 0 <= number < SMALL:
        return number, iter(())
    size = number if number >= 0 else -1 - number
    length = max(-(-size.bit_length() // 8), 1)
    if length > 16:
        raise AsrCompressError(f"its record holds the number {str(number)[:40]}..., of more than 128 bits")
    return (POSITIVE if number >= 0 else NEGATIVE) + length, _bytes(size.to_bytes(length))


def _take_number(decoder: Decoder, *, may_be_list: bool = False) -> Number:
    (symbol,) = decoder.take("number", 1, width=8, depth=8)
    if symbol < SMALL:
        return symbol
    if symbol == SHA256:
        return _take_bytes(decoder, 32).hex()
    if symbol == DOUBLE:
        (number,) = struct.unpack(">d", _take_bytes(decoder, 8))
        if number != number or number in (float("inf"), float("-inf")):
            raise AsrCompressError("a number in its record is not finite")
        return float(number)
    if symbol > LIST and may_be_list:
        return [_take_number(decoder) for _ in range(symbol - LIST)]
    if symbol > SHA256:
        raise AsrCompressError("a number in its record is of no kind that there is")
    if symbol >= DECIMAL:
        (digits,) = decoder.take("", 1, width=DECIMAL_BITS, depth=0)
        return float(f"{digits}e-{symbol - DECIMAL}")
    if symbol > NEGATIVE:
        return -1 - int.from_bytes(_take_bytes(decoder, symbol - NEGATIVE))
    return int.from_bytes(_take_bytes(decoder, symbol - POSITIVE))


def _decimal(number: float) -> tuple[int, int]:
    """(m, e) of the shortest m x 10^-e that is this number; (-1, 0) where it has a sign, 0 included."""
    sign, digits, exponent = Decimal(repr(number)).as_tuple()
    if sign or not isinstance(exponent, int) or exponent > 0:
        return -1, 0
    return int("".join(map(str, digits))), -exponent


def _bytes(data: bytes) -> Iterator[tuple[int, int]]:
    return ((byte, 8) for byte in data)


def _take_bytes(decoder: Decoder, count: int) -> bytes:
    return bytes(decoder.take("", count, width=8, depth=0))
