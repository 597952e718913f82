"""The audit: compare every row that the stream wrote with what its logs imply.

It reads one consistent set of versions of the tables (`views.snapshot`), so workers may go on
committing. It checks logs in ranges of offsets, time in slices, and slices with many rows in shares
of ids, so its memory is bounded for a lake of any size. `oracle.py` computes what they must be.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb

from tidemill.features.audit.expected import EXPECTED, create_expected
from tidemill.features.audit.losses import with_losses
from tidemill.features.audit.plan import Planner
from tidemill.features.audit.queries import (
    compared_sql,
    example_differences_sql,
    last_sql,
    raw_differences_sql,
    settled_sql,
)
from tidemill.features.audit.report import AuditReport, Difference, by_time
from tidemill.features.audit.spans import (
    BEGIN,
    COUNTERS,
    FOREVER,
    AuditSlice,
    AuditSpan,
    OffsetRange,
    bounds_of,
    can_be_counted,
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
"""Called with the number of steps done, and of all steps."""

Interrupt = Callable[[], None]
"""Interrupts the audit from another thread; it then raises `duckdb.InterruptException`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much of the machine an audit may use.

    Attributes:
        memory_mb: the memory of DuckDB; it spills the rest to a temporary folder.
        threads: None for one per core.
        rows: how many records a step compares, approximately.
        shares: how many shares of ids of each slice, and how many ranges of each log, are checked
            at most; None for all.
        shown: how many differences are returned; all are counted.
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
    """Compare every closed decision made in [*since*, *until*) with what its logs imply.

    Without bounds, it compares the counts of feedback that joined nothing too.

    Raises:
        LakeError: the lake cannot be read.
    """
    definitions = lake.definitions(loop_name)
    versions = snapshot(lake, definitions[-1])
    report = audit_spans(
        lake,
        read_spans(lake, definitions, versions),
        versions,
        bounds=bounds_of(since, until),
        effort=effort or Effort(),
        on_step=on_step,
    )
    return with_losses(report, lake, definitions[-1], versions)


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
    """Compare what each version of a loop read and closed with what the logs imply.

    Args:
        lake: where the tables are.
        work: versions of one loop, and the spans of each.
        versions: the versions of the tables, by name.
        bounds: the event time to check, in microseconds.
        effort: how much of the machine it may use.
        on_step: called after every step.
        on_begin: called with the function that interrupts it.

    Raises:
        LakeError: the lake cannot be read, or the memory does not suffice.
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
        checker = _Checker(connection, tables, columns, effort.shown, examined)
        for done, (loop, step) in enumerate(steps):
            on_step(done, len(steps))
            if isinstance(step, OffsetRange):
                checker.check_range(loop, step)
            else:
                checker.check_share(loop, step, is_last=loop is work[-1][0])
        on_step(len(steps), len(steps))
        is_whole = all(plan.is_whole for plan in plans)
        if is_whole and bounds == (BEGIN, FOREVER) and can_be_counted(work):
            checker.check_counts([span for _, spans in work for span in spans])
    return checker.report(name, versions, time.monotonic() - started, is_whole=is_whole)


class _Checker:
    """Executes the steps of one audit, and collects the differences."""

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
        self._checked: Counter[str] = Counter()
        self._differences = 0
        self._first: list[Difference] = []

    def check_range(self, loop: Loop, run: OffsetRange) -> None:
        """Compare the stream time and the verdict of records with what their log implies."""
        table, last = self._tables[table_of(run.log)], self._last.setdefault(run.log, {})
        known = {n: row for n, row in last.items() if n in run.ranges}
        query = raw_differences_sql(loop, table, run, known)
        self._compare(loop, query, run.log)
        rows = self._connection.execute(last_sql(table, run.ranges)).fetchall()
        for partition, position, at, stream_time, count in rows:
            last[partition] = (position, at, stream_time)
            self._checked["records"] += count

    def check_share(self, loop: Loop, share: AuditSlice, *, is_last: bool) -> None:
        """Compare the examples of a slice of time with what its records imply.

        For an earlier version (*is_last* is false) only the examples as of their close are
        compared, because a later version may have corrected them by other rules.
        """
        examples = self._tables[EXAMPLES if is_last else _AT_CLOSE]
        examined = self._examined if is_last else unexamined_positions(loop, share.bounds)
        decisions, feedback = self._tables[DECISIONS], self._tables[FEEDBACK]
        create_expected(self._connection, loop, (decisions, feedback), share, examined)
        query = example_differences_sql(loop, decisions, examples, self._columns, share)
        self._compare(loop, query, DECISIONS)
        (row,) = self._connection.execute(compared_sql(decisions, share)).fetchall()
        self._checked["decisions"] += row[0]
        settled = self._connection.execute(settled_sql(loop, feedback, share)).fetchall()
        for partition, count, *counts in settled:
            self._checked["feedback"] += count
            for name, number in zip(COUNTERS, counts, strict=True):
                self._counted[partition, name] += number
        self._connection.execute(f"DROP TABLE {EXPECTED}")

    def check_counts(self, spans: Sequence[AuditSpan]) -> None:
        """Compare the counts of feedback that joined nothing with what the oracle counted."""
        firsts = {span.partition: span.start for span in reversed(spans)}
        lasts = {span.partition: span.end for span in spans}
        for number, last in lasts.items():
            before, after = firsts[number].counts, last.counts
            if before is None or after is None:
                continue
            columns = {}
            for name in COUNTERS:
                stream, oracle = after[name] - before[name], self._counted[number, name]
                if stream != oracle:
                    columns[name] = (str(stream), str(oracle))
            if columns:
                self._differences += 1
                self._collect([Difference(log="counts", partition=number, columns=columns)])

    def report(
        self, loop_name: str, versions: Mapping[str, int], seconds: float, *, is_whole: bool
    ) -> AuditReport:
        """Return the result."""
        return AuditReport(
            loop=loop_name,
            versions=dict(versions),
            records=self._checked["records"],
            decisions=self._checked["decisions"],
            feedback=self._checked["feedback"],
            differences=self._differences,
            first=tuple(self._first),
            is_whole=is_whole,
            seconds=seconds,
        )

    def _compare(self, loop: Loop, query: str, log: Log) -> None:
        """Count the rows of *query*, which are differences, and collect the first of them."""
        by = '"at", "partition", "offset", 3'
        ordered = f"SELECT *, count(*) OVER () FROM ({query}) ORDER BY {by}"
        rows = self._connection.execute(f"{ordered} LIMIT {self._shown}").fetchall()
        self._differences += rows[0][-1] if rows else 0
        self._collect(
            Difference(
                log=table_of(log),
                stream=stream_of(log),
                partition=partition,
                offset=offset_of(offset),
                position=position,
                id=id_,
                at=at,
                columns={each["column"]: _values(each, loop.logs) for each in columns},
            )
            for partition, offset, position, id_, at, columns, _count in rows
        )

    def _collect(self, differences: Iterable[Difference]) -> None:
        """Collect *differences*, of which the earliest are shown."""
        self._first = sorted([*self._first, *differences], key=by_time)[: self._shown]


def _values(column: Mapping[str, str | None], logs: Sequence[Log]) -> tuple[str | None, str | None]:
    """Return the values of one column from the stream and from the audit, for people."""
    stream, audit = column["stream"], column["audit"]
    if column["column"] != "feedback_offsets":
        return stream, audit
    return shown_positions(stream, logs), shown_positions(audit, logs)
