"""The state of every record, as SQL over the views of a loop.

`views.py` defines the views `decision_states` and `feedback_states` by it; `monitor/trace.py` uses
the same queries for the rows of one id.
"""

from datetime import timedelta

from tidemill.features.sql.logged_items import is_shown_sql, of_decisions
from tidemill.features.sql.misplaced import unmet_sql
from tidemill.features.sql.positions import KAFKA_OFFSET, has_streams, offset_sql, stream_sql
from tidemill.schemas.loop.definition import Loop


def decision_states(schema: str, loop: Loop) -> str:
    """Return the query for the state of every decision record.

    Where decisions have items, it says how many were shown, and how many of them have a label.
    """
    if loop.decision.items is not None:
        return f"""
            SELECT d.id, d.topic, d."partition", d."offset", d.at,
                   coalesce(d.verdict, e.state, 'open') AS state, e.shown, e.labeled, e.revision
            FROM {schema}.decisions d
            LEFT JOIN ({of_decisions(f"{schema}.examples")}) e
              ON d.verdict IS NULL AND e."partition" = d."partition" AND e."offset" = d."offset"
        """
    return f"""
        SELECT d.id, d.topic, d."partition", d."offset", d.at,
               coalesce(d.verdict, e.state, 'open') AS state, e.label, e.feedback_offsets,
               e.revision
        FROM {schema}.decisions d
        LEFT JOIN {schema}.examples e
          ON d.verdict IS NULL AND e."partition" = d."partition" AND e."offset" = d."offset"
    """


def joined_feedback(prefix: str, loop: Loop, *, revised: bool) -> str:
    """Return the query for the feedback of all examples, with the revision that joined it.

    *prefix* stands before the names of views: their schema with a dot, or nothing. *revised* says
    whether there is any revision above 0. Feedback of several items is one record.
    """
    if not revised:
        once = "" if loop.decision.items is None else "DISTINCT "
        return f"""
            SELECT {once}"partition", unnest(feedback_offsets) AS "offset", 0 AS revision
            FROM {prefix}examples"""
    return f"""
        SELECT "partition", "offset", min(revision) AS revision FROM (
            SELECT "partition", unnest(feedback_offsets) AS "offset",
                   coalesce(revision, 0) AS revision
            FROM {prefix}example_revisions
        ) GROUP BY ALL"""


def feedback_states(schema: str, loop: Loop, *, revised: bool = False) -> str:
    """Return the query for the state of every feedback record.

    A record of an example is `joined`, or `corrected` if it came after the close and made a new
    revision. *revised* says whether there is any.

    A record of no example is `open` until its time is closed. Then it is `duplicate` if it matches
    a first decision; `late` if there is an on-time decision of its id within the time for which ids
    are remembered; `misplaced` if its decision belongs to another partition; and `unmatched`
    otherwise. Feedback that matches a first decision, and none of the items that it has shown, is
    `unknown_item`.
    """
    windows = ", ".join(
        f"('{name}', {_interval(kind.early)}, {_interval(kind.within)})"
        for name, kind in loop.feedback.items()
    )
    shown = f"{offset_sql('f')} AS {KAFKA_OFFSET}," if has_streams(loop) else ""
    close = _interval(loop.wait + loop.grace + loop.corrections)
    memory = _interval(max(loop.remember, loop.wait + loop.grace + loop.early))
    taken = (
        "d.verdict IS NULL AND f.at BETWEEN d.at - w.early AND d.at + w.within"
        f" AND coalesce(f.stream_time <= d.at + {close}, true)"
    )
    fitting, unknown = _unknown_item(schema, loop, taken)
    return f"""
        WITH windows(kind, early, within) AS (VALUES {windows}),
        joined AS ({joined_feedback(f"{schema}.", loop, revised=revised)}),
        hits AS (  -- on-time decisions of the record's id
            SELECT f."partition", f."offset",
                   bool_or({taken}) AS is_taken,
                   {fitting}
                   bool_or(d.at BETWEEN f.at - {memory} AND f.at + w.early) AS is_known
            FROM {schema}.feedback f
            JOIN {schema}.decisions d
              ON d."partition" = f."partition" AND d.id = f.decision_id
             AND (d.verdict IS NULL OR d.verdict = 'duplicate')
            JOIN windows w ON w.kind = f.kind
            WHERE f.verdict IS NULL
            GROUP BY ALL
        )
        SELECT f.id, f.decision_id, f.kind, f.at, f.topic, f."partition", f."offset", {shown}
               CASE WHEN f.verdict IS NOT NULL THEN f.verdict
                    WHEN j."offset" IS NOT NULL
                    THEN CASE WHEN j.revision = 0 THEN 'joined' ELSE 'corrected' END
                    WHEN coalesce(f.at + {_interval(loop.early)} >= p.frontier, true)
                      OR coalesce(f."offset" >= x.examined, false) THEN 'open'
                    {unknown}
                    WHEN h.is_taken THEN 'duplicate'
                    WHEN h.is_known THEN 'late'
                    ELSE {unmet_sql("f", loop.partitions)} END AS state
        FROM {schema}.feedback f
        LEFT JOIN {schema}.frontiers p ON p."partition" = f."partition"
        LEFT JOIN {schema}.examined x
          ON x."partition" = f."partition" AND x.stream = {stream_sql("f")}
        LEFT JOIN joined j ON j."partition" = f."partition" AND j."offset" = f."offset"
        LEFT JOIN hits h ON h."partition" = f."partition" AND h."offset" = f."offset"
    """


def _unknown_item(schema: str, loop: Loop, taken: str) -> tuple[str, str]:
    """Return what to know of the decisions with items, and the case of an item not shown."""
    if loop.decision.items is None:
        return "", ""
    is_shown = is_shown_sql(f"{schema}.examples", "d", "f")
    fitting = f"bool_or({taken} AND {is_shown}) AS is_fitting,"
    return fitting, "WHEN h.is_taken AND NOT h.is_fitting THEN 'unknown_item'"


def _interval(length: timedelta) -> str:
    return f"INTERVAL {length // timedelta(microseconds=1)} MICROSECONDS"
