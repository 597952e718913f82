"""Read many payloads of one writer schema as columns, and those in doubt one by one.

`columnar_decoder.py` reads each payload with a cursor of its own, so no payload affects another.
A payload that it does not read exactly to the end goes to `scalar_decoder.py`, which either reads
it or says what is wrong with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from tidemill.errors import PayloadError
from tidemill.schemas.avro.arrow_columns import Nulls, RecordColumn
from tidemill.schemas.avro.columnar_decoder import compile_cursors
from tidemill.schemas.avro.payloads import Payloads
from tidemill.schemas.avro.scalar_decoder import compile_reader
from tidemill.schemas.avro.types import column_type, fields_of
from tidemill.schemas.avro.wire import Schema


@dataclass(slots=True)
class PayloadRows:
    """The result: frames in the writer's columns, the rows they hold, and the refused payloads."""

    frames: list[pl.DataFrame] = field(default_factory=list)
    numbers: list[NDArray[np.int64]] = field(default_factory=list)
    refused: list[tuple[int, PayloadError]] = field(default_factory=list)
    slowly: int = 0


class PayloadReader:
    """Reads payloads that start with one prefix, and so were written with one schema."""

    def __init__(self, writer: Schema, prefix: bytes) -> None:
        """Prepare for the schema *writer*, which has passed `limits.check_schema`."""
        self.columns = _columns(writer)
        self._skipped = len(prefix)
        in_columns = column_type(writer) is not None
        self._walk = compile_cursors(writer) if in_columns else None
        self._read_one = compile_reader(writer)

    def read(self, payloads: Payloads, rows: NDArray[np.int64]) -> PayloadRows:
        """Return the columns of those *rows* of *payloads*, which all start with the prefix."""
        read = PayloadRows()
        if self._walk is not None:
            starts, ends = payloads.starts, payloads.ends
            if len(rows) < len(payloads):
                starts, ends = starts[rows], ends[rows]
            records, passed = self._walk(payloads.data, starts + self._skipped, ends)
            read.frames.append(_columns_of(records))
            read.numbers.append(rows if passed.all() else rows[passed])
            rows = rows[~passed]
        self._singly(payloads, rows, read)
        return read

    def _singly(self, payloads: Payloads, rows: NDArray[np.int64], read: PayloadRows) -> None:
        read.slowly += len(rows)
        records, numbers = [], []
        for row in rows.tolist():
            try:
                records.append(self._read_one(payloads[row] or b"", self._skipped))
                numbers.append(row)
            except PayloadError as error:
                read.refused.append((row, error))
        if records:
            read.frames.append(_frame(records, self.columns))
            read.numbers.append(np.array(numbers, dtype=np.int64))


def _columns_of(records: RecordColumn) -> pl.DataFrame:
    """Return *records* as columns; what is null in all of them takes one value, not one a row."""
    nulls = {name: each for name, each in records.fields.items() if isinstance(each, Nulls)}
    some = {name: each for name, each in records.fields.items() if name not in nulls}
    if not nulls or not some:
        return pl.DataFrame(pa.RecordBatch.from_struct_array(records.arrow()))
    known = replace(records, fields=some).arrow()
    frame = pl.DataFrame(pa.RecordBatch.from_struct_array(known))
    frame = frame.with_columns(pl.lit(None, each.column).alias(n) for n, each in nulls.items())
    in_order = [*some, *nulls] == [*records.fields]
    return frame if in_order else frame.select(*records.fields)


def _columns(schema: Schema) -> pl.Schema:
    """Return the columns of *schema*, without the fields whose type has no column type."""
    types = {str(each["name"]): column_type(each["type"]) for each in fields_of(schema)}
    return pl.Schema({name: dtype for name, dtype in types.items() if dtype is not None})


def _frame(records: Sequence[dict[str, object]], columns: pl.Schema) -> pl.DataFrame:
    return pl.DataFrame(
        [
            pl.Series(name, [record[name] for record in records], dtype=dtype)
            for name, dtype in columns.items()
        ]
    )
