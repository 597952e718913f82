"""What the logs imply of a slice of time: the table `EXPECTED`, and examples that are not there.

An example can be made again from the raw tables by the version of the loop that closed its window:
as of its close, and in the newest revision that this version made. Revisions between these two
cannot, because several may have been made as one; nor can those that a later version made.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import duckdb
import polars as pl

from tidemill.features.audit.plan import Planner
from tidemill.features.audit.queries import EXPECTED, expected_sql, first_time_sql
from tidemill.features.audit.slices import bounds_sql, in_share, in_slice
from tidemill.features.audit.spans import (
    BEGIN,
    FOREVER,
    AuditSlice,
    AuditSpan,
    memory,
    micros,
    read_spans,
)
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import DECISIONS, EXAMPLES, FEEDBACK, TABLES, undated
from tidemill.features.sql.bounded import bounded_duckdb
from tidemill.features.sql.frontiers import examined_positions, unexamined_positions
from tidemill.features.sql.views import quoted, snapshot, source
from tidemill.schemas.logs import Log, is_feedback
from tidemill.schemas.loop.definition import Loop

_ROWS = 1_000_000
_MEMORY_MB = 1_024
_COMPUTED = ("state", "label", "feedback_offsets", "first_feedback_at", "revision")

Examined = Mapping[tuple[int, Log], int]


def create_expected(
    connection: duckdb.DuckDBPyConnection,
    loop: Loop,
    raw: tuple[str, str],
    share: AuditSlice,
    examined: Examined,
) -> None:
    """Create the table `EXPECTED` of *share*; *raw* are FROM items of decisions and feedback."""
    decisions, feedback = raw
    ((first,),) = connection.execute(first_time_sql(loop, decisions, share)).fetchall()
    reach = micros(memory(loop))
    usual = share.since - micros(loop.early) - reach
    back = (usual if first is None else min(usual, first)) - reach
    expected = expected_sql(loop, decisions, feedback, share, back, examined)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {EXPECTED} AS {expected}")


def lost_examples(
    lake: Lake, loop_name: str, partitions: Collection[int] | None = None
) -> pl.DataFrame:
    """Return the examples that the raw tables imply and the lake has not.

    The raw tables have to be whole. *partitions* are those to look at; None for all.

    Raises:
        LakeError: the lake cannot be read, or the memory does not suffice.
    """
    definitions = lake.definitions(loop_name)
    newest = definitions[-1]
    versions = snapshot(lake, newest)
    handles = {name: lake.table(loop_name, name) for name in TABLES}
    schema = undated(handles[EXAMPLES].schema)
    found = [pl.DataFrame(schema=schema)]
    with bounded_duckdb(f"the repair of {loop_name}", memory_mb=_MEMORY_MB) as connection:
        tables = {
            name: source(connection, handle, versions[name]).sql for name, handle in handles.items()
        }
        examined = examined_positions(handles[EXAMPLES], newest, versions[EXAMPLES])
        for loop, spans in read_spans(lake, definitions, versions):
            ours = [each for each in spans if partitions is None or each.partition in partitions]
            known = examined if loop is newest else _examined_before(loop, ours)
            found += (
                pl.DataFrame(connection.sql(query).to_arrow_table()).cast(schema)
                for query in _missing(connection, loop, tables, ours, known, list(schema))
            )
    return pl.concat(found)


def _examined_before(loop: Loop, spans: Sequence[AuditSpan]) -> Examined:
    """Return which feedback a version of *loop* had compared when the next one took over."""
    logs = [log for log in loop.logs if is_feedback(log)]
    return {(span.partition, log): span.end.position(log) for span in spans for log in logs}


def _missing(
    connection: duckdb.DuckDBPyConnection,
    loop: Loop,
    tables: Mapping[str, str],
    spans: Sequence[AuditSpan],
    examined: Examined,
    columns: Sequence[str],
) -> Iterator[str]:
    """Yield queries for the lost examples of *spans*, each to be executed before the next."""
    raw = tables[DECISIONS], tables[FEEDBACK]
    for share in _shares(connection, loop, tables, spans):
        at_close = unexamined_positions(loop, share.bounds)
        create_expected(connection, loop, raw, share, at_close)
        yield _missing_sql(tables, share, columns, "= 0")
        if loop.corrections:
            create_expected(connection, loop, raw, share, examined)
            yield _missing_sql(tables, share, columns, "> 0")


def _shares(
    connection: duckdb.DuckDBPyConnection,
    loop: Loop,
    tables: Mapping[str, str],
    spans: Sequence[AuditSpan],
) -> list[AuditSlice]:
    plan = Planner(
        connection=connection,
        loop=loop,
        tables=tables,
        bounds=(BEGIN, FOREVER),
        rows=_ROWS,
        shares=None,
    ).plan(spans)
    return [step for step in plan.steps if isinstance(step, AuditSlice)]


def _missing_sql(
    tables: Mapping[str, str], share: AuditSlice, columns: Sequence[str], revisions: str
) -> str:
    """Return a query for rows of `EXPECTED` with these *revisions* that are no examples."""
    values = {"decision_id": "d.id"}
    values |= {name: f"t.{name}" for name in _COMPUTED}
    chosen = ", ".join(
        f"{values.get(name, f'd.{quoted(name)}')} AS {quoted(name)}" for name in columns
    )
    revision = "coalesce(revision, 0)" if "revision" in columns else "0"
    return f"""
        WITH bounds("partition", since, until) AS (VALUES {bounds_sql(share)})
        SELECT {chosen}
        FROM {tables[DECISIONS]} d JOIN bounds USING ("partition")
        JOIN {EXPECTED} t ON t.log = 'decisions'
             AND t."partition" = d."partition" AND t."offset" = d."offset"
        ANTI JOIN (SELECT "partition", "offset", {revision} AS revision
                   FROM {tables[EXAMPLES]}) e
             ON e."partition" = d."partition" AND e."offset" = d."offset"
            AND e.revision = t.revision
        WHERE t.revision {revisions} AND {in_slice("d", share)} {in_share("d.id", share)}"""
