"""How many rows of the raw tables ended as what, by partition and stream: what the ledger counts.

It counts in the tables of one loop, without views, which DuckDB would bind once more.
"""

from collections.abc import Mapping

import duckdb

from tidemill.errors import LakeError
from tidemill.features.lake.lake import Table
from tidemill.features.lake.layouts import DECISIONS, FEEDBACK
from tidemill.features.sql.logged_items import of_decisions
from tidemill.features.sql.positions import offset_sql, stream_sql
from tidemill.features.sql.states import joined_feedback
from tidemill.features.sql.views import row_queries, versions_of
from tidemill.schemas.loop.definition import Loop

Counters = Mapping[str, int]
Stream = tuple[int, int]  # partition, and the number of the stream


def count_records(
    tables: Mapping[str, Table], loop: Loop, connection: duckdb.DuckDBPyConnection
) -> dict[str, dict[Stream, Counters]]:
    """Return the numbers of rows of the raw tables, by table, then by partition and stream.

    Raises:
        LakeError: the lake cannot be read.
    """
    if not any(table.uris(table.version_read) for table in tables.values()):
        return {DECISIONS: {}, FEEDBACK: {}}  # no file, no row: a new loop costs no query
    rows = row_queries(tables, loop, connection, versions_of(tables))
    parts = [f"{name} AS NOT MATERIALIZED ({query})" for name, query in rows.queries.items()]
    given = f"WITH {', '.join(parts)}, "
    feedback = _feedback_query(loop, revised=rows.is_revised)
    return {
        DECISIONS: _by_stream(connection, loop, given + _decisions_query(loop)),
        FEEDBACK: _by_stream(connection, loop, given + feedback),
    }


def _by_stream(
    connection: duckdb.DuckDBPyConnection, loop: Loop, query: str
) -> dict[Stream, Counters]:
    try:
        result = connection.execute(query)
    except duckdb.Error as error:
        raise LakeError(
            f"the rows of {loop.loop} cannot be counted: {str(error).splitlines()[0]}",
            hint="see what its tables have lost: tidemill audit",
        ) from error
    names = [column[0] for column in result.description]
    rows = (dict(zip(names, row, strict=True)) for row in result.fetchall())
    return {(row.pop("partition"), row.pop("stream")): row for row in rows}


# Both queries follow a WITH of `row_queries`.
_DECISIONS = """
    raw AS (
        SELECT d."partition", count(*) AS rows, count(DISTINCT "offset") AS offsets,
               min("offset") AS first,
               count(*) FILTER (verdict = 'late') AS late,
               count(*) FILTER (verdict = 'duplicate') AS duplicate,
               count(*) FILTER (verdict IS NULL AND coalesce(d.at >= frontier, true)) AS open
        FROM decisions d LEFT JOIN frontiers p USING ("partition")
        GROUP BY ALL
    ), closed AS (
        SELECT "partition", count(*) FILTER (state = 'labeled') AS labeled,
               count(*) FILTER (state = 'no_feedback') AS no_feedback,
               count(*) FILTER (state = 'censored') AS censored,
               count(*) FILTER (state = 'not_activated') AS not_activated,
               count(*) FILTER (state = 'label_error') AS label_error
        FROM {examples} GROUP BY ALL
    )
    SELECT "partition", 0 AS stream, coalesce(COLUMNS(* EXCLUDE "partition"), 0)
    FROM raw FULL JOIN closed USING ("partition")
"""


def _decisions_query(loop: Loop) -> str:
    """Return the query that counts decisions, not the items they have shown."""
    examples = "examples"
    if loop.decision.items is not None:
        examples = f"({of_decisions(examples)})"
    return _DECISIONS.format(examples=examples)


def _feedback_query(loop: Loop, *, revised: bool) -> str:
    early = loop.early.total_seconds()
    first = f"min({offset_sql('f')})"
    return f"""
        joined AS ({joined_feedback("", loop, revised=revised)}), raw AS (
            SELECT f."partition", {stream_sql("f")} AS stream,
                   count(*) AS rows, count(DISTINCT f."offset") AS offsets, {first} AS first,
                   count(*) FILTER (verdict = 'late') AS late,
                   count(*) FILTER (
                       f.verdict IS NULL AND j."offset" IS NULL
                       AND (coalesce(f.at + to_seconds({early}::DOUBLE) >= frontier, true)
                            OR coalesce(f."offset" >= examined, false))
                   ) AS open
            FROM feedback f LEFT JOIN frontiers p USING ("partition")
            LEFT JOIN examined x
                ON x."partition" = f."partition" AND x.stream = {stream_sql("f")}
            LEFT JOIN (SELECT DISTINCT "partition", "offset" FROM joined) j
                ON j."partition" = f."partition" AND j."offset" = f."offset"
            GROUP BY ALL
        ), closed AS (
            SELECT "partition", {stream_sql()} AS stream,
                   count(*) FILTER (revision = 0) AS joined,
                   count(*) FILTER (revision > 0) AS corrected
            FROM joined GROUP BY ALL
        )
        SELECT "partition", stream, coalesce(COLUMNS(* EXCLUDE ("partition", stream)), 0)
        FROM raw FULL JOIN closed USING ("partition", stream)
    """
