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
    query = f"""
        WITH oracle AS ({oracle_sql(loop, relations)}),
        stored AS (
            SELECT 'decisions' AS log, "partition", "offset", state, label, feedback_offsets,
                   CASE WHEN feedback_offsets IS NOT NULL THEN coalesce(revision, 0) END AS revision
            FROM {schema}.decision_states
            UNION ALL BY NAME
            SELECT 'feedback' AS log, "partition", "offset",
                   CASE state WHEN 'misplaced' THEN 'unmatched' ELSE state END AS state
            FROM {schema}.feedback_states
        ),
        counted AS (
            SELECT *, count(*) OVER (PARTITION BY log, "partition", "offset") AS times FROM stored
        )
        SELECT log, "partition", "offset", o.id, o.state, o.label, o.feedback_offsets, o.revision,
               s.state AS state_found, s.label AS label_found,
               s.feedback_offsets AS feedback_offsets_found, s.revision AS revision_found
        FROM oracle o FULL JOIN counted s USING (log, "partition", "offset")
        WHERE o.state IS DISTINCT FROM s.state OR o.label IS DISTINCT FROM s.label
           OR o.feedback_offsets IS DISTINCT FROM s.feedback_offsets
           OR o.revision IS DISTINCT FROM s.revision OR s.times > 1
        ORDER BY log, "partition", "offset"
    """
    return pl.DataFrame(connection.sql(query).to_arrow_table())
