"""The plan of an audit: its steps, none of which needs more than so many rows at once.

A log is looked at in runs of offsets. Event time is looked at in slices; each of them reads back as
far as its ids are remembered, so a slice is at least as long. A slice with too many rows is taken
in shares: all records of an id belong to the same share, so a share is as exact as the whole.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import duckdb

from tidemill.features.audit.slices import in_time
from tidemill.features.audit.spans import (
    BEGIN,
    FOREVER,
    AuditSlice,
    AuditSpan,
    OffsetRange,
    memory,
    micros,
)
from tidemill.features.lake.layouts import DECISIONS, FEEDBACK, table_of
from tidemill.features.sql.positions import stream_sql
from tidemill.schemas.logs import Log, first_position, number_of
from tidemill.schemas.loop.definition import Loop

_BUCKETS = 10_000  # of the time that is looked at; slices are made of whole ones
_SHORTEST = 1_000_000  # microseconds; a bucket is no shorter


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """The steps of an audit; *is_whole* unless only a share of the ids is looked at."""

    steps: tuple[OffsetRange | AuditSlice, ...]
    is_whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Makes the plan of an audit of *loop*.

    Attributes:
        tables: FROM items of the raw tables, by name.
        bounds: event time to look at, in microseconds.
        rows: so many records are compared at once.
        shares: so many shares of each slice are looked at, and so many runs of each log, the
            newest; None for all.
    """

    connection: duckdb.DuckDBPyConnection
    loop: Loop
    tables: Mapping[str, str]
    bounds: tuple[int, int]
    rows: int
    shares: int | None

    def plan(self, spans: Sequence[AuditSpan]) -> AuditPlan:
        """Return the steps for *spans*: the logs first, then time from the earliest on."""
        runs = {log: list(self._runs(log, spans)) for log in self.loop.logs}
        shares = list(self._shares(spans))
        if self.shares is None:
            return AuditPlan((*chain(*runs.values()), *shares), is_whole=True)
        is_whole = all(len(each) <= self.shares for each in runs.values())
        is_whole &= all(share.one_in <= self.shares for share in shares)
        newest = [run for each in runs.values() for run in each[-self.shares :]]
        return AuditPlan((*newest, *shares), is_whole)

    def _runs(self, log: Log, spans: Sequence[AuditSpan]) -> Iterator[OffsetRange]:
        begins = {span.partition: span.begin for span in spans}
        places = {}
        for span in spans:
            first = span.start.place(log)
            # a later look goes one row back, so that its first row has one before it
            if span.start != span.begin:
                first = max(first - 1, first_position(log))
            places[span.partition] = (first, span.end.place(log))
        if self.bounds != (BEGIN, FOREVER):
            query = _positions_sql(self.tables[table_of(log)], number_of(log), *self.bounds)
            found = self.connection.execute(query).fetchall()
            inside = {number: (first, behind) for number, first, behind in found}
            places = {
                number: (max(first, inside[number][0]), min(behind, inside[number][1]))
                for number, (first, behind) in places.items()
                if number in inside
            }
        step = max(1, self.rows // max(1, len(places)))
        while any(first < behind for first, behind in places.values()):
            yield OffsetRange(
                log=log,
                begins=begins,
                places={
                    number: (first, min(first + step, behind))
                    for number, (first, behind) in places.items()
                    if first < behind
                },
            )
            places = {n: (first + step, behind) for n, (first, behind) in places.items()}

    def _shares(self, spans: Sequence[AuditSpan]) -> Iterator[AuditSlice]:
        begins = {span.partition: span.begin for span in spans}
        for since, until, loaded in self._slices(spans):
            bounds = {
                span.partition: (max(since, span.start.frontier), min(until, span.end.frontier))
                for span in spans
            }
            bounds = {
                number: (first, last) for number, (first, last) in bounds.items() if first < last
            }
            if not bounds:
                continue
            one_in = max(1, -(-loaded // self.rows))
            for number in range(one_in if self.shares is None else min(self.shares, one_in)):
                # with few of many shares, those of the next slice are others
                yield AuditSlice(
                    bounds=bounds,
                    begins=begins,
                    one_in=one_in,
                    remainder=(number + since // _SHORTEST) % one_in,
                )

    def _slices(self, spans: Sequence[AuditSpan]) -> Iterator[tuple[int, int, int]]:
        """Return (since, until, rows to load) of stretches of time that have rows."""
        since = max(self.bounds[0], min((span.start.frontier for span in spans), default=FOREVER))
        until = min(self.bounds[1], max((span.end.frontier for span in spans), default=BEGIN))
        if since >= until:
            return
        reach = micros(self.loop.early + 2 * memory(self.loop))
        ((first,),) = self.connection.execute(
            _earliest_sql([self.tables[name] for name in (DECISIONS, FEEDBACK)], since - reach)
        ).fetchall()
        if first is None:
            return
        begin = max(since - reach, first)
        step = max(_SHORTEST, -(-(until - begin) // _BUCKETS))
        query = _histogram_sql(self.loop, self.tables, begin, until, step)
        counts = {int(k): int(n) for k, n in self.connection.execute(query).fetchall()}
        yield from _cut(counts, begin, step, since, until, reach, self.rows)


def _cut(
    counts: Mapping[int, int], begin: int, step: int, since: int, until: int, reach: int, rows: int
) -> Iterator[tuple[int, int, int]]:
    """Cut [*since*, *until*) where a slice has *rows* and is as long as it reaches back."""
    start: int | None = None
    held = 0
    for bucket, count in sorted(counts.items()):
        low, high = begin + bucket * step, begin + (bucket + 1) * step
        if high <= since:
            continue
        if start is not None and held >= rows and low - start >= reach:
            yield start, low, held + _between(counts, begin, step, start - reach, start)
            start = None
        if start is None:
            start, held = max(low, since), 0
        held += count
    if start is not None and start < until:
        yield start, until, held + _between(counts, begin, step, start - reach, start)


def _between(counts: Mapping[int, int], begin: int, step: int, since: int, until: int) -> int:
    return sum(n for k, n in counts.items() if since <= begin + k * step < until)


def _histogram_sql(loop: Loop, tables: Mapping[str, str], since: int, until: int, step: int) -> str:
    """Return a query for how many records there are in each *step* of time after *since*."""
    ahead = micros(loop.early)
    return f"""
        SELECT (at_us - {since}) // {step} AS bucket, count(*) FROM (
            SELECT epoch_us("at") AS at_us FROM {tables["decisions"]} d
            WHERE {in_time("d", since, until)}
            UNION ALL
            SELECT epoch_us("at") + {ahead} FROM {tables["feedback"]} f
            WHERE {in_time("f", since - ahead, until - ahead)}
        ) GROUP BY ALL ORDER BY ALL"""


def _earliest_sql(tables: Iterable[str], since: int) -> str:
    """Return a query for the time of the earliest record from *since* on."""
    times = (
        f'SELECT min("at") AS "at" FROM {table} t WHERE {in_time("t", since, None)}'
        for table in tables
    )
    return f'SELECT epoch_us(min("at")) FROM ({" UNION ALL ".join(times)})'


def _positions_sql(table: str, stream: int, since: int, until: int) -> str:
    """Return a query for the first place, and the one behind the last, in a stretch of time."""
    return f"""
        SELECT "partition", min("offset"), max("offset") + 1 FROM {table} t
        WHERE {in_time("t", since, until)} AND {stream_sql()} = {stream} GROUP BY ALL"""
