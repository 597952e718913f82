"""The values that a join returns at a close, and that it needs to continue after a restart.

A worker commits a `Closed` and makes a `Resume` from what the lake has.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import cast

import polars as pl

from tidemill.schemas.logs import Log
from tidemill.streams.join.matching import FeedbackOutcomes


@dataclass(frozen=True, slots=True)
class Advance:
    """The stream time of an idle *log* advanced to *to* before the record at *offset* was read."""

    log: Log
    offset: int
    to: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much feedback joined no decision, by the reason; counted when its time is past."""

    late: int = 0
    duplicate: int = 0
    unmatched: int = 0
    misplaced: int = 0
    unknown_item: int = 0

    def plus(self, more: FeedbackOutcomes) -> "Counts":
        """Return these counts and *more*."""
        return Counts(
            late=self.late + more.late,
            duplicate=self.duplicate + more.duplicate,
            unmatched=self.unmatched + more.unmatched,
            misplaced=self.misplaced + more.misplaced,
            unknown_item=self.unknown_item + more.unknown_item,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """The state of a partition as of the last commit; the rows come from the lake.

    Attributes:
        frontier: decisions earlier than this are closed; None before the first close.
        stream_times: the larger of the times that raw table and examples have of each log.
        offsets: the next Kafka offset of each log.
        counts: as in the last `Closed`.
        decisions: raw rows whose verdict is null or 'duplicate', at least from *frontier* on, with
            *verdict*; more rows do no harm.
        remembered: *id*, *at* and *verdict* of such rows earlier than *frontier*, at least from
            `read_back(...).decisions` on, for the dedup index; None if *decisions* has them.
        feedback: raw rows whose verdict is null, at least from `read_back(...).feedback` on, with
            *stream_time*; more rows do no harm.
        joined: log positions of feedback that is in `feedback_offsets` of examples already.
        examined: for each log of feedback, the offset up to which it was compared with closed
            decisions; without the logs for which that never happened.
        revised: how many revisions of closed examples were written so far.
    """

    frontier: datetime | None = None
    stream_times: Mapping[Log, datetime | None] = field(default_factory=dict)
    offsets: Mapping[Log, int] = field(default_factory=dict)
    counts: Counts = Counts()
    decisions: pl.DataFrame | None = None
    remembered: pl.DataFrame | None = None
    feedback: pl.DataFrame | None = None
    joined: pl.Series | None = None
    examined: Mapping[Log, int] = field(default_factory=dict)
    revised: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The result of one close: finished examples, and the progress of the partition.

    Attributes:
        examples: one row per on-time first decision between the last frontier and this one, by
            offset, then the newest revision of each example that late feedback has revised; the
            columns of the lake's table without topic, partition and event_date.
        frontier: every decision earlier than this is closed now.
        counts: feedback that joined no decision, from the start of the log on.
        stream_times: the stream time of each log at this close.
        advances: idle advances since the last close.
        examined: as in `Resume`, after this close.
        revised: as in `Resume`, after this close.
    """

    examples: pl.DataFrame
    frontier: datetime
    counts: Counts
    stream_times: Mapping[Log, datetime]
    advances: tuple[Advance, ...]
    examined: Mapping[Log, int] = field(default_factory=dict)
    revised: int = 0


def conformed(frame: pl.DataFrame, schema: pl.Schema, *more: str) -> pl.DataFrame:
    """Return the columns *schema* and *more* of rows that were read from the lake.

    The lake has the fields of every version of the loop. Fields that are not in *schema* are left
    out, and fields that the lake does not have yet are null.
    """
    return frame.select(_column(frame, name, kind) for name, kind in schema.items()).with_columns(
        frame[name] for name in more
    )


def _column(frame: pl.DataFrame, name: str, kind: pl.DataType) -> pl.Expr:
    if name not in frame.columns:
        return pl.lit(None, dtype=kind).alias(name)
    return _as(pl.col(name), frame.schema[name], kind).alias(name)


def _as(value: pl.Expr, have: pl.DataType, want: pl.DataType) -> pl.Expr:
    """Return *value*, of the type *have*, with the fields of *want*."""
    if have == want:
        return value
    if isinstance(have, pl.List) and isinstance(want, pl.List):
        inner = _as(pl.element(), cast(pl.DataType, have.inner), cast(pl.DataType, want.inner))
        return value.list.eval(inner)
    if not (isinstance(have, pl.Struct) and isinstance(want, pl.Struct)):
        return value.cast(want)
    known = {field.name: cast(pl.DataType, field.dtype) for field in have.fields}
    return pl.struct(
        _as(value.struct.field(part.name), known[part.name], cast(pl.DataType, part.dtype)).alias(
            part.name
        )
        if part.name in known
        else pl.lit(None, dtype=part.dtype).alias(part.name)
        for part in want.fields
    )
