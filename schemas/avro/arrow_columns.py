"""Columns of NumPy arrays, as cursors fill them, and their conversion to Arrow.

Rows can be dropped, or spread among nulls, before the conversion. Texts are not copied: a column of
texts points into the bytes of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

RowIndexes = NDArray[np.int64]
Flags = NDArray[np.bool_]
Words = NDArray[np.uint64]
Bytes = NDArray[np.generic]
Scalar = TypeVar("Scalar", bound=np.generic)

INLINE = 12
"""The longest text, in bytes, that an Arrow view holds itself; to a longer one it points."""
_FIRST = np.array([2 ** (8 * min(size, 4)) - 1 for size in range(INLINE + 1)], dtype=np.uint64)
_REST = np.array([2 ** (8 * max(size - 4, 0)) - 1 for size in range(INLINE + 1)], dtype=np.uint64)
_HALF = np.uint64(32)
_NOT_ASCII = np.uint64(0x8080808080808080)


class Column(Protocol):
    """One value for each row."""

    def only(self, rows: RowIndexes) -> "Column":
        """Return the column of those *rows*."""

    def spread(self, rows: RowIndexes, count: int) -> "Column":
        """Return a column of *count* rows that has these values at *rows*, and nulls elsewhere."""

    def no_text(self) -> RowIndexes:
        """Return the rows with text that is not valid UTF-8."""

    def arrow(self) -> pa.Array:
        """Return the column as an Arrow array."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers, times, or booleans as 0 and 1; *valid* is None if no row is null."""

    values: NDArray[np.generic]
    kind: pa.DataType
    valid: Flags | None = None

    def only(self, rows: RowIndexes) -> Self:
        """Return the column of those *rows*."""
        valid = None if self.valid is None else self.valid[rows]
        return replace(self, values=self.values[rows], valid=valid)

    def spread(self, rows: RowIndexes, count: int) -> Self:
        """Return a column of *count* rows that has these values at *rows*, and nulls elsewhere."""
        return replace(self, values=_spread(self.values, rows, count), valid=_valid(rows, count))

    def no_text(self) -> RowIndexes:
        """Return no row: a number is always legal."""
        return np.empty(0, dtype=np.int64)

    def arrow(self) -> pa.Array:
        """Return the column as an Arrow array."""
        values = np.ascontiguousarray(self.values)
        body = _bits(values != 0) if self.kind == pa.bool_() else pa.py_buffer(values)
        return pa.Array.from_buffers(self.kind, len(values), [_bits(self.valid), body])


