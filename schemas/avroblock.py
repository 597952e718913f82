"""Read many payloads of one writer schema as columns: one Avro block, decoded by Polars in a call.

Three things keep payloads from touching their neighbours. `survey.py` lets only those into a block
that are sound by the schema. Behind each stands a guard, random bytes drawn for the batch, which
the schema names as a last field: a block whose guards all come back in place was cut exactly at
its payloads. And a block that does not come back whole is halved, until the few payloads left in
doubt are read singly (`slowpath.py`), as are those that did not pass the survey.
It knows no loop and no store.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.exceptions import PanicException, PolarsError

from tidemill.errors import PayloadError
from tidemill.schemas.avrotypes import column_type, fields_of
from tidemill.schemas.batch import GUARD_BYTES, SYNC, Batch
from tidemill.schemas.encoding import varint
from tidemill.schemas.slowpath import compile_reader
from tidemill.schemas.survey import compile_survey
from tidemill.schemas.wire import Schema

SINGLY = 32
"""A block of so few payloads that does not come back whole is read payload by payload."""


@dataclass(slots=True)
class Rows:
    """What was read: frames of the writer's columns, the rows they hold, and what was refused."""

    frames: list[pl.DataFrame] = field(default_factory=list)
    numbers: list[NDArray[np.int64]] = field(default_factory=list)
    refused: list[tuple[int, PayloadError]] = field(default_factory=list)
    slowly: int = 0


class BlockReader:
    """Reads payloads that start with one prefix, and so were written with one schema."""

    def __init__(
        self, writer: Schema, prefix: bytes, *, guarded: bool = True, surveyed: bool = True
    ) -> None:
        """Prepare for *writer*, which has passed `soundness.check_schema`.

        The guard and the survey can be left out, to see in a test what each of them is good for.
        """
        self.columns = _columns(writer)
        self._prefix = prefix
        self._surveyed = surveyed
        self._in_blocks = column_type(writer) is not None
        self._header = _header(writer, len(prefix), GUARD_BYTES * guarded)
        self._survey = compile_survey(writer) if self._in_blocks else None
        self._read_one = compile_reader(writer)

    def read(self, batch: Batch, rows: NDArray[np.int64]) -> Rows:
        """Return the columns of those *rows* of *batch*; all start with the prefix."""
        read = Rows()
        if self._survey is None:
            self._singly(batch, rows, read)
            return read
        if self._surveyed:
            starts = batch.starts[rows] + len(self._prefix)
            sound = self._survey(batch.data, starts, batch.ends[rows])
            if not sound.all():
                self._singly(batch, rows[~sound], read)
                rows = rows[sound]
        self._halving(batch, rows, read)
        return read

    def _halving(self, batch: Batch, rows: NDArray[np.int64], read: Rows) -> None:
        if not len(rows):
            return
        frame = self._block(batch, rows)
        if frame is not None:
            read.frames.append(frame)
            read.numbers.append(rows)
        elif len(rows) <= SINGLY:
            self._singly(batch, rows, read)
        else:
            middle = len(rows) // 2
            self._halving(batch, rows[:middle], read)
            self._halving(batch, rows[middle:], read)

    def head(self, count: int, size: int) -> bytes:
        """Return what stands before *count* payloads that are *size* bytes with their guards."""
        return self._header + varint(count) + varint(size)

    def _block(self, batch: Batch, rows: NDArray[np.int64]) -> pl.DataFrame | None:
        """Return the columns of *rows*, or None if they do not come back whole."""
        block = batch.data
        if len(rows) < len(batch.values) or not batch.head.startswith(self._header):
            body = batch.guard.join((*[batch.values[row] for row in rows.tolist()], SYNC))
            block = self.head(len(rows), len(body) - len(SYNC)) + body
        try:
            frame = pl.read_avro(io.BytesIO(block))
        except (PolarsError, PanicException):  # a panic would be a surprise, but no stop
            return None
        whole = frame.height == len(rows)
        if whole and batch.guard:
            back = pl.col("_guard") == pl.lit(batch.guard)
            whole = cast(bool, frame.select(back.all()).item())
        return frame.select(self.columns.names()) if whole else None

    def _singly(self, batch: Batch, rows: NDArray[np.int64], read: Rows) -> None:
        read.slowly += len(rows)
        records, numbers = [], []
        for row in rows.tolist():
            try:
                records.append(self._read_one(batch.values[row], len(self._prefix)))
                numbers.append(row)
            except PayloadError as error:
                read.refused.append((row, error))
        if records:
            read.frames.append(_frame(records, self.columns))
            read.numbers.append(np.array(numbers, dtype=np.int64))


def _columns(schema: Schema) -> pl.Schema:
    """Return the columns of *schema*; a field whose type columns do not have is left out."""
    types = {str(each["name"]): column_type(each["type"]) for each in fields_of(schema)}
    return pl.Schema({name: dtype for name, dtype in types.items() if dtype is not None})


def _frame(records: Sequence[dict[str, object]], columns: pl.Schema) -> pl.DataFrame:
    return pl.DataFrame(
        [
            pl.Series(name, [record[name] for record in records], dtype=dtype)
            for name, dtype in columns.items()
        ]
    )


def _header(schema: Schema, prefix_bytes: int, guard_bytes: int) -> bytes:
    """Return the header of an uncompressed Avro container of prefix, event and guard."""
    fields = [_fixed("_prefix", prefix_bytes), *fields_of(schema)]
    if guard_bytes:
        fields.append(_fixed("_guard", guard_bytes))
    meta = {"avro.schema": json.dumps({**schema, "fields": fields}), "avro.codec": "null"}
    entries = b"".join(_text(key) + _text(value) for key, value in meta.items())
    return b"Obj\x01" + varint(len(meta)) + entries + b"\x00" + SYNC


def _fixed(name: str, size: int) -> Mapping[str, object]:
    return {"name": name, "type": {"type": "fixed", "name": f"{name}_bytes", "size": size}}


def _text(text: str) -> bytes:
    body = text.encode()
    return varint(len(body)) + body
