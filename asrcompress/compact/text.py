"""Text through the range coder: pieces of what came before, or of a preset dictionary, and single bytes between.

The dictionary is what records of small models look like (dictionary.txt, a part of the format: another one is another
format). A record that is in it word for word costs some bytes, whatever its length.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from asrcompress.compact.range_coder import Decoder, Encoder
from asrcompress.errors import AsrCompressError

SHORTEST_PIECE = 4  # bytes; a shorter one costs more than its bytes do
MOST_BYTES = 1 << 16
BITS_OF_LENGTH = 5  # that say how many bits a length has


@lru_cache(maxsize=1)
def dictionary() -> bytes:
    """What stands before every text."""
    return Path(__file__).with_name("dictionary.txt").read_bytes().replace(b"\n", b"")


def put_text(encoder: Encoder, text: bytes) -> None:
    """Code a text of up to MOST_BYTES bytes.

    At each place the longest piece is taken that came before, and the first such.
    """
    _put_length(encoder, len(text))
    done = dictionary()
    at = 0
    while at < len(text):
        end, begin = at + SHORTEST_PIECE, -1
        while end <= len(text) and (found := done.find(text[at:end], max(begin, 0))) >= 0:
            begin, end = found, end + 1
        encoder.put("is piece", [begin >= 0], width=1, depth=1)
        if begin < 0:
            encoder.put("byte", [text[at]], width=8, depth=8)
            end = at + 1
        else:
            end -= 1
            encoder.put("", [begin], width=len(done).bit_length(), depth=0)
            _put_length(encoder, end - at - SHORTEST_PIECE)
        done += text[at:end]
        at = end


def take_text(decoder: Decoder) -> bytes:
    """The inverse of `put_text`.

    Raises:
        AsrCompressError: it is longer than any, or a piece is from nowhere.
    """
    size = _take_length(decoder)
    if size > MOST_BYTES:
        raise AsrCompressError(f"its record would have {size} bytes, more than {MOST_BYTES}")
    done = bytearray(dictionary())
    whole = len(done) + size
    while len(done) < whole:
        (is_piece,) = decoder.take("is piece", 1, width=1, depth=1)
        if is_piece:
            (begin,) = decoder.take("", 1, width=len(done).bit_length(), depth=0)
            length = _take_length(decoder) + SHORTEST_PIECE
            if begin + length > len(done) or len(done) + length > whole:
                raise AsrCompressError("a piece of its record is from nowhere")
            done += done[begin : begin + length]
        else:
            done += bytes(decoder.take("byte", 1, width=8, depth=8))
    return bytes(done[len(done) - size :])


def _put_length(encoder: Encoder, length: int) -> None:
    """How many bits, then those behind the first."""
    bits = length.bit_length()
    encoder.put("length", [bits], width=BITS_OF_LENGTH, depth=BITS_OF_LENGTH)
    encoder.put("", [length & ((1 << max(bits - 1, 0)) - 1)], width=max(bits - 1, 0), depth=0)


def _take_length(decoder: Decoder) -> int:
    (bits,) = decoder.take("length", 1, width=BITS_OF_LENGTH, depth=BITS_OF_LENGTH)
    (rest,) = decoder.take("", 1, width=max(bits - 1, 0), depth=0)
    return rest + (1 << bits >> 1)
