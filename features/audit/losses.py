"""Losses: rows of the lake that were committed and are gone, which no comparison of rows can show.

Each log was counted when it was committed, so a row that was removed later is missing in the count.
The offsets without a row tell where. Superseded revisions are counted too. A file that is newer
than the newest commit tells that a commit was taken away.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import duckdb

from tidemill.features.audit.report import AuditReport, Loss
from tidemill.features.lake.damage import uncommitted_files
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import EXAMPLES, TABLES, example_key, table_of
from tidemill.features.lake.progress_keys import DEAD_LETTERS, GAPS, OFFSET, REVISED
from tidemill.features.sql.positions import offset_sql, stream_sql
from tidemill.features.sql.views import open_duckdb, quoted, source
from tidemill.schemas.logs import Log, number_of
from tidemill.schemas.loop.definition import Loop

_SHOWN = 5


def _repair_hint(loop_name: str, partition: int) -> str:
    """Return how the rows of a partition are put back."""
    return (
        "put the rows back from the topics: `tidemill lake repair "
        f"{loop_name} --partition {partition}`"
    )


def with_losses(
    report: AuditReport, lake: Lake, loop: Loop, versions: Mapping[str, int]
) -> AuditReport:
    """Add to *report* what is gone of the tables of *loop* at *versions*.

    Raises:
        LakeError: the lake cannot be read.
    """
    with open_duckdb() as connection:
        found = [
            *(
                loss
                for log in loop.logs
                for loss in _lost_rows(connection, lake, loop, log, versions)
            ),
            *_lost_revisions(connection, lake, loop, versions),
            *_lost_commits(lake, loop),
        ]
    return replace(report, losses=(*report.losses, *found))


@dataclass(frozen=True, slots=True)
class _OffsetGap:
    """Consecutive offsets without a row."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}" if self.first == self.last else f"{self.first} to {self.last}"


def _lost_rows(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    loop: Loop,
    log: Log,
    versions: Mapping[str, int],
) -> Iterator[Loss]:
    table = lake.table(loop.loop, table_of(log))
    version = versions[table_of(log)]
    raw = source(connection, table, version).sql
    where = f"{stream_sql()} = {number_of(log)}"
    names = {name: name.for_log(log) for name in (OFFSET, DEAD_LETTERS, GAPS)}
    numbers = table.progress(
        (name.key(n) for name in names.values() for n in range(loop.partitions)), version
    )
    query = f"""
        SELECT "partition", min({offset_sql()}), count(DISTINCT "offset") FROM {raw}
        WHERE {where} GROUP BY ALL ORDER BY ALL"""
    for partition, first, rows in connection.execute(query).fetchall():
        read, dead, holes = (numbers[name.key(partition)] or 0 for name in names.values())
        lost = read - first - rows - dead - holes
        if lost > 0:
            gaps = _gaps(connection, f"{raw} WHERE {where}", partition, read)
            yield Loss(
                what=f"{log}, partition {partition}: {_lost(lost, gaps)}",
                hint=_repair_hint(loop.loop, partition),
            )


def _lost(lost: int, gaps: list[_OffsetGap]) -> str:
    """Say which rows are gone: dead letters and control batches have no row either."""
    offsets = sum(gap.last - gap.first + 1 for gap in gaps)
    shown = ", ".join(map(str, gaps[:_SHOWN]))
    more = f" and {len(gaps) - _SHOWN} more gaps" if len(gaps) > _SHOWN else ""
    rows = f"{lost:,} row{'s were' if lost > 1 else ' was'} removed"
    among = "" if offsets == lost else ", among dead letters and control batches"
    return f"{rows}, at offset{'s' if offsets > 1 else ''} {shown}{more}{among}"


def _gaps(
    connection: duckdb.DuckDBPyConnection, rows: str, partition: int, read: int
) -> list[_OffsetGap]:
    query = f"""
        SELECT before + 1, here - 1 FROM (
            SELECT {offset_sql()} AS here, lag({offset_sql()}) OVER (ORDER BY "offset") AS before
            FROM {rows} AND "partition" = {partition}
            UNION ALL SELECT {read}, max({offset_sql()}) FROM {rows} AND "partition" = {partition}
        ) WHERE here > before + 1 ORDER BY ALL"""
    return [_OffsetGap(first, last) for first, last in connection.execute(query).fetchall()]


def _lost_revisions(
    connection: duckdb.DuckDBPyConnection, lake: Lake, loop: Loop, versions: Mapping[str, int]
) -> Iterator[Loss]:
    table = lake.table(loop.loop, EXAMPLES)
    if "revision" not in table.schema:
        return
    examples = source(connection, table, versions[EXAMPLES]).sql
    key = example_key(table.schema)
    keys = {REVISED.key(n): n for n in range(loop.partitions)}
    counted = table.progress(keys, versions[EXAMPLES])
    query = f"""
        SELECT "partition", count(*) FILTER (revision > 0) FROM {examples} GROUP BY ALL"""
    written = dict(connection.execute(query).fetchall())
    for name, partition in keys.items():
        lost = (counted[name] or 0) - written.get(partition, 0)
        decisions = _broken_revisions(connection, examples, partition, key)
        if lost > 0 or any(first for _, first in decisions):
            missing = max(lost, 0) + sum(first for _, first in decisions)
            named = ", ".join(id_ for id_, _ in decisions[:_SHOWN])
            of = f", of decisions {named}" if named else ""
            yield Loss(
                what=f"examples, partition {partition}: {missing:,} superseded "
                f"revision{'s were' if missing > 1 else ' was'} removed{of}",
                hint=_repair_hint(loop.loop, partition),
            )


def _broken_revisions(
    connection: duckdb.DuckDBPyConnection, examples: str, partition: int, key: Sequence[str]
) -> list[tuple[str, bool]]:
    """Return the decisions whose revisions have a gap, and whether the first one is missing.

    Between two commits several revisions may have become one, so other gaps prove nothing.
    """
    query = f"""
        SELECT any_value(decision_id), min(coalesce(revision, 0)) > 0 FROM {examples}
        WHERE "partition" = {partition} GROUP BY {", ".join(map(quoted, key))}
        HAVING count(*) <= max(coalesce(revision, 0)) ORDER BY 2 DESC, 1"""
    return connection.execute(query).fetchall()


def _lost_commits(lake: Lake, loop: Loop) -> Iterator[Loss]:
    for name in TABLES:
        for file in uncommitted_files(lake.table(loop.loop, name)):
            yield Loss(
                what=f"{file}, and newer than the newest commit: its writer was killed, or that "
                "commit was taken away",
                hint=_lost_commit_hint(loop.loop, name),
            )


def _lost_commit_hint(loop_name: str, table: str) -> str:
    """Return how rows of no commit are made again; examples follow from the raw tables."""
    act = f"run `tidemill lake repair {loop_name}`" if table == EXAMPLES else "start a worker"
    return (
        f"{act}: it makes these rows again; or restore the entry of "
        f"{loop_name}/{table}/_delta_log from a copy"
    )
