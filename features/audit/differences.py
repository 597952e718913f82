"""Every record for which the oracle and the lake differ, in one query.

It is for tests, and for lakes that fit into memory; `audit.py` compares in slices.
"""

import duckdb
import polars as pl

from tidemill.features.audit.judged import Relations
from tidemill.features.audit.oracle import oracle_sql
from tidemill.schemas.loop.definition import Loop


def differences(
    connection: duckdb.DuckDBPyConnection, loop: Loop, schema: str, *, idle: bool = True
) -> pl.DataFrame:
    """Return every record for which the lake differs from the oracle.

    Args:
        connection: has the views of `tidemill.features.sql.views` for *loop*.
        loop: the definition, of the version that wrote the rows.
        schema: the schema of those views.
        idle: as in `Relations`.

    Returns:
        log, partition, offset, id; state, label, feedback_offsets and revision as they must be
        and, with the suffix ``_found``, as they are; null where one side has no such record. A
        record that the lake has twice is returned twice.
    """
    relations = Relations(
        decisions=f"{schema}.decisions",
        feedback=f"{schema}.feedback",
        frontiers=f"{schema}.frontiers",
        examined=f"{schema}.examined",
        idle=idle,
    )
    has_items = loop.decision.items is not None
    position, more = ("position", "") if has_items else ("NULL::INTEGER", ", NULL AS position")
    query = f"""
        WITH oracle AS (SELECT *{more} FROM ({oracle_sql(loop, relations)})),
        stored AS (
            SELECT 'decisions' AS log, d."partition", d."offset", {position} AS position,
                   coalesce(d.verdict, e.state, 'open') AS state, e.label, e.feedback_offsets,
                   CASE WHEN e.feedback_offsets IS NOT NULL
                        THEN coalesce(e.revision, 0) END AS revision
            FROM {schema}.decisions d LEFT JOIN {schema}.examples e
              ON d.verdict IS NULL AND e."partition" = d."partition" AND e."offset" = d."offset"
            UNION ALL BY NAME
            SELECT 'feedback' AS log, "partition", "offset",
                   CASE state WHEN 'misplaced' THEN 'unmatched' ELSE state END AS state
            FROM {schema}.feedback_states
        ),
        counted AS (
            SELECT *, count(*) OVER (PARTITION BY log, "partition", "offset", position) AS times
            FROM stored
        )
        SELECT coalesce(o.log, s.log) AS log, coalesce(o."partition", s."partition") AS "partition",
               coalesce(o."offset", s."offset") AS "offset", o.id,
               o.state, o.label, o.feedback_offsets, o.revision,
               s.state AS state_found, s.label AS label_found,
               s.feedback_offsets AS feedback_offsets_found, s.revision AS revision_found
        FROM oracle o FULL JOIN counted s
          ON o.log = s.log AND o."partition" = s."partition" AND o."offset" = s."offset"
         AND o.position IS NOT DISTINCT FROM s.position
        WHERE o.state IS DISTINCT FROM s.state OR o.label IS DISTINCT FROM s.label
           OR o.feedback_offsets IS DISTINCT FROM s.feedback_offsets
           OR o.revision IS DISTINCT FROM s.revision OR s.times > 1
        ORDER BY log, "partition", "offset"
    """
    return pl.DataFrame(connection.sql(query).to_arrow_table())
