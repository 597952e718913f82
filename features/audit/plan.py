"""The plan of an audit: steps that each read a bounded number of rows.

Logs are checked in ranges of offsets, event time in slices. A slice must also read the time before
it for which ids are remembered, so it is at least as long as that. A slice with too many rows is
split into shares of ids: a share has all records of its ids, so its result is exact.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import duckdb

from tidemill.features.audit.fragments import in_time
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

_BUCKETS = 10_000  # of the audited time; slices consist of whole buckets
_SHORTEST = 1_000_000  # microseconds; the least length of a bucket


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """The steps of an audit; *is_whole* is false if only a share of the ids is checked."""

    steps: tuple[OffsetRange | AuditSlice, ...]
    is_whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Makes the plan of an audit of *loop*.

    Attributes:
        tables: FROM items of the raw tables, by name.
        bounds: the event time to check, in microseconds.
        rows: how many records a step reads, approximately.
        shares: how many shares of each slice, and how many of the newest ranges of each log, are
            checked; None for all.
    """

    connection: duckdb.DuckDBPyConnection
    loop: Loop
    tables: Mapping[str, str]
    bounds: tuple[int, int]
    rows: int
    shares: int | None

    def plan(self, spans: Sequence[AuditSpan]) -> AuditPlan:
        """Return the steps for *spans*: the logs first, then slices of time in order."""
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
        ranges = {}
        for span in spans:
            first = span.start.position(log)
            # a later audit starts one row earlier: each row is compared with the one before
            if span.start != span.begin:
                first = max(first - 1, first_position(log))
            ranges[span.partition] = (first, span.end.position(log))
        if self.bounds != (BEGIN, FOREVER):
            query = _positions_sql(self.tables[table_of(log)], number_of(log), *self.bounds)
            rows = self.connection.execute(query).fetchall()
            inside = {number: (first, behind) for number, first, behind in rows}
            ranges = {
                number: (max(first, inside[number][0]), min(behind, inside[number][1]))
                for number, (first, behind) in ranges.items()
                if number in inside
            }
        step = max(1, self.rows // max(1, len(ranges)))
        while any(first < behind for first, behind in ranges.values()):
            yield OffsetRange(
                log=log,
                begins=begins,
                ranges={
                    number: (first, min(first + step, behind))
                    for number, (first, behind) in ranges.items()
                    if first < behind
                },
            )
            ranges = {n: (first + step, behind) for n, (first, behind) in ranges.items()}

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
                # the next slice begins with another share, so that few shares cover many ids
                yield AuditSlice(
                    bounds=bounds,
                    begins=begins,
                    one_in=one_in,
                    remainder=(number + since // _SHORTEST) % one_in,
                )

    def _slices(self, spans: Sequence[AuditSpan]) -> Iterator[tuple[int, int, int]]:
        """Yield (since, until, rows to read) of slices of time that have rows."""
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
    """Cut [*since*, *until*) into slices of about *rows* rows, each at least as long as *reach*."""
    start: int | None = None
    size = 0
    for bucket, count in sorted(counts.items()):
        low, high = begin + bucket * step, begin + (bucket + 1) * step
        if high <= since:
            continue
        if start is not None and size >= rows and low - start >= reach:
            yield start, low, size + _between(counts, begin, step, start - reach, start)
            start = None
        if start is None:
            start, size = max(low, since), 0
        size += count
    if start is not None and start < until:
        yield start, until, size + _between(counts, begin, step, start - reach, start)


def _between(counts: Mapping[int, int], begin: int, step: int, since: int, until: int) -> int:
    return sum(n for k, n in counts.items() if since <= begin + k * step < until)


def _histogram_sql(loop: Loop, tables: Mapping[str, str], since: int, until: int, step: int) -> str:
    """Return a query for the number of records in each *step* of time after *since*."""
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
    """Return a query for the first position, and the one behind the last, in a span of time."""
    return f"""
        SELECT "partition", min("offset"), max("offset") + 1 FROM {table} t
        WHERE {in_time("t", since, until)} AND {stream_sql()} = {stream} GROUP BY ALL"""
