"""The stream time before each record, and the verdict from it: the first part of the oracle.

`Relations` names what the oracle reads.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tidemill.features.audit.fragments import span_sql
from tidemill.features.audit.spans import memory
from tidemill.features.sql.positions import stream_sql
from tidemill.schemas.loop.definition import Loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Relations:
    """What the oracle reads: names of tables or views, or subqueries in brackets.

    *decisions* and *feedback* are raw tables; their offsets are positions (`schemas/logs.py`).
    *frontiers* has (partition, frontier): every decision of the partition before the frontier is
    closed. *examined* has (partition, stream, examined) for a loop with corrections: the position
    before which feedback of that stream may have corrected closed decisions; of a stream without a
    row, all feedback may. *idle* says that stream times in the raw tables may be ahead of event
    times, because an idle log was moved on.

    *begins* has (partition, log, stream, first, frontier): *first* is the position in a log,
    ``decisions`` or a stream of ``feedback``, from which on this version of the loop has judged the
    partition. Rows before it keep the verdict of an earlier version, and decisions before
    *frontier* stay closed. None: this version has read everything.
    """

    decisions: str = "decisions"
    feedback: str = "feedback"
    frontiers: str = "frontiers"
    examined: str = "examined"
    idle: bool = True
    begins: str | None = None


def judged_queries(loop: Loop, relations: Relations) -> Iterator[tuple[str, str]]:
    """Yield the queries for the stream time before each record, and the verdict from it."""
    close, grace = span_sql(loop.wait + loop.grace), span_sql(loop.grace)
    late_anyway = span_sql(loop.early + loop.wait + loop.grace + loop.corrections)
    before = _before(idle=relations.idle)
    items = "" if loop.decision.items is None else " items,"
    behind = "false" if loop.corrections else "is_behind"  # closed decisions may be corrected
    yield (
        "windows(kind, early, within)",
        "VALUES "
        + ", ".join(
            f"('{name}', {span_sql(kind.early)}, {span_sql(kind.within)})"
            for name, kind in loop.feedback.items()
        ),
    )
    yield ("frontiers_", f"FROM {relations.frontiers}")
    yield (
        "decisions_read",
        f"SELECT *, {before} AS before FROM {_since_begin(relations, 'decisions', loop)}",
    )
    yield (
        "decisions_timed",
        f"""
        SELECT *, CASE WHEN is_earlier THEN given IS DISTINCT FROM 'late'
                       ELSE NOT is_behind AND coalesce(before <= "at" + {grace}, true)
                  END AS on_time
        FROM decisions_read""",
    )
    yield (
        "decisions_seen",
        """
        SELECT *, max(CASE WHEN on_time THEN "at" END) OVER (
            PARTITION BY "partition", id ORDER BY "offset"
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS seen_at FROM decisions_timed""",
    )
    yield (
        "d",
        f"""
        SELECT "partition", "offset", id, "at", on_time,{items}
               CASE WHEN NOT on_time THEN 'late'
                    WHEN is_earlier THEN given
                    WHEN seen_at + {span_sql(memory(loop))} >= before THEN 'duplicate'
               END AS judged
        FROM decisions_seen""",
    )
    yield (
        "feedback_read",
        f"SELECT *, {before} AS before FROM {_since_begin(relations, 'feedback', loop)}",
    )
    yield (
        "f",
        f"""
        SELECT *, CASE WHEN is_earlier THEN coalesce(given = 'late', false)
                       ELSE {behind} OR coalesce(before > "at" + {late_anyway}, false)
                  END AS is_late,
               coalesce(before - {close}, '-infinity'::TIMESTAMPTZ) AS open_since,
               coalesce(before - {close} - {span_sql(loop.corrections)},
                        '-infinity'::TIMESTAMPTZ) AS taken_since,
               {_is_examined(loop)} AS is_examined
        FROM (SELECT *, {stream_sql()} AS _stream FROM feedback_read) r
        LEFT JOIN frontiers_ USING ("partition"){_examined(loop, relations)}""",
    )


def _since_begin(relations: Relations, log: str, loop: Loop) -> str:
    """Return the records of *log*, with what earlier versions have judged and closed."""
    table = relations.decisions if log == "decisions" else relations.feedback
    if relations.begins is None:
        more = "NULL::VARCHAR AS given, false AS is_earlier, false AS is_behind"
        return f"(SELECT *, {more}, NULL::TIMESTAMPTZ AS closed_before FROM {table})"
    last_use = 'r."at"' if log == "decisions" else f'r."at" + {span_sql(loop.early)}'
    stream = stream_sql("r")
    return f"""(
            SELECT r.*, r.verdict AS given, coalesce(r."offset" < b.first, false) AS is_earlier,
                   coalesce({last_use} < b.frontier, false) AS is_behind,
                   CASE WHEN r."offset" >= b.first THEN b.frontier END AS closed_before
            FROM {table} r LEFT JOIN {relations.begins} b
              ON b."partition" = r."partition" AND b.log = '{log}' AND b.stream = {stream})"""


def _before(*, idle: bool) -> str:
    """Return an expression for the stream time of a log before a record; NULL if there is none."""
    log = f'PARTITION BY "partition", {stream_sql()} ORDER BY "offset"'
    log += " ROWS BETWEEN UNBOUNDED PRECEDING AND"
    events = f'max("at") OVER ({log} 1 PRECEDING)'
    return f"greatest({events}, max(stream_time) OVER ({log} CURRENT ROW))" if idle else events


def _is_examined(loop: Loop) -> str:
    """Return an expression: was late feedback compared with closed decisions, if it had to be?"""
    return 'coalesce("offset" < examined, true)' if loop.corrections else "true"


def _examined(loop: Loop, relations: Relations) -> str:
    """Return the SQL join with the position up to which each stream was compared, if needed."""
    if not loop.corrections:
        return ""
    on = 'e."partition" = r."partition" AND e.stream = r._stream'
    return f"\n        LEFT JOIN {relations.examined} e ON {on}"
