"""What the logs imply of a slice of time: the table `EXPECTED`, and examples that are not there.

An example can be made again from the raw tables by the version of the loop that closed its window:
as of its close, and in the newest revision that this version made. Revisions between these two
cannot, because several may have been made as one; nor can those that a later version made.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import duckdb
import polars as pl

from tidemill.features.audit.fragments import (
    ITEM_OF_EXAMPLE,
    bounds_sql,
    in_share,
    in_slice,
    in_time,
    not_repeated,
    span_sql,
    values_sql,
    with_items_sql,
)
from tidemill.features.audit.judged import Relations
from tidemill.features.audit.oracle import oracle_sql
from tidemill.features.audit.plan import Planner
from tidemill.features.audit.spans import (
    BEGIN,
    FOREVER,
    NOTHING_READ,
    AuditSlice,
    AuditSpan,
    memory,
    micros,
    read_spans,
)
from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import (
    DECISIONS,
    EXAMPLES,
    FEEDBACK,
    TABLES,
    example_key,
    table_of,
    undated,
)
from tidemill.features.sql.bounded import bounded_duckdb
from tidemill.features.sql.frontiers import examined_positions, unexamined_positions
from tidemill.features.sql.positions import stream_sql
from tidemill.features.sql.revisions import same_example_sql
from tidemill.features.sql.views import quoted, snapshot, source
from tidemill.schemas.logs import Log, is_feedback, number_of
from tidemill.schemas.loop.definition import Loop

EXPECTED = "expected"
"""The temporary table with the result of `expected_sql`."""

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
    ((first,),) = connection.execute(_first_time_sql(loop, decisions, share)).fetchall()
    reach = micros(memory(loop))
    usual = share.since - micros(loop.early) - reach
    back = (usual if first is None else min(usual, first)) - reach
    expected = _expected_sql(loop, decisions, feedback, share, back, examined)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {EXPECTED} AS {expected}")


def _first_time_sql(loop: Loop, decisions: str, share: AuditSlice) -> str:
    """Return a query for the earliest stream time by which a decision of a slice was judged.

    Duplicates are recognised by stream time, which may be long before the event time of a decision
    that follows a pause.
    """
    since = share.since - micros(loop.early + memory(loop))
    return f"""
        SELECT epoch_us(min(least("at", stream_time))) FROM {decisions} d
        WHERE {in_time("d", since, share.until)}
          AND coalesce(stream_time <= "at" + {span_sql(loop.grace)}, true)"""


def _expected_sql(
    loop: Loop,
    decisions: str,
    feedback: str,
    share: AuditSlice,
    decisions_from: int,
    examined: Mapping[tuple[int, Log], int],
) -> str:
    """Return a query for the correct states of the records of a share, and of records before it.

    *decisions_from* is the time from which decisions are read, to recognise duplicates. *examined*
    is, by partition and log, the position before which feedback may have corrected an example.
    """
    ahead = micros(loop.early)
    waits = micros(loop.wait)
    ours = f't."partition" IN ({", ".join(map(str, share.bounds))})'

    def part(table: str, key: str, since: int, until: int, more: str = "") -> str:
        wanted = f"{in_time('t', since, until)} AND {ours} {more} {in_share(key, share)}"
        return f"(SELECT * FROM {table} t WHERE {wanted})"

    frontiers = values_sql((number, until) for number, (_, until) in share.bounds.items())
    # streams that a later version added did not exist when this one closed its decisions
    numbers = ", ".join(str(number_of(log)) for log in loop.logs if is_feedback(log))
    relations = Relations(
        decisions=part(decisions, "t.id", decisions_from, share.until),
        feedback=part(
            feedback,
            "t.decision_id",
            share.since - 2 * ahead - waits,
            share.until + waits,
            f"AND {stream_sql('t')} IN ({numbers})",
        ),
        begins=_begins(share),
        frontiers=(
            '(SELECT "partition"::INTEGER AS "partition", make_timestamptz(until) AS frontier'
            f' FROM (VALUES {frontiers}) AS t("partition", until))'
        ),
        examined=_examined_rows(examined),
    )
    return oracle_sql(loop, relations)


def _examined_rows(positions: Mapping[tuple[int, Log], int]) -> str:
    """Return the subquery for `Relations.examined`."""
    rows = values_sql((number, number_of(log), at) for (number, log), at in positions.items())
    none = "" if rows else " WHERE false"
    return (
        f'(SELECT * FROM (VALUES {rows or "(0, 0, 0)"}) AS t("partition", stream, examined){none})'
    )


def _begins(share: AuditSlice) -> str | None:
    """Return the subquery for `Relations.begins`; None if the version is the first."""
    known = {number: state for number, state in share.begins.items() if state != NOTHING_READ}
    if not known:
        return None
    rows = ", ".join(
        f"({number}, '{table_of(log)}', {number_of(log)}, {position}, {state.frontier})"
        for number, state in known.items()
        for log, position in state.positions.items()
    )
    return (
        '(SELECT "partition", log, stream, first, make_timestamptz(frontier) AS frontier'
        f' FROM (VALUES {rows}) AS t("partition", log, stream, first, frontier))'
    )


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
        yield _missing_sql(loop, tables, share, columns, "= 0")
        if loop.corrections:
            create_expected(connection, loop, raw, share, examined)
            yield _missing_sql(loop, tables, share, columns, "> 0")


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
    loop: Loop,
    tables: Mapping[str, str],
    share: AuditSlice,
    columns: Sequence[str],
    revisions: str,
) -> str:
    """Return a query for rows of `EXPECTED` with these *revisions* that are no examples."""
    values = {"decision_id": "d.id"}
    values |= {name: f"t.{name}" for name in _COMPUTED}
    values |= {**ITEM_OF_EXAMPLE, **not_repeated(loop)}
    chosen = ", ".join(
        f"{values.get(name, f'd.{quoted(name)}')} AS {quoted(name)}" for name in columns
    )
    revision = "coalesce(revision, 0)" if "revision" in columns else "0"
    key = example_key(columns)
    items = with_items_sql(tables[DECISIONS], share) if "position" in key else ""
    return f"""
        WITH bounds("partition", since, until) AS (VALUES {bounds_sql(share)})
        SELECT {chosen}
        FROM {tables[DECISIONS]} d JOIN bounds USING ("partition")
        JOIN {EXPECTED} t ON t.log = 'decisions'
             AND t."partition" = d."partition" AND t."offset" = d."offset"
        {items}
        ANTI JOIN (SELECT {", ".join(map(quoted, key))}, {revision} AS revision
                   FROM {tables[EXAMPLES]}) e
             ON {same_example_sql("e", "t", key)} AND e.revision = t.revision
        WHERE t.revision {revisions} AND {in_slice("d", share)} {in_share("d.id", share)}"""
