"""An adaptive binary range coder: numbers of a few bits in, bytes out, and back.

Range coding (G. N. N. Martin, 1979), one bit at a time as LZMA does: an interval of 48 bits is cut at the
probability of each bit, and a byte leaves it whenever it gets shorter than 2^40. A number is coded bit by bit from the
top; its first bits each have an adaptive probability of their own, chosen by the bits before (a tree of `depth` levels), the
rest is taken to be noise and cut off at one half. All arithmetic is on whole numbers, so every machine gives the same bytes.
Does not know what is coded; layout.py does.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from asrcompress.errors import AsrCompressError

WIDTH, SHORTEST = 48, 40  # bits of the interval, and what it never stays below
ONE = 1 << 16  # probability 1
# How far a probability moves towards the n-th bit that it saw: 1 / (n + 2), Laplace's rule of succession, but never less than
# 1 / 257, so that it follows what changes.
RATES = [ONE // (seen + 2) for seen in range(256)]
FLAT_BITS = 16  # cut off at once


class Probabilities:
    """What was seen so far of each kind of number: the state that encoder and decoder share."""

    def __init__(self) -> None:
        self._trees: dict[tuple[Hashable, int], tuple[list[int], list[int]]] = {}

    def tree(self, kind: Hashable, depth: int) -> tuple[list[int], list[int]]:
        """(probability of a 1, how often it was seen up to 255) of each node: node 1 is the top, below node n are 2n and 2n + 1."""
        found = self._trees.get((kind, depth))
        if found is None:
            found = self._trees[kind, depth] = ([ONE // 2] * (1 << depth), [0] * (1 << depth))
        return found


class Encoder:
    """Numbers into bytes. `finish` gives them."""

    def __init__(self) -> None:
        self._low, self._range = 0, 1 << WIDTH
        self._out = bytearray()
        self._seen = Probabilities()

    def put(self, kind: Hashable, values: Iterable[int], *, width: int, depth: int) -> None:
        """Code numbers of one kind.

        Args:
            kind: numbers of the same kind have the same probabilities.
            values: each in 0 .. 2^width - 1.
            width: bits of a number.
            depth: how many of them, from the top, have probabilities; the rest is noise.
        """
        probabilities, seen = self._seen.tree(kind, depth)
        low, length = self._low, self._range
        noise = width - depth
        for value in values:
            node = 1
            for place in range(width - 1, noise - 1, -1):
                chance, rate = probabilities[node], RATES[seen[node]]
                cut = (length >> 16) * chance
                if seen[node] < 255:
                    seen[node] += 1
                if value >> place & 1:
                    length = cut
                    probabilities[node] = chance + ((ONE - chance) * rate >> 16)
                    node += node + 1
                else:
                    low += cut
                    length -= cut
                    probabilities[node] = chance - (chance * rate >> 16)
                    node += node
                while length < 1 << SHORTEST:
                    low, length = self._shift(low), length << 8
            for place in range(noise, 0, -FLAT_BITS):
                count = min(place, FLAT_BITS)
                length >>= count
                low += (value >> (place - count) & ((1 << count) - 1)) * length
                while length < 1 << SHORTEST:
                    low, length = self._shift(low), length << 8
        self._low, self._range = low, length

    def _shift(self, low: int) -> int:
        """Let the interval's top byte leave, with the carry that it may hold."""
        top = low >> SHORTEST
        if top > 255:
            place = len(self._out) - 1
            while self._out[place] == 255:
                self._out[place] = 0
                place -= 1
            self._out[place] += 1
        self._out.append(top & 255)
        return (low & ((1 << SHORTEST) - 1)) << 8

    def finish(self) -> bytes:
        """The shortest bytes that end in the interval; behind the last one a decoder reads zeros."""
        low = self._low + _gap(self._low, self._range)
        for _ in range(WIDTH // 8):
            low = self._shift(low)
        return bytes(self._out).rstrip(b"\0")


class Decoder:
    """Bytes into numbers, asked for as they were put."""

    def __init__(self, data: bytes) -> None:
        self._data, self._next = data, WIDTH // 8
        self._code, self._range = int.from_bytes(data[: WIDTH // 8].ljust(WIDTH // 8, b"\0")), 1 << WIDTH
        self._seen = Probabilities()

    def take(self, kind: Hashable, count: int, *, width: int, depth: int) -> list[int]:
        """The next `count` numbers of a kind; arguments as for `Encoder.put`.

        Raises:
            AsrCompressError: the bytes are none that an encoder gives.
        """
        probabilities, seen = self._seen.tree(kind, depth)
        code, length = self._code, self._range
        noise, first = width - depth, 1 << depth
        found = []
        for _ in range(count):
            node = 1
            while node < first:
                chance, rate = probabilities[node], RATES[seen[node]]
                cut = (length >> 16) * chance
                if seen[node] < 255:
                    seen[node] += 1
                if code < cut:
                    length = cut
                    probabilities[node] = chance + ((ONE - chance) * rate >> 16)
                    node += node + 1
                else:
                    code -= cut
                    length -= cut
                    probabilities[node] = chance - (chance * rate >> 16)
                    node += node
                while length < 1 << SHORTEST:
                    code, length = code << 8 | self._byte(), length << 8
            value = node - first
            for place in range(noise, 0, -FLAT_BITS):
                bits = min(place, FLAT_BITS)
                length >>= bits
                part = code // length
                if part >> bits:
                    raise AsrCompressError("its coded bytes are none that the coder writes")
                code -= part * length
                value = value << bits | part
                while length < 1 << SHORTEST:
                    code, length = code << 8 | self._byte(), length << 8
            found.append(value)
        self._code, self._range = code, length
        return found

    def _byte(self) -> int:
        self._next += 1
        return self._data[self._next - 1] if self._next <= len(self._data) else 0

    @property
    def num_bits(self) -> int:
        """About how many bits of the data what was taken so far needed; never less than before."""
        return 8 * self._next - self._range.bit_length() + 1

    def finish(self) -> None:
        """Raise where bytes are left, or are not the shortest ones for what was taken: nothing can hide in them."""
        window = self._data[self._next - WIDTH // 8 : self._next].ljust(WIDTH // 8, b"\0")
        low = (int.from_bytes(window) - self._code) % (1 << WIDTH)
        if self._code != _gap(low, self._range) or len(self._data) > self._next or self._data[-1:] == b"\0":
            raise AsrCompressError("its coded bytes do not end where what they hold does")


def _gap(low: int, length: int) -> int:
    """From `low` to the number in the interval that ends in the most zero bytes."""
    return next(gap for zeros in range(WIDTH, -1, -8) if (gap := -low % (1 << zeros)) < length)
