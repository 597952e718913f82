"""Cursors over the payloads of one batch: each reads its own payload, all move together.

One NumPy operation moves a thousand cursors. A cursor never reads past the end of its payload into
another one and passes: one that leaves its payload has failed.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from tidemill.schemas.avro.arrow_columns import Column, Flags

PADDING = 80
"""Bytes that must follow the last payload, because cursors read ahead."""

Positions = NDArray[np.int64]
Read = Callable[["Cursors"], Column]
Walked = TypeVar("Walked")

_CONTINUES = np.uint64(0x8080808080808080)
_ONE = np.uint64(1)
_GAPS = [
    (np.uint64(0x007F007F007F007F), np.uint64(0x7F007F007F007F00), np.uint64(1)),
    (np.uint64(0x00003FFF00003FFF), np.uint64(0x3FFF00003FFF0000), np.uint64(2)),
    (np.uint64(0x000000000FFFFFFF), np.uint64(0x0FFFFFFF00000000), np.uint64(4)),
]


class PayloadBytes:
    """The bytes of a batch, as arrays that cursors index."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.bytes = np.frombuffer(data, dtype=np.uint8)
        self.words = cast(NDArray[np.uint64], self.of("<u8"))

    def of(self, kind: str) -> NDArray[np.generic]:
        """Return the value of type *kind* that begins at each byte."""
        size = np.dtype(kind).itemsize
        return np.ndarray((len(self.data) - size + 1,), kind, self.data, strides=(1,))


class Cursors:
    """The position of the cursor in each payload, and which cursors have failed."""

    def __init__(self, source: PayloadBytes, starts: Positions, ends: Positions) -> None:
        self.source = source
        self.at = starts.copy()
        self.ends = ends
        self.failed = np.zeros(len(starts), dtype=np.bool_)
        self._past = ends + 1

    def move(self, by: Positions | int) -> None:
        """Move on; a cursor that leaves its payload stops just behind it and cannot pass."""
        self.at += by
        np.minimum(self.at, self._past, out=self.at)

    def passed(self) -> Flags:
        """Return which payloads were read exactly to their end."""
        is_at_end: Flags = self.at == self.ends
        return is_at_end & ~self.failed

    def among(self, rows: Positions, read: Callable[["Cursors"], Walked]) -> Walked:
        """Return what *read* finds at the cursors of *rows*; the others stay."""
        if len(rows) == len(self.at):
            return read(self)
        few = Cursors(self.source, self.at[rows], self.ends[rows])
        found = read(few)
        self.at[rows] = few.at
        self.failed[rows] |= few.failed
        return found

    def byte(self) -> NDArray[np.uint8]:
        """Return the next byte without moving."""
        return self.source.bytes[self.at]

    def number(self) -> Positions:
        """Return the next zigzag varint of at most ten bytes, and step over it."""
        first = self.byte()
        if (first < 0x80).all():
            self.move(1)
            small = first.astype(np.int64)
            return (small >> 1) ^ -(small & 1)
        word = self.source.words[self.at]
        ends = ~word & _CONTINUES
        mask = ends ^ (ends - _ONE)
        bits = _packed(word & mask & ~_CONTINUES)
        size = (np.bitwise_count(mask) >> 3).astype(np.int64)
        if not ends.all():
            size, bits = self._longest(ends == 0, size, bits)
        self.move(size)
        value: Positions = ((bits >> _ONE) ^ (~(bits & _ONE) + _ONE)).view(np.int64)
        return value

    def _longest(
        self, more: Flags, size: Positions, bits: NDArray[np.uint64]
    ) -> tuple[Positions, NDArray[np.uint64]]:
        """Return *size* and *bits*, corrected for varints (*more*) of nine or ten bytes."""
        ninth = self.source.bytes[self.at + 8].astype(np.uint64)
        tenth = self.source.bytes[self.at + 9].astype(np.uint64)
        is_ten = ninth > 0x7F
        self.failed |= more & is_ten & (tenth > 1)
        high = (ninth & np.uint64(0x7F)) << np.uint64(56)
        high |= np.where(is_ten, tenth << np.uint64(63), 0)
        return np.where(more, 9 + is_ten, size), np.where(more, bits | high, bits)

    def length(self) -> Positions:
        """Return the next length, and step over it; a cursor at a negative one fails."""
        size = self.number()
        self.failed |= size < 0
        return np.clip(size, 0, len(self.source.data), out=size)  # a sum must not overflow


def _packed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Join the seven bits that each byte of a varint contributes."""
    for low, high, by in _GAPS:
        bits = bits & low | (bits & high) >> by
    return bits
