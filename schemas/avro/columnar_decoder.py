"""Read many payloads at once, byte by byte as the schema says: a cursor for each payload.

All cursors move together, one NumPy operation for a thousand payloads, and each leaves a value in
every column on its way. No cursor ever takes a byte of another payload into account: a payload
passes if every length, branch and boolean is legal and its cursor ends exactly at its end, and the
rows of those that do not pass are left out. They are not wrong yet: rare but legal forms (lists in
several blocks, long lists, large ints) do not pass either, and `scalar_decoder.py` has the last
word. It knows no store, no prefix and no frame.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.schemas.avro.arrow_columns import (
    INLINE,
    Column,
    Flags,
    Lists,
    Numbers,
    RecordColumn,
    Texts,
)
from tidemill.schemas.avro.primitives import EARLIEST, LATEST
from tidemill.schemas.avro.types import fields_of, item_of, type_name
from tidemill.schemas.avro.wire import Schema

PADDING = 80
"""Bytes that must follow the last payload: cursors look ahead."""
LONG_LIST = 63
"""A list of more items does not pass: its length takes two bytes, and its walk holds others up."""

Positions = NDArray[np.int64]
Read = Callable[["Cursors"], Column]

_CONTINUES = np.uint64(0x8080808080808080)
_ONE = np.uint64(1)
_OWN_BYTES = 64  # texts up to here are copied out of the batch; they must fit the padding
_DOUBLES = 8  # so many neighbours are fetched at once; they must fit the padding


class PayloadBytes:
    """The bytes of a batch, as cursors look at them."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.bytes = np.frombuffer(data, dtype=np.uint8)
        self.words = cast(NDArray[np.uint64], self.of("<u8"))

    def of(self, kind: str) -> NDArray[np.generic]:
        """Return the value of type *kind* that begins at each byte."""
        size = np.dtype(kind).itemsize
        return np.ndarray((len(self.data) - size + 1,), kind, self.data, strides=(1,))


class Cursors:
    """Where the cursor of each payload stands, and which have failed."""

    def __init__(self, source: PayloadBytes, starts: Positions, ends: Positions) -> None:
        self.source = source
        self.at = starts.copy()
        self.ends = ends
        self.failed = np.zeros(len(starts), dtype=np.bool_)
        self._past = ends + 1

    def move(self, by: Positions | int) -> None:
        """Move on; a cursor that left its payload stays just behind it, so that it cannot pass."""
        self.at += by
        np.minimum(self.at, self._past, out=self.at)

    def passed(self) -> Flags:
        """Return which payloads were walked through to their very end."""
        there: Flags = self.at == self.ends
        return there & ~self.failed

    def among(self, rows: Positions, read: Read) -> Column:
        """Read a value of those *rows* only."""
        few = Cursors(self.source, self.at[rows], self.ends[rows])
        column = read(few)
        self.at[rows] = few.at
        self.failed[rows] |= few.failed
        return column

    def byte(self) -> NDArray[np.uint8]:
        """Return the next byte, and stay."""
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
        """Return *size* and *bits* with those right that take nine or ten bytes."""
        ninth = self.source.bytes[self.at + 8].astype(np.uint64)
        tenth = self.source.bytes[self.at + 9].astype(np.uint64)
        is_ten = ninth > 0x7F
        self.failed |= more & is_ten & (tenth > 1)
        high = (ninth & np.uint64(0x7F)) << np.uint64(56)
        high |= np.where(is_ten, tenth << np.uint64(63), 0)
        return np.where(more, 9 + is_ten, size), np.where(more, bits | high, bits)

    def length(self) -> Positions:
        """Return the length that comes next, and step over it; a negative one fails."""
        size = self.number()
        self.failed |= size < 0
        return np.clip(size, 0, len(self.source.data), out=size)  # so that no sum overflows


def compile_cursors(
    schema: Schema,
) -> Callable[[bytes, Positions, Positions], tuple[RecordColumn, Flags]]:
    """Return the function that reads payloads of *schema*: their columns, and which have passed.

    Its arguments are the joined bytes, with `PADDING` behind them, and where each body starts and
    ends; the columns have a row for each that passed, and no text in them that is not UTF-8.
    *schema* has columns for all its fields (`avrotypes.column_type`).
    """
    read = _record(schema)

    def walk(data: bytes, starts: Positions, ends: Positions) -> tuple[RecordColumn, Flags]:
        cursors = Cursors(PayloadBytes(data), starts, ends)
        columns = read(cursors)
        passed = cursors.passed()
        if not passed.all():
            columns = columns.only(np.flatnonzero(passed))
        broken = columns.no_text()
        if len(broken):
            columns = columns.only(np.delete(np.arange(np.count_nonzero(passed)), broken))
            passed[np.flatnonzero(passed)[broken]] = False
        return columns, passed

    return walk


def _record(schema: object) -> Callable[[Cursors], RecordColumn]:
    steps: list[tuple[list[str], Callable[[Cursors], Sequence[Column]]]] = []
    for is_double, group in groupby(fields_of(schema), lambda field: _is_double(field["type"])):
        fields = list(group)
        if is_double:
            cuts = range(0, len(fields), _DOUBLES)
            few = [fields[cut : cut + _DOUBLES] for cut in cuts]
            steps += [(_names(part), _doubles(len(part))) for part in few]
        else:
            steps += [(_names([field]), _single(_read(field["type"]))) for field in fields]

    def record(cursors: Cursors) -> RecordColumn:
        columns: dict[str, Column] = {}
        for names, read in steps:
            columns.update(zip(names, read(cursors), strict=True))
        return RecordColumn(len(cursors.at), columns)

    return record


