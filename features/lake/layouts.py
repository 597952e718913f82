"""The columns of the lake: the tables of a loop, and their types in Polars and in Delta.

A loop version may add nullable features and feedback values. Every other change of a type is
refused, so that every row ever written stays readable.
"""

from collections.abc import Mapping
from typing import TypeVar

import polars as pl
import pyarrow as pa
from deltalake import Field, Schema

from tidemill.errors import ContractError
from tidemill.schemas.events.schemas import TIME, decision_frame_schema, feedback_frame_schema
from tidemill.schemas.logs import DECISIONS, FEEDBACK, Log, is_feedback
from tidemill.schemas.loop.definition import Loop

__all__ = [
    "DECISIONS",
    "EXAMPLES",
    "FEEDBACK",
    "PARTITION",
    "TABLES",
    "dated",
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


def layouts(loop: Loop) -> dict[str, pl.Schema]:
    """Return the columns of every table of *loop*, by table name."""
    decision = decision_frame_schema(loop)
    context = {name: kind for name, kind in decision.items() if name != "id"}
    return {
        DECISIONS: pl.Schema({**decision, **_INTAKE}),
        FEEDBACK: pl.Schema({**feedback_frame_schema(loop), **_INTAKE}),
        EXAMPLES: pl.Schema(
            {"decision_id": pl.String(), **context, **_OUTCOME, **_SOURCE, **_DATE}
        ),
    }


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
        if name not in have:
            added[name] = kind
        elif isinstance(kind, pl.Struct) and isinstance(have[name], pl.Struct):
            known = {field.name: field.dtype for field in _fields(have[name])}
            fresh = {field.name: field.dtype for field in kind.fields if field.name not in known}
            for field in kind.fields:
                if known.get(field.name, field.dtype) != field.dtype:
                    raise _changed(f"{table}.{name}.{field.name}", known[field.name], field.dtype)
            if fresh:
                added[name] = pl.Struct(fresh)
        elif have[name] != kind:
            raise _changed(f"{table}.{name}", have[name], kind)
    return list(to_delta(pl.Schema(added)).fields) if added else []


def _fields(kind: pl.DataType) -> list[pl.Field]:
    return kind.fields if isinstance(kind, pl.Struct) else []


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
    if isinstance(kind, pl.Struct) and isinstance(into, pl.Struct):
        known = {field.name: field.dtype for field in into.fields}
        return all(known.get(field.name) == field.dtype for field in kind.fields)
    return kind == into


def _column(name: str, kind: pl.DataType, have: pl.DataType | None) -> pl.Expr:
    if have is None:
        return pl.lit(None, dtype=kind).alias(name)
    if have == kind or not isinstance(kind, pl.Struct):
        return pl.col(name)
    inside = {field.name for field in _fields(have)}
    return pl.struct(
        pl.col(name).struct.field(field.name)
        if field.name in inside
        else pl.lit(None, dtype=field.dtype).alias(field.name)
        for field in kind.fields
    ).alias(name)
