"""Read many payloads of one writer schema as columns: one Avro block, decoded by Polars in a call.

After each payload stands a guard, eight random bytes drawn for the batch, which the schema names
as a last field. A payload that ends too early or too late takes a guard for something else, so a
block whose guards all come back in place was cut exactly at its payloads. A block that does not
come back whole is halved; the few payloads left in doubt are read singly (`slowpath.py`).
It knows no loop, no store and no prefix but its length.
"""

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl
from polars.exceptions import PanicException

from tidemill.errors import PayloadError
from tidemill.schemas.encoding import varint
from tidemill.schemas.evolution import column_type, fields_of
from tidemill.schemas.slowpath import compile_reader
from tidemill.schemas.wire import Schema

GUARD_BYTES = 8
SINGLY = 32
"""A block of so few payloads that does not come back whole is read payload by payload."""

_SYNC = bytes(16)
_GUARD = {"name": "_guard", "type": {"type": "fixed", "name": "_Guard", "size": GUARD_BYTES}}


@dataclass(slots=True)
class Rows:
    """What was read: a frame of the writer's columns, the index of each row, and what was not."""

    frames: list[pl.DataFrame] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)
    refused: list[tuple[int, PayloadError]] = field(default_factory=list)


class BlockReader:
    """Reads payloads written with one schema into the columns of its fields."""

    def __init__(self, writer: Schema, *, guarded: bool = True) -> None:
        """Prepare for *writer*, which has passed `evolution.check_schema`.

        Without *guarded* the proof that payloads do not touch their neighbours is left out; tests
        use that to see that they would notice.
        """
        self.columns = _columns(writer)
        self._guarded = guarded
        self._in_blocks = column_type(writer) is not None
        self._header = _header(writer, guarded=guarded)
        self._read_one = compile_reader(writer)

    def read(self, payloads: Sequence[bytes], prefix_bytes: int) -> Rows:
        """Return the columns of *payloads*, whose bodies begin after *prefix_bytes*."""
        rows = Rows()
        self._read(payloads, prefix_bytes, 0, len(payloads), rows)
        return rows

    def _read(self, payloads: Sequence[bytes], skip: int, start: int, end: int, rows: Rows) -> None:
        if self._in_blocks:
            frame = self._block([payload[skip:] for payload in payloads[start:end]])
            if frame is not None:
                rows.frames.append(frame)
                rows.indexes += range(start, end)
                return
            if end - start > SINGLY:
                middle = (start + end) // 2
                self._read(payloads, skip, start, middle, rows)
                self._read(payloads, skip, middle, end, rows)
                return
        self._singly(payloads, skip, start, end, rows)

    def _block(self, bodies: Sequence[bytes]) -> pl.DataFrame | None:
        """Return the columns of *bodies*, or None if they are not one value each."""
        guard = os.urandom(GUARD_BYTES) if self._guarded else b""
        body = guard.join(bodies) + guard
        head = varint(len(bodies)) + varint(len(body))
        try:
            frame = pl.read_avro(io.BytesIO(b"".join((self._header, head, body, _SYNC))))
        except (pl.exceptions.PolarsError, PanicException, OverflowError, ValueError):
            return None
        if frame.height != len(bodies):
            return None
        if self._guarded:
            if not frame.select((pl.col("_guard") == pl.lit(guard)).all()).item():
                return None
            frame = frame.drop("_guard")
        return frame

    def _singly(
        self, payloads: Sequence[bytes], skip: int, start: int, end: int, rows: Rows
    ) -> None:
        records = []
        for index in range(start, end):
            try:
                records.append(self._read_one(payloads[index], skip))
                rows.indexes.append(index)
            except PayloadError as error:
                rows.refused.append((index, error))
        if records:
            rows.frames.append(_frame(records, self.columns))


def _columns(schema: Schema) -> pl.Schema:
    """Return the columns of *schema*; a field whose type columns do not have is left out."""
    types = {str(each["name"]): column_type(each["type"]) for each in fields_of(schema)}
    return pl.Schema({name: dtype for name, dtype in types.items() if dtype is not None})


def _frame(records: Sequence[dict[str, object]], columns: pl.Schema) -> pl.DataFrame:
    series = [
        pl.Series(name, [record[name] for record in records], dtype=dtype, strict=True)
        for name, dtype in columns.items()
    ]
    return pl.DataFrame(series)


def _header(schema: Schema, *, guarded: bool) -> bytes:
    """Return the header of an Avro container of *schema* and the guard, uncompressed."""
    fields = [*fields_of(schema), *([_GUARD] if guarded else [])]
    meta = {"avro.schema": json.dumps({**schema, "fields": fields}), "avro.codec": "null"}
    entries = b"".join(_text(key) + _text(value) for key, value in meta.items())
    return b"Obj\x01" + varint(len(meta)) + entries + b"\x00" + _SYNC


def _text(text: str) -> bytes:
    body = text.encode()
    return varint(len(body)) + body