def _names(fields: Sequence[Mapping[str, object]]) -> list[str]:
    return [str(field["name"]) for field in fields]


def _is_double(kind: object) -> bool:
    return type_name(kind) == "double"


def _single(read: Read) -> Callable[[Cursors], Sequence[Column]]:
    return lambda cursors: [read(cursors)]


def _read(kind: object) -> Read:
    if isinstance(kind, list):
        return _nullable(_read(kind[1] if kind[0] == "null" else kind[0]), kind[0] == "null")
    match type_name(kind):
        case "record":
            return _record(kind)
        case "array":
            return _list(type_name(item_of(kind)))
        case name:
            return _READERS[name]


def _nullable(read: Read, null_first: bool) -> Read:
    there = 2 if null_first else 0

    def nullable(cursors: Cursors) -> Column:
        branch = cursors.byte()
        cursors.failed |= (branch & 0xFD) != 0
        some = branch == there
        cursors.move(1)
        if some.all():
            return read(cursors)
        rows = np.flatnonzero(some)
        return cursors.among(rows, read).spread(rows, len(some))

    return nullable


def _doubles(count: int) -> Callable[[Cursors], Sequence[Column]]:
    def doubles(cursors: Cursors) -> Sequence[Column]:
        found = cursors.source.of(f"V{8 * count}")[cursors.at]
        cursors.move(8 * count)
        columns = np.ascontiguousarray(found.view("<f8").reshape(-1, count).T)
        return [Numbers(column, pa.float64()) for column in columns]

    return doubles


def _float(cursors: Cursors) -> Column:
    found = cursors.source.of("<f4")[cursors.at]
    cursors.move(4)
    return Numbers(found, pa.float32())


def _boolean(cursors: Cursors) -> Column:
    found = cursors.byte()
    cursors.failed |= found > 1
    cursors.move(1)
    return Numbers(found, pa.bool_())


def _long(cursors: Cursors) -> Column:
    return Numbers(cursors.number(), pa.int64())


def _int(cursors: Cursors) -> Column:
    value = cursors.number()
    narrow = value.astype(np.int32)
    cursors.failed |= narrow != value
    return Numbers(narrow, pa.int32())


def _timestamp(cursors: Cursors) -> Column:
    value = cursors.number()
    cursors.failed |= (value < EARLIEST) | (value > LATEST)
    return Numbers(value, pa.timestamp("us", "UTC"))


def _text(kind: pa.DataType, *, shared: bool = False) -> Callable[[Cursors], Texts]:
    """Return the reader of texts; unless *shared*, they seldom keep the bytes of their batch."""

    def text(cursors: Cursors) -> Texts:
        source = cursors.source
        size = cursors.length()
        start = cursors.at.copy()
        cursors.move(size)
        begin = source.of("V16")[start]
        longest = int(size.max(initial=0))
        if shared or longest > _OWN_BYTES:
            return Texts.at(start, size, begin, source.data, kind)
        if longest <= INLINE:
            return Texts.at(start, size, begin, b"", kind)
        places = np.arange(len(start)) * longest
        return Texts.at(places, size, begin, source.of(f"V{longest}")[start], kind)

    return text


def _list(item: str) -> Read:
    """Return the reader of a list of texts that is one block, or empty."""
    kind = _VIEWS[item]
    read = _text(kind, shared=True)

    def listed(cursors: Cursors) -> Column:
        first = cursors.byte()
        odd = (first & 0x81) != 0  # negative, or beyond LONG_LIST
        cursors.failed |= odd
        counts = np.where(odd, 0, first >> 1).astype(np.int64)
        cursors.move(1)
        begins = np.cumsum(counts) - counts
        views = np.zeros((int(counts.sum()), 2), dtype=np.uint64)
        for done in range(int(counts.max(initial=0))):
            rows = np.flatnonzero(counts > done)
            views[begins[rows] + done] = cast(Texts, cursors.among(rows, read)).views
        some = counts > 0
        cursors.failed |= some & (cursors.byte() != 0)
        cursors.move(some.astype(np.int64))
        return Lists(counts, Texts(views, cursors.source.data, kind))

    return listed


def _packed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Close the gaps in numbers of seven bits a byte."""
    for low, high, by in _GAPS:
        bits = bits & low | (bits & high) >> by
    return bits


_GAPS = [
    (np.uint64(0x007F007F007F007F), np.uint64(0x7F007F007F007F00), np.uint64(1)),
    (np.uint64(0x00003FFF00003FFF), np.uint64(0x3FFF00003FFF0000), np.uint64(2)),
    (np.uint64(0x000000000FFFFFFF), np.uint64(0x0FFFFFFF00000000), np.uint64(4)),
]
_VIEWS = {"string": pa.string_view(), "bytes": pa.binary_view()}
_READERS: Mapping[str, Read] = {
    "boolean": _boolean,
    "int": _int,
    "long": _long,
    "timestamp-micros": _timestamp,
    "float": _float,
    "double": lambda cursors: _doubles(1)(cursors)[0],
    "string": _text(_VIEWS["string"]),
    "bytes": _text(_VIEWS["bytes"]),
}
