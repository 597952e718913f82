"""The audit: is what the stream wrote what its logs mean? Computed anew by DuckDB, row by row.

It reads one set of versions of the tables that fit together (`views.snapshot`), so workers may go
on committing. The logs are looked at in runs of offsets, event time in slices, and a slice with too
many rows id by id: memory stays bounded however large the lake is. What the join means is told by
`oracle.py`, which shares no code with it. The audit writes nothing.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb

from tidemill.features.audit.plan import Planner
from tidemill.features.audit.queries import (
    TOLD,
    compared_sql,
    first_time_sql,
    last_sql,
    readings_sql,
    settled_sql,
    told_sql,
    windows_sql,
)
from tidemill.features.audit.report import AuditReport, Difference, by_time
from tidemill.features.audit.spans import (
    BEGIN,
    COUNTERS,
    FOREVER,
    AuditSlice,
    AuditSpan,
    OffsetRange,
    can_be_counted,
    memory,
    micros,
    read_spans,
)
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import DECISIONS, EXAMPLES, FEEDBACK, TABLES, table_of
from tidemill.features.sql.bounded import bounded_duckdb
from tidemill.features.sql.frontiers import examined_positions, unexamined_positions
from tidemill.features.sql.positions import shown_positions
from tidemill.features.sql.views import newest_examples, snapshot, source
from tidemill.schemas.logs import Log, offset_of, stream_of
from tidemill.schemas.loop.definition import Loop

_AT_CLOSE = "examples at close"

OnStep = Callable[[int, int], None]
"""Told how many steps are done, and how many there are."""

Interrupt = Callable[[], None]
"""Ends the query that runs, from another thread; the audit raises `duckdb.InterruptException`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What an audit may take of the machine.

    Attributes:
        memory_mb: of DuckDB; what does not fit goes to a temporary folder.
        threads: None for one a core.
        rows: about so many records are compared at once.
        shares: of each slice of time at most so many shares of ids, and of each log so many runs
            of records; None for all of them.
        shown: so many differences are named; all are counted.
    """

    memory_mb: int = 1_024
    threads: int | None = None
    rows: int = 1_000_000
    shares: int | None = None
    shown: int = 20


def audit(
    lake: Lake,
    loop_name: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    effort: Effort | None = None,
    on_step: OnStep = lambda _done, _steps: None,
) -> AuditReport:
    """Compare every closed decision made in [*since*, *until*) with what its logs mean.

    Bounded by neither, the counts of feedback without a decision are compared too.

    Raises:
        LakeError: the lake cannot be read.
    """
    definitions = lake.definitions(loop_name)
    versions = snapshot(lake, definitions[-1])
    bounds = (
        BEGIN if since is None else micros(since),
        FOREVER if until is None else micros(until),
    )
    return audit_spans(
        lake,
        read_spans(lake, definitions, versions),
        versions,
        bounds=bounds,
        effort=effort or Effort(),
        on_step=on_step,
    )


def audit_spans(
    lake: Lake,
    work: Sequence[tuple[Loop, Sequence[AuditSpan]]],
    versions: Mapping[str, int],
    *,
    bounds: tuple[int, int] = (BEGIN, FOREVER),
    effort: Effort,
    on_step: OnStep = lambda _done, _steps: None,
    on_begin: Callable[[Interrupt], None] = lambda _interrupt: None,
) -> AuditReport:
    """Compare what each version of a loop closed and read with what the logs mean.

    Args:
        lake: where the tables are.
        work: versions of one loop, and what each of them did.
        versions: of the tables, by name.
        bounds: event time to look at, in microseconds.
        effort: what it may take.
        on_step: told after every step.
        on_begin: told how to give it up.

    Raises:
        LakeError: the lake cannot be read, or the memory is not enough.
    """
    started = time.monotonic()
    name = work[-1][0].loop
    with bounded_duckdb(
        f"the audit of {name}", memory_mb=effort.memory_mb, threads=effort.threads
    ) as connection:
        on_begin(connection.interrupt)
        handles = {table: lake.table(name, table) for table in TABLES}
        tables = {
            table: source(connection, handle, versions[table]).sql
            for table, handle in handles.items()
        }
        newest = newest_examples(connection, handles[EXAMPLES], work[-1][0], versions[EXAMPLES])
        columns = list(handles[EXAMPLES].schema)
        first = "WHERE coalesce(revision, 0) = 0" if "revision" in columns else ""
        tables[_AT_CLOSE] = f"(SELECT * FROM {tables[EXAMPLES]} {first})"
        tables[EXAMPLES] = newest.sql
        examined = examined_positions(handles[EXAMPLES], work[-1][0], versions[EXAMPLES])
        plans = [
            Planner(
                connection=connection,
                loop=loop,
                tables=tables,
                bounds=bounds,
                rows=effort.rows,
                shares=effort.shares,
            ).plan(spans)
            for loop, spans in work
        ]
        steps = [
            (loop, step) for (loop, _), plan in zip(work, plans, strict=True) for step in plan.steps
        ]
        look = _Look(connection, tables, columns, effort.shown, examined)
        for done, (loop, step) in enumerate(steps):
            on_step(done, len(steps))
            if isinstance(step, OffsetRange):
                look.at_run(loop, step)
            else:
                look.at_share(loop, step, is_last=loop is work[-1][0])
        on_step(len(steps), len(steps))
        is_whole = all(plan.is_whole for plan in plans)
        if is_whole and bounds == (BEGIN, FOREVER) and can_be_counted(work):
            look.at_counts([span for _, spans in work for span in spans])
    return look.report(name, versions, time.monotonic() - started, is_whole=is_whole)


class _Look:
    """Takes the steps of one audit, and keeps what was found."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        tables: Mapping[str, str],
        columns: Sequence[str],
        shown: int,
        examined: Mapping[tuple[int, Log], int],
    ) -> None:
        self._connection = connection
        self._tables = tables
        self._columns = columns
        self._shown = shown
        self._examined = examined
        self._last: dict[Log, dict[int, tuple[int, int, int | None]]] = {}
        self._counted: Counter[tuple[int, str]] = Counter()
        self._seen: Counter[str] = Counter()
        self._wrong = 0
        self._first: list[Difference] = []

    def at_run(self, loop: Loop, run: OffsetRange) -> None:
        """Look whether the records of a stretch of a log were judged by that log."""
        table, last = self._tables[table_of(run.log)], self._last.setdefault(run.log, {})
        known = {n: row for n, row in last.items() if n in run.places}
        query = readings_sql(loop, table, run, known)
        self._note(loop, query, run.log)
        rows = self._connection.execute(last_sql(table, run.places)).fetchall()
        for partition, place, at, stream_time, count in rows:
            last[partition] = (place, at, stream_time)
            self._seen["records"] += count

    def at_share(self, loop: Loop, share: AuditSlice, *, is_last: bool) -> None:
        """Look whether the examples of a slice of time are what its records make.

        What an earlier version closed, *is_last* being false, a later one may have corrected by
        other rules: only its examples as of their close are looked at.
        """
        examples = self._tables[EXAMPLES if is_last else _AT_CLOSE]
        examined = self._examined if is_last else unexamined_positions(loop, share.bounds)
        decisions, feedback = self._tables[DECISIONS], self._tables[FEEDBACK]
        ((first,),) = self._connection.execute(first_time_sql(loop, decisions, share)).fetchall()
        reach = micros(memory(loop))
        usual = share.since - micros(loop.early) - reach
        back = (usual if first is None else min(usual, first)) - reach
        told = told_sql(loop, decisions, feedback, share, back, examined)
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE {TOLD} AS {told}")
        query = windows_sql(decisions, examples, self._columns, share)
        self._note(loop, query, DECISIONS)
        (row,) = self._connection.execute(compared_sql(decisions, share)).fetchall()
        self._seen["decisions"] += row[0]
        settled = self._connection.execute(settled_sql(loop, feedback, share)).fetchall()
        for partition, count, *counts in settled:
            self._seen["feedback"] += count
            for name, number in zip(COUNTERS, counts, strict=True):
                self._counted[partition, name] += number
        self._connection.execute(f"DROP TABLE {TOLD}")

    def at_counts(self, spans: Sequence[AuditSpan]) -> None:
        """Look whether as much feedback was counted as went without a decision."""
        firsts = {span.partition: span.start for span in reversed(spans)}
        lasts = {span.partition: span.end for span in spans}
        for number, last in lasts.items():
            before, after = firsts[number].counts, last.counts
            if before is None or after is None:
                continue
            columns = {}
            for name in COUNTERS:
                stream, told = after[name] - before[name], self._counted[number, name]
                if stream != told:
                    columns[name] = (str(stream), str(told))
            if columns:
                self._wrong += 1
                self._keep([Difference(log="counts", partition=number, columns=columns)])

    def report(
        self, loop_name: str, versions: Mapping[str, int], seconds: float, *, is_whole: bool
    ) -> AuditReport:
        """Return what was found."""
        return AuditReport(
            loop=loop_name,
            versions=dict(versions),
            records=self._seen["records"],
            decisions=self._seen["decisions"],
            feedback=self._seen["feedback"],
            differences=self._wrong,
            first=tuple(self._first),
            is_whole=is_whole,
            seconds=seconds,
        )

    def _note(self, loop: Loop, query: str, log: Log) -> None:
        """Keep the rows of *query*: those that differ, the first of them by name."""
        ordered = f'SELECT *, count(*) OVER () FROM ({query}) ORDER BY "at", "partition", "offset"'
        rows = self._connection.execute(f"{ordered} LIMIT {self._shown}").fetchall()
        self._wrong += rows[0][-1] if rows else 0
        self._keep(
            Difference(
                log=table_of(log),
                stream=stream_of(log),
                partition=partition,
                offset=offset_of(place),
                id=id_,
                at=at,
                columns={each["column"]: _told(each, loop.logs) for each in columns},
            )
            for partition, place, id_, at, columns, _count in rows
        )

    def _keep(self, found: Iterable[Difference]) -> None:
        """Keep as many of all that was *found* as are shown, the earliest."""
        self._first = sorted([*self._first, *found], key=by_time)[: self._shown]


def _told(found: Mapping[str, str | None], logs: Sequence[Log]) -> tuple[str | None, str | None]:
    """Return what the stream and the audit say of one column, as a person reads it."""
    told = found["stream"], found["audit"]
    if found["column"] != "feedback_offsets":
        return told
    return shown_positions(told[0], logs), shown_positions(told[1], logs)
