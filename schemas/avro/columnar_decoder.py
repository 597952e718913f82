"""Decode many payloads at once: one cursor per payload, one NumPy operation for all cursors.

A payload passes if every length, union branch and boolean is legal and its cursor ends exactly at
its end; the rows of the others are left out. Those are not refused yet: rare but legal forms (lists
in several blocks, long lists, large ints) do not pass either. `scalar_decoder.py` reads each of
them again and decides.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import cast

import numpy as np
import polars as pl
import pyarrow as pa

from tidemill.schemas.avro.arrow_columns import (
    INLINE,
    Column,
    Flags,
    Lists,
    Nulls,
    Numbers,
    RecordColumn,
    Texts,
)
from tidemill.schemas.avro.cursors import Cursors, PayloadBytes, Positions, Read
from tidemill.schemas.avro.primitives import EARLIEST, LATEST
from tidemill.schemas.avro.skips import compile_skip
from tidemill.schemas.avro.types import column_type, fields_of, item_of, type_name
from tidemill.schemas.avro.wire import Schema

LONG_LIST = 1_000
"""A longer list does not pass: a list of texts or records takes a step for each of its items."""

_OWN_BYTES = 64  # shorter texts are copied out of the batch; at most `PADDING`
_DOUBLES = 8  # adjacent fields that are read at once; their bytes are at most `PADDING`
_CACHED = 2_048  # rows whose doubles are transposed at once, while the processor has them near
_BRANCHES = 8  # adjacent nullable fields whose branches are read at once: the bytes of a word
_ENOUGH = 3  # of fewer it is not worth a look whether all are null


def compile_cursors(
    schema: Schema,
) -> Callable[[bytes, Positions, Positions], tuple[RecordColumn, Flags]]:
    """Return the function that decodes payloads of *schema* and says which of them passed.

    Its arguments are the joined bytes, followed by `PADDING`, and the start and the end of each
    body. The columns it returns have one row per payload that passed, and all their texts are
    UTF-8. Every field of *schema* must have a column type (`types.column_type`).
    """
    read = _record(schema)

    def decode(data: bytes, starts: Positions, ends: Positions) -> tuple[RecordColumn, Flags]:
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

    return decode


def _record(schema: object) -> Callable[[Cursors], RecordColumn]:
    steps: list[tuple[list[str], Callable[[Cursors], Sequence[Column]]]] = []
    for kind, group in groupby(fields_of(schema), lambda field: _alike(field["type"])):
        fields = list(group)
        if kind == "double":
            steps += [(_names(part), _doubles(len(part))) for part in _parts(fields, _DOUBLES)]
        elif kind == "nullable":
            steps += [(_names(part), _nullables(part)) for part in _parts(fields, _BRANCHES)]
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


def _parts(
    fields: Sequence[Mapping[str, object]], size: int
) -> Sequence[Sequence[Mapping[str, object]]]:
    return [fields[start : start + size] for start in range(0, len(fields), size)]


def _alike(kind: object) -> str:
    """Return what adjacent fields of one kind have in common, so that they are read together."""
    if isinstance(kind, list):
        return "nullable" if kind[0] == "null" else ""
    return "double" if type_name(kind) == "double" else ""


def _single(read: Read) -> Callable[[Cursors], Sequence[Column]]:
    return lambda cursors: [read(cursors)]


def _read(kind: object) -> Read:
    if isinstance(kind, list):
        return _nullable(_read(kind[1] if kind[0] == "null" else kind[0]), kind[0] == "null")
    match type_name(kind):
        case "record":
            return _record(kind)
        case "array":
            return _list(item_of(kind))
        case name:
            return _READERS[name]


def _nullable(read: Read, null_first: bool) -> Read:
    present = 2 if null_first else 0

    def nullable(cursors: Cursors) -> Column:
        branch = cursors.byte()
        cursors.failed |= (branch & 0xFD) != 0
        some = branch == present
        cursors.move(1)
        if some.all():
            return read(cursors)
        rows = np.flatnonzero(some)
        return cursors.among(rows, read).spread(rows, len(some))

    return nullable


def _nullables(fields: Sequence[Mapping[str, object]]) -> Callable[[Cursors], Sequence[Column]]:
    """Return the reader of adjacent nullable fields, which looks once if all of them are null."""
    reads = [_read(field["type"]) for field in fields]
    if len(fields) < _ENOUGH:
        return lambda cursors: [read(cursors) for read in reads]
    kinds = [cast(pl.DataType, column_type(field["type"])) for field in fields]
    branches = np.uint64(2 ** (8 * len(fields)) - 1)

    def nullables(cursors: Cursors) -> Sequence[Column]:
        if (cursors.source.words[cursors.at] & branches).any():
            return [read(cursors) for read in reads]
        cursors.move(len(fields))
        return [Nulls(len(cursors.at), kind) for kind in kinds]

    return nullables


def _doubles(count: int) -> Callable[[Cursors], Sequence[Column]]:
    def doubles(cursors: Cursors) -> Sequence[Column]:
        source, at = cursors.source.of(f"V{8 * count}"), cursors.at
        columns = np.empty((count, len(at)))
        for start in range(0, len(at), _CACHED):
            part = slice(start, start + _CACHED)
            columns[:, part] = source[at[part]].view("<f8").reshape(-1, count).T
        cursors.move(8 * count)
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
    """Return the reader of texts; short ones do not keep the batch in memory unless *shared*."""

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
        starts = np.arange(len(start)) * longest
        return Texts.at(starts, size, begin, source.of(f"V{longest}")[start], kind)

    return text


def _counts(cursors: Cursors) -> Positions:
    """Return how many items the next lists have, and step over that; odd counts fail and are 0."""
    counts = cursors.number()
    odd = (counts < 0) | (counts > LONG_LIST)
    cursors.failed |= odd
    counts[odd] = 0
    return counts


def _end(cursors: Cursors, counts: Positions) -> None:
    """Step over the zero that ends a list with items; a cursor at something else fails."""
    some = counts > 0
    cursors.failed |= some & (cursors.byte() != 0)
    cursors.move(some.astype(np.int64))


def _double_list(cursors: Cursors) -> Column:
    """Read lists of doubles that are empty or one block."""
    counts = _counts(cursors)
    is_cut = cursors.at + 8 * counts > cursors.ends
    cursors.failed |= is_cut
    counts[is_cut] = 0
    begins = np.cumsum(counts) - counts
    places = np.repeat(cursors.at - 8 * begins, counts) + 8 * np.arange(int(counts.sum()))
    found = cursors.source.of("<f8")[places]
    cursors.move(8 * counts)
    _end(cursors, counts)
    return Lists(counts, Numbers(found, pa.float64()))


def _list(item: object) -> Read:
    """Return the reader of lists that are empty or one block.

    Cursors step over the items of all lists, one of each list at a time; then all items are read at
    once, each by a cursor of its own.
    """
    if type_name(item) == "double":
        return _double_list
    skip, read = compile_skip(item, _read), _read(item)

    def listed(cursors: Cursors) -> Column:
        counts = _counts(cursors)
        begins = np.cumsum(counts) - counts
        starts = np.empty(int(counts.sum()), dtype=np.int64)
        for done in range(int(counts.max(initial=0))):
            rows = np.flatnonzero(counts > done)
            starts[begins[rows] + done] = cursors.at[rows]
            cursors.among(rows, skip)
        _end(cursors, counts)
        rows = np.repeat(np.arange(len(counts)), counts)
        items = Cursors(cursors.source, starts, cursors.ends[rows])
        column = read(items)
        cursors.failed[rows[items.failed]] = True
        return Lists(counts, column)

    return listed


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