@dataclass(frozen=True, slots=True)
class Nulls:
    """Nothing but nulls, for a column of the type *column*."""

    count: int
    column: pl.DataType

    def only(self, rows: RowIndexes) -> Self:
        """Return the column of those *rows*."""
        return replace(self, count=len(rows))

    def spread(self, rows: RowIndexes, count: int) -> Self:
        """Return a column of *count* rows, all null."""
        return replace(self, count=count)

    def no_text(self) -> RowIndexes:
        """Return no row: there is no text."""
        return np.empty(0, dtype=np.int64)

    def arrow(self) -> pa.Array:
        """Return the column as an Arrow array."""
        kind = pl.Series(dtype=self.column).to_arrow(compat_level=pl.CompatLevel.newest()).type
        return pa.nulls(self.count, kind)


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts or bytes as Arrow views of *data*, two 64-bit words each."""

    views: Words
    data: bytes | Bytes
    kind: pa.DataType
    valid: Flags | None = None

    @classmethod
    def at(
        cls,
        start: RowIndexes,
        size: RowIndexes,
        begin: Bytes,
        data: bytes | Bytes,
        kind: pa.DataType,
    ) -> Self:
        """Return the texts of *size* bytes at *start*; *begin* holds the first 16 bytes of each."""
        words = begin.view("<u8").reshape(-1, 2)
        low, high = words[:, 0], words[:, 1]
        short = np.minimum(size, INLINE)
        views = np.empty_like(words)
        views[:, 0] = (low & _FIRST[short]) << _HALF | size.astype(np.uint64)
        is_long = size > INLINE
        if is_long.all():
            views[:, 1] = start.astype(np.uint64) << _HALF
        else:
            views[:, 1] = (low >> _HALF | high << _HALF) & _REST[short]
            if is_long.any():
                views[is_long, 1] = start[is_long].astype(np.uint64) << _HALF
        return cls(views, data, kind)

    def only(self, rows: RowIndexes) -> Self:
        """Return the column of those *rows*."""
        valid = None if self.valid is None else self.valid[rows]
        return replace(self, views=self.views[rows], valid=valid)

    def spread(self, rows: RowIndexes, count: int) -> Self:
        """Return a column of *count* rows that has these values at *rows*, and nulls elsewhere."""
        return replace(self, views=_spread(self.views, rows, count), valid=_valid(rows, count))

    def no_text(self) -> RowIndexes:
        """Return the rows with text that is not valid UTF-8."""
        none = np.empty(0, dtype=np.int64)
        if self.kind != pa.string_view() or self._is_short_ascii():
            return none
        try:
            self.arrow().validate(full=True)
        except pa.ArrowInvalid:
            binary = replace(self, kind=pa.binary_view()).arrow()
            return np.flatnonzero([not _is_text(value.as_py() or b"") for value in binary])
        return none

    def _is_short_ascii(self) -> bool:
        low, high = self.views[:, 0], self.views[:, 1]
        odd = (low >> _HALF | high) & _NOT_ASCII != 0
        return not (odd.any() or (low.astype(np.uint32) > INLINE).any())

    def arrow(self) -> pa.Array:
        """Return the column as an Arrow array."""
        buffers = [_bits(self.valid), pa.py_buffer(self.views), pa.py_buffer(self.data)]
        return pa.Array.from_buffers(self.kind, len(self.views), buffers)


@dataclass(frozen=True, slots=True)
class Lists:
    """Lists: the number of items of each row, and the items of all rows in order."""

    counts: RowIndexes
    items: Column
    valid: Flags | None = None

    def only(self, rows: RowIndexes) -> Self:
        """Return the column of those *rows*."""
        counts = self.counts[rows]
        ends = np.cumsum(counts)
        places = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
        places += np.repeat((np.cumsum(self.counts) - self.counts)[rows], counts)
        valid = None if self.valid is None else self.valid[rows]
        return replace(self, counts=counts, items=self.items.only(places), valid=valid)

    def spread(self, rows: RowIndexes, count: int) -> Self:
        """Return a column of *count* rows that has these values at *rows*, and nulls elsewhere."""
        return replace(self, counts=_spread(self.counts, rows, count), valid=_valid(rows, count))

    def no_text(self) -> RowIndexes:
        """Return the rows with text that is not valid UTF-8."""
        return np.repeat(np.arange(len(self.counts)), self.counts)[self.items.no_text()]

    def arrow(self) -> pa.Array:
        """Return the column as an Arrow array."""
        ends = np.concatenate(([0], np.cumsum(self.counts)))
        buffers = [_bits(self.valid), pa.py_buffer(ends)]
        items = self.items.arrow()
        kind = pa.large_list(items.type)
        return pa.Array.from_buffers(kind, len(self.counts), buffers, children=[items])


@dataclass(frozen=True, slots=True)
class RecordColumn:
    """A column of *count* records, none of them null."""

    count: int
    fields: dict[str, Column]

    def only(self, rows: RowIndexes) -> Self:
        """Return the column of those *rows*."""
        fields = {name: each.only(rows) for name, each in self.fields.items()}
        return replace(self, count=len(rows), fields=fields)

    def spread(self, rows: RowIndexes, count: int) -> Self:
        """Refuse: no column type exists for a nullable record."""
        raise NotImplementedError

    def no_text(self) -> RowIndexes:
        """Return the rows with text that is not valid UTF-8."""
        return _all_rows([each.no_text() for each in self.fields.values()])

    def arrow(self) -> pa.StructArray:
        """Return the column as an Arrow array."""
        children = [each.arrow() for each in self.fields.values()]
        kind = pa.struct([*zip(self.fields, (child.type for child in children), strict=True)])
        return pa.Array.from_buffers(kind, self.count, [None], children=children)


def _all_rows(found: Sequence[RowIndexes]) -> RowIndexes:
    some = [rows for rows in found if len(rows)]
    return np.unique(np.concatenate(some)) if some else np.empty(0, dtype=np.int64)


def _spread(values: NDArray[Scalar], rows: RowIndexes, count: int) -> NDArray[Scalar]:
    spread = np.zeros((count, *values.shape[1:]), dtype=values.dtype)
    spread[rows] = values
    return spread


def _valid(rows: RowIndexes, count: int) -> Flags:
    valid = np.zeros(count, dtype=np.bool_)
    valid[rows] = True
    return valid


def _bits(flags: NDArray[np.bool_] | None) -> pa.Buffer | None:
    return None if flags is None else pa.py_buffer(np.packbits(flags, bitorder="little"))


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
