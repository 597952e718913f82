"""The oracle: the join as one DuckDB query over whole logs, to compute what streams must write.

It is written from the rules of docs/guide/joins.md. From the raw tables it reads event times, not
verdicts. Of what the stream wrote it uses only the frontier of each partition and, if asked to, the
stream times of idle logs that were moved on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from tidemill.features.sql.positions import stream_sql
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.labels import compile_label

_WITHOUT_LABEL = {
    "negative": "('no_feedback', 0.0)",
    "censored": "('censored', NULL)",
    "dropped": "('no_feedback', NULL)",
}


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


def oracle_sql(loop: Loop, relations: Relations | None = None) -> str:
    """Return a query for the correct state of every record of all logs.

    Its columns: log ('decisions' or 'feedback'), partition, offset (the position), id, state; and
    for closed decisions label, feedback_offsets in the order of (at, offset), first_feedback_at and
    revision, all of the newest revision. Misplaced feedback is `unmatched` here.

    Raises:
        LoopError: the label of *loop* is wrong.
    """
    parts = [
        *_judged(loop, relations or Relations()),
        *_joined(loop),
        *_labeled(loop),
        *_states(loop),
    ]
    named = ",\n".join(f"{name} AS ({query})" for name, query in parts)
    return f"WITH {named}\nFROM decision_states UNION ALL BY NAME FROM feedback_states"


def _judged(loop: Loop, relations: Relations) -> Iterator[tuple[str, str]]:
    """Yield the queries for the stream time before each record, and the verdict from it."""
    close, grace = _span(loop.wait + loop.grace), _span(loop.grace)
    late_anyway = _span(loop.early + loop.wait + loop.grace + loop.corrections)
    before = _before(idle=relations.idle)
    behind = "false" if loop.corrections else "is_behind"  # closed decisions may be corrected
    yield (
        "windows(kind, early, within)",
        "VALUES "
        + ", ".join(
            f"('{name}', {_span(kind.early)}, {_span(kind.within)})"
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
        SELECT "partition", "offset", id, "at", on_time,
               CASE WHEN NOT on_time THEN 'late'
                    WHEN is_earlier THEN given
                    WHEN seen_at + {_span(_memory(loop))} >= before THEN 'duplicate'
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
               coalesce(before - {close} - {_span(loop.corrections)},
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
    last_use = 'r."at"' if log == "decisions" else f'r."at" + {_span(loop.early)}'
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


def _joined(loop: Loop) -> Iterator[tuple[str, str]]:
    """Yield the queries for the feedback of each first decision."""
    names = [name for kind in loop.feedback.values() for name in kind.values]
    values = "".join(f', f."values"."{name}" AS "{name}"' for name in dict.fromkeys(names))
    # Late feedback may correct what an earlier version has closed; none is on time for it.
    is_final = "false" if loop.corrections else "coalesce(d.at < f.closed_before, false)"
    yield (
        "matched",
        f"""
        SELECT f."partition" AS _partition, d."offset" AS _decision, f.id AS _id,
               f.kind AS kind, f.at AS "at", f."offset" AS "offset", f._stream, d.at AS decision_at,
               f.open_since > d.at AS _is_late, {is_final} AS _is_final{values}
        FROM f JOIN windows USING (kind) JOIN d
          ON d."partition" = f."partition" AND d.id = f.decision_id AND d.judged IS NULL
         AND f.at >= d.at - early AND f.at <= d.at + within AND f.taken_since <= d.at
         AND (f.is_examined OR f.open_since <= d.at) AND NOT f.is_late""",
    )
    yield (
        "joined",
        """
        FROM matched WHERE NOT _is_final QUALIFY row_number() OVER (
            PARTITION BY _partition, _decision, _id, _stream ORDER BY "offset"
        ) = 1""",
    )
    yield (
        "lists",
        """
        SELECT _partition, _decision, list("offset" ORDER BY "at", "offset") AS feedback_offsets,
               count(*) FILTER (_is_late) AS revision
        FROM joined GROUP BY _partition, _decision""",
    )


def _labeled(loop: Loop) -> Iterator[tuple[str, str]]:
    """Yield the queries for activation, and for the label from the other feedback."""
    if loop.activation is None:
        yield "outcomes", "FROM joined"
    else:
        yield (
            "activated",
            f"""
            SELECT _partition, _decision, min("at") AS activated_at
            FROM joined WHERE kind = '{loop.activation}' GROUP BY _partition, _decision""",
        )
        yield (
            "outcomes",
            f"""
            FROM joined LEFT JOIN activated USING (_partition, _decision)
            WHERE kind <> '{loop.activation}'""",
        )
    query = compile_label(loop, is_published=True)
    first = {"first_feedback_at": 'min("at")'}
    yield "labels", query.over("outcomes", ["_partition", "_decision"], first)


def _states(loop: Loop) -> Iterator[tuple[str, str]]:
    """Yield the queries for the state of every record."""
    state, label = _WITHOUT_LABEL[loop.label.missing].strip("()").split(", ")
    yield (
        "decision_states",
        f"""
        SELECT 'decisions' AS log, d."partition" AS "partition", d."offset" AS "offset", d.id AS id,
               CASE WHEN judged IS NOT NULL THEN judged
                    WHEN NOT is_closed THEN 'open'
                    WHEN NOT is_activated THEN 'not_activated'
                    WHEN l.is_error THEN 'label_error'
                    WHEN isfinite(l.label) THEN 'labeled' ELSE {state} END AS state,
               CASE WHEN judged IS NOT NULL OR NOT is_closed OR NOT is_activated
                      OR coalesce(l.is_error, false) THEN NULL
                    WHEN isfinite(l.label) THEN l.label ELSE {label} END AS label,
               CASE WHEN judged IS NULL AND is_closed
                    THEN coalesce(j.feedback_offsets, []) END AS feedback_offsets,
               CASE WHEN judged IS NULL AND is_closed
                    THEN l.first_feedback_at END AS first_feedback_at,
               CASE WHEN judged IS NULL AND is_closed
                    THEN coalesce(j.revision, 0) END AS revision
        FROM (SELECT d.*, coalesce(d.at < frontier, false) AS is_closed,
                     {_is_activated(loop)} AS is_activated
              FROM d LEFT JOIN frontiers_ USING ("partition")) d
        LEFT JOIN labels l ON l._partition = d."partition" AND l._decision = d."offset"
        LEFT JOIN lists j ON j._partition = d."partition" AND j._decision = d."offset" """,
    )
    yield (
        "taken",
        """
        SELECT j._partition, j."offset", bool_and(_is_late) AS is_late
        FROM joined j JOIN decision_states t
            ON t."partition" = j._partition AND t."offset" = j._decision
        WHERE t.state <> 'open' GROUP BY ALL""",
    )
    yield (
        "known",
        f"""
        SELECT DISTINCT f."partition", f."offset" FROM f JOIN windows USING (kind) JOIN d
            ON d."partition" = f."partition" AND d.id = f.decision_id AND d.on_time
           AND d.at >= f.at - {_span(_memory(loop))} AND d.at <= f.at + early""",
    )
    yield (
        "feedback_states",
        f"""
        SELECT 'feedback' AS log, f."partition" AS "partition", f."offset" AS "offset", f.id AS id,
               CASE WHEN f.is_late THEN 'late'
                    WHEN t.is_late THEN 'corrected'
                    WHEN NOT t.is_late THEN 'joined'
                    WHEN NOT f.is_examined THEN 'open'
                    WHEN coalesce(f.at + {_span(loop.early)} >= f.frontier, true) THEN 'open'
                    WHEN (f."partition", f."offset") IN
                         (SELECT _partition, "offset" FROM matched) THEN 'duplicate'
                    WHEN (f."partition", f."offset") IN (FROM known) THEN 'late'
                    ELSE 'unmatched' END AS state
        FROM f LEFT JOIN taken t
          ON t._partition = f."partition" AND t."offset" = f."offset" """,
    )


def _is_examined(loop: Loop) -> str:
    """Return an expression: was late feedback compared with closed decisions, if it had to be?"""
    return 'coalesce("offset" < examined, true)' if loop.corrections else "true"


def _examined(loop: Loop, relations: Relations) -> str:
    """Return the SQL join with the position up to which each stream was compared, if needed."""
    if not loop.corrections:
        return ""
    on = 'e."partition" = r."partition" AND e.stream = r._stream'
    return f"\n        LEFT JOIN {relations.examined} e ON {on}"


def _is_activated(loop: Loop) -> str:
    if loop.activation is None:
        return "true"
    return '(d."partition", d."offset") IN (SELECT (_partition, _decision) FROM activated)'


def _memory(loop: Loop) -> timedelta:
    return max(loop.remember, loop.wait + loop.grace + loop.early)


def _span(length: timedelta) -> str:
    return f"to_microseconds({length // timedelta(microseconds=1)})"
