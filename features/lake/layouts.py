"""The columns of the lake: the tables of a loop, and their types in Polars, Delta and DuckDB.

A loop version may add nullable features and feedback values. Every other change of a type is
refused, so that every row ever written stays readable.
"""

from collections.abc import Collection, Mapping
from typing import TypeVar, cast

import polars as pl
import pyarrow as pa
from deltalake import Field, Schema

from tidemill.errors import ContractError
from tidemill.schemas.events.schemas import (
    TIME,
    decision_frame_schema,
    example_frame_schema,
    feedback_frame_schema,
)
from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log, is_feedback
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.sql.names import quoted

__all__ = [
    "DECISIONS",
    "EXAMPLES",
    "FEEDBACK",
    "PARTITION",
    "TABLES",
    "dated",
    "duck_type",
    "example_key",
    "fitted",
    "layouts",
    "missing_fields",
    "plain_arrow",
    "table_of",
    "to_delta",
    "to_polars",
    "undated",
]

Rows = TypeVar("Rows", pl.DataFrame, pl.LazyFrame)

EXAMPLES = "examples"
TABLES = (DECISIONS, FEEDBACK, EXAMPLES)  # the raw tables have the names of the plain logs
PARTITION = "event_date"

_SOURCE: Mapping[str, pl.DataType] = {
    "topic": pl.String(),
    "partition": pl.Int32(),
    "offset": pl.Int64(),
}
_DATE: Mapping[str, pl.DataType] = {PARTITION: pl.Date()}
_INTAKE: Mapping[str, pl.DataType] = {
    **_SOURCE,
    "ingested_at": TIME,
    "stream_time": TIME,
    "verdict": pl.String(),
    **_DATE,
}
_OUTCOME: Mapping[str, pl.DataType] = {
    "state": pl.String(),
    "label": pl.Float64(),
    "feedback_offsets": pl.List(pl.Int64()),
    "first_feedback_at": TIME,
    "revision": pl.Int32(),
}


_DUCK_TYPES = {
    pl.String(): "VARCHAR",
    pl.Boolean(): "BOOLEAN",
    pl.Int32(): "INTEGER",
    pl.Int64(): "BIGINT",
    pl.Float64(): "DOUBLE",
    pl.Date(): "DATE",
    TIME: "TIMESTAMP WITH TIME ZONE",
    pl.Binary(): "BLOB",
}


def layouts(loop: Loop) -> dict[str, pl.Schema]:
    """Return the columns of every table of *loop*, by table name.

    Where decisions have items, an example is about one that was shown; its columns are null if a
    decision has shown none.
    """
    decision = decision_frame_schema(loop)
    context = {name: kind for name, kind in example_frame_schema(decision).items() if name != "id"}
    return {
        DECISIONS: pl.Schema({**decision, **_INTAKE}),
        FEEDBACK: pl.Schema({**feedback_frame_schema(loop), **_INTAKE}),
        EXAMPLES: pl.Schema(
            {"decision_id": pl.String(), **context, **_OUTCOME, **_SOURCE, **_DATE}
        ),
    }


def example_key(columns: Collection[str]) -> tuple[str, ...]:
    """Return which of the *columns* of `examples` name an example: its decision, and its item.

    The position is null in the example of a decision that has shown no item.
    """
    key = ("partition", "offset")
    return (*key, "position") if "position" in columns else key


def table_of(log: Log) -> Log:
    """Return the raw table of *log*: all logs of feedback share the table `feedback`.

    >>> table_of("feedback.orders")
    'feedback'
    """
    return FEEDBACK if is_feedback(log) else DECISIONS


