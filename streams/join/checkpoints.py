"""What a join hands to its shell at a close, and what it needs from it to go on after a restart.

Values only. The shell commits a `Closed` and reads a `Resume` back; how, it knows alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from tidemill.schemas.logs import Log
from tidemill.streams.join.matching import FeedbackOutcomes


@dataclass(frozen=True, slots=True)
class Advance:
    """An idle log's stream time was moved to *to* before the record at Kafka *offset* was read."""

    log: Log
    offset: int
    to: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Feedback that will join no decision any more, counted when its time is past."""

    late: int = 0
    duplicate: int = 0
    unmatched: int = 0

    def plus(self, more: FeedbackOutcomes) -> "Counts":
        """Return these counts and *more*."""
        return Counts(
            late=self.late + more.late,
            duplicate=self.duplicate + more.duplicate,
            unmatched=self.unmatched + more.unmatched,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """What a partition needs to go on where a commit left it; the rows come from the lake.

    Attributes:
        frontier: decisions earlier than this are closed; None before the first close.
        stream_times: of each log the larger of what the raw tables and the examples recorded.
        offsets: the next Kafka offset of each log.
        counts: as in the last `Closed`.
        decisions: raw rows whose verdict is null or 'duplicate', at least from *frontier* on, with
            *verdict*; more rows do no harm.
        seen: *id*, *at* and *verdict* of such rows earlier than *frontier*, at least from
            `read_back(...).decisions` on; None if they are among *decisions*.
        feedback: raw rows whose verdict is null, at least from `read_back(...).feedback` on, with
            *stream_time*; more rows do no harm.
        joined: places of feedback that is in `feedback_offsets` of examples already.
        examined: of each log of feedback the offset up to which it was held against closed
            decisions; logs of which that was never asked are not there.
        revised: revisions of closed examples so far.
    """

    frontier: datetime | None = None
    stream_times: Mapping[Log, datetime | None] = field(default_factory=dict)
    offsets: Mapping[Log, int] = field(default_factory=dict)
    counts: Counts = Counts()
    decisions: pl.DataFrame | None = None
    seen: pl.DataFrame | None = None
    feedback: pl.DataFrame | None = None
    joined: pl.Series | None = None
    examined: Mapping[Log, int] = field(default_factory=dict)
    revised: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """What one call closed: finished examples, and how far time has come.

    Attributes:
        examples: one row per on-time first decision between the last frontier and this one, by
            offset, then the newest revision of each that came to have late feedback; the columns of
            the lake's table but topic, partition and event_date.
        frontier: every decision earlier than this is closed now.
        counts: feedback whose time is past without a decision, from the start of the log on.
        stream_times: what each log had come to when the close was due.
        advances: idle advances since the last close.
        examined: as in `Resume`, of now.
        revised: as in `Resume`, of now.
    """

    examples: pl.DataFrame
    frontier: datetime
    counts: Counts
    stream_times: Mapping[Log, datetime]
    advances: tuple[Advance, ...]
    examined: Mapping[Log, int] = field(default_factory=dict)
    revised: int = 0


def fitted(frame: pl.DataFrame, schema: pl.Schema, *more: str) -> pl.DataFrame:
    """Return the columns of *schema* and *more* of rows that were read from the lake.

    The lake has the fields of every version of the loop: those of other versions are left out, and
    those it does not have yet are null.
    """
    return frame.select(_column(frame, name, kind) for name, kind in schema.items()).with_columns(
        frame[name] for name in more
    )


def _column(frame: pl.DataFrame, name: str, kind: pl.DataType) -> pl.Expr:
    if name not in frame.columns:
        return pl.lit(None, dtype=kind).alias(name)
    have = frame.schema[name]
    if have == kind or not (isinstance(kind, pl.Struct) and isinstance(have, pl.Struct)):
        return pl.col(name).cast(kind)
    known = {field.name for field in have.fields}
    return pl.struct(
        pl.col(name).struct.field(part.name).cast(part.dtype)
        if part.name in known
        else pl.lit(None, dtype=part.dtype).alias(part.name)
        for part in kind.fields
    ).alias(name)