def to_delta(schema: pl.Schema) -> Schema:
    """Return *schema* as Delta types."""
    arrow = pl.DataFrame(schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    return Schema.from_arrow(arrow)


def to_polars(schema: Schema) -> pl.Schema:
    """Return the columns of a Delta table as Polars types."""
    return pl.Schema(schema.to_arrow())


def duck_type(kind: object) -> str:
    """Return the type of DuckDB for a type of Polars."""
    match instance := _instance(kind):
        case pl.List():
            return f"{duck_type(instance.inner)}[]"
        case pl.Struct():
            inside = (f"{quoted(each.name)} {duck_type(each.dtype)}" for each in instance.fields)
            return f"STRUCT({', '.join(inside)})"
    return _DUCK_TYPES[instance]


def _instance(kind: object) -> pl.DataType:
    """Return the type inside a list or struct, which Polars may give as a class."""
    if isinstance(kind, pl.DataType):
        return kind
    if isinstance(kind, type) and issubclass(kind, pl.DataType):
        return kind()
    raise TypeError(f"{kind!r} is not a column type")


def plain_arrow(schema: pl.Schema, *, partition: bool = False) -> pa.Schema:
    """Return *schema* in Arrow with plain strings instead of views, which not every reader has.

    The date is left out unless *partition* is true: files have it in their path.
    """
    columns = schema if partition else undated(schema)
    return pl.DataFrame(schema=columns).to_arrow(compat_level=pl.CompatLevel.oldest()).schema


def undated(schema: pl.Schema) -> pl.Schema:
    """Return *schema* without the date, which is computed from `at`."""
    return pl.Schema({name: kind for name, kind in schema.items() if name != PARTITION})


def dated(rows: Rows) -> Rows:
    """Return *rows* with their dates, also those of files with rows of several dates."""
    if PARTITION not in rows.collect_schema():
        return rows
    return rows.with_columns(pl.coalesce(PARTITION, pl.col("at").dt.date()).alias(PARTITION))


def missing_fields(table: str, have: pl.Schema, want: pl.Schema) -> list[Field]:
    """Return the fields to add to *have* so that rows of *want* fit.

    Fields that only *have* has stay; they are null in rows of newer versions.

    Raises:
        ContractError: a column has another type in *want*.
    """
    added = {}
    for name, kind in want.items():
        missing = _missing(f"{table}.{name}", have[name], kind) if name in have else kind
        if missing is not None:
            added[name] = missing
    return list(to_delta(pl.Schema(added)).fields) if added else []


def _missing(column: str, have: pl.DataType, want: pl.DataType) -> pl.DataType | None:
    """Return the fields of *want* that *have* lacks, in structs and in lists of them; or None."""
    if isinstance(want, pl.List) and isinstance(have, pl.List):
        inside = _missing(column, _inner(have), _inner(want))
        return None if inside is None else pl.List(inside)
    if isinstance(want, pl.Struct) and isinstance(have, pl.Struct):
        known = _fields(have)
        fresh = {
            name: _missing(f"{column}.{name}", known[name], kind) if name in known else kind
            for name, kind in _fields(want).items()
        }
        some = {name: kind for name, kind in fresh.items() if kind is not None}
        return pl.Struct(some) if some else None
    if have != want:
        raise _changed(column, have, want)
    return None


def _fields(kind: pl.Struct) -> dict[str, pl.DataType]:
    return {field.name: cast(pl.DataType, field.dtype) for field in kind.fields}


def _inner(kind: pl.List) -> pl.DataType:
    return cast(pl.DataType, kind.inner)


def _changed(column: str, old: object, new: object) -> ContractError:
    return ContractError(
        f"the lake has {column} as {old}, this loop version declares {new}",
        hint="give the field another name, or the loop another name; old rows must stay readable",
    )


def fitted(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Return *frame* with the columns of *schema* in order; absent columns and fields are null.

    Raises:
        ValueError: a column of *frame* is unknown to *schema* or has another type.
    """
    odd = [name for name, kind in frame.schema.items() if not _fits(kind, schema.get(name))]
    if odd:
        types = ", ".join(f"{name} is {frame.schema[name]}, not {schema.get(name)}" for name in odd)
        raise ValueError(f"the rows do not fit the table: {types}")
    return frame.select(
        _column(name, kind, frame.schema.get(name)) for name, kind in schema.items()
    )


def _fits(kind: pl.DataType, into: pl.DataType | None) -> bool:
    if isinstance(kind, pl.List) and isinstance(into, pl.List):
        return _fits(_inner(kind), _inner(into))
    if isinstance(kind, pl.Struct) and isinstance(into, pl.Struct):
        known = _fields(into)
        return all(_fits(each, known.get(name)) for name, each in _fields(kind).items())
    return kind == into


def _column(name: str, kind: pl.DataType, have: pl.DataType | None) -> pl.Expr:
    if have is None:
        return pl.lit(None, dtype=kind).alias(name)
    return _widened(pl.col(name), kind, have).alias(name)


def _widened(value: pl.Expr, kind: pl.DataType, have: pl.DataType) -> pl.Expr:
    """Return *value*, of the type *have*, with the fields that only *kind* has as nulls."""
    if have == kind:
        return value
    if isinstance(kind, pl.List) and isinstance(have, pl.List):
        return value.list.eval(_widened(pl.element(), _inner(kind), _inner(have)))
    if not (isinstance(kind, pl.Struct) and isinstance(have, pl.Struct)):
        return value
    known = _fields(have)
    return pl.struct(
        _widened(value.struct.field(name), each, known[name]).alias(name)
        if name in known
        else pl.lit(None, dtype=each).alias(name)
        for name, each in _fields(kind).items()
    )
