"""The oracle: the join as one DuckDB query over whole logs, to compute what streams must write.

It is written from the rules of docs/guide/joins.md. From the raw tables it reads event times, not
verdicts. Of what the stream wrote it uses only the frontier of each partition and, if asked to, the
stream times of idle logs that were moved on.
"""

from collections.abc import Iterator

from tidemill.features.audit.fragments import span_sql
from tidemill.features.audit.judged import Relations, judged_queries
from tidemill.features.audit.spans import memory
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.labels import compile_label

# Of several items at one position, the first of the list was shown.
_SHOWN = """
    SELECT _partition, _decision, each.position AS _position, each.id AS _shown
    FROM (SELECT "partition" AS _partition, "offset" AS _decision, unnest(items) AS each,
                 generate_subscripts(items, 1) AS number FROM d WHERE judged IS NULL)
    WHERE each.position IS NOT NULL QUALIFY number = min(number) OVER (
        PARTITION BY _partition, _decision, each.position
    )"""

_WITHOUT_LABEL = {
    "negative": "('no_feedback', 0.0)",
    "censored": "('censored', NULL)",
    "dropped": "('no_feedback', NULL)",
}


def oracle_sql(loop: Loop, relations: Relations | None = None) -> str:
    """Return a query for the correct state of every record of all logs.

    Its columns: log ('decisions' or 'feedback'), partition, offset (the position), id, state; and
    for closed decisions label, feedback_offsets in the order of (at, offset), first_feedback_at and
    revision, all of the newest revision. Misplaced feedback is `unmatched` here.

    Where decisions bring items, there is a row for each item that a closed one has shown, with its
    position, and one row without for any other. Feedback that no shown item takes, because it names
    another or none was shown, is `unknown_item`.

    Raises:
        LoopError: the label of *loop* is wrong.
    """
    parts = [
        *judged_queries(loop, relations or Relations()),
        *_matched(loop),
        *_counted(loop),
        *_labeled(loop),
        *_states(loop),
    ]
    named = ",\n".join(f"{name} AS ({query})" for name, query in parts)
    return f"WITH {named}\nFROM decision_states UNION ALL BY NAME FROM feedback_states"


def _matched(loop: Loop) -> Iterator[tuple[str, str]]:
    """Yield the query for the feedback in the windows of each first decision."""
    names = [name for kind in loop.feedback.values() for name in kind.values]
    values = "".join(f', f."values"."{name}" AS "{name}"' for name in dict.fromkeys(names))
    item = "" if loop.decision.items is None else ", f.item AS _item"
    # Late feedback may correct what an earlier version has closed; none is on time for it.
    is_final = "false" if loop.corrections else "coalesce(d.at < f.closed_before, false)"
    yield (
        "matched",
        f"""
        SELECT f."partition" AS _partition, d."offset" AS _decision, f.id AS _id,
               f.kind AS kind, f.at AS "at", f."offset" AS "offset", f._stream, d.at AS decision_at,
               f.open_since > d.at AS _is_late, {is_final} AS _is_final{values}{item}
        FROM f JOIN windows USING (kind) JOIN d
          ON d."partition" = f."partition" AND d.id = f.decision_id AND d.judged IS NULL
         AND f.at >= d.at - early AND f.at <= d.at + within AND f.taken_since <= d.at
         AND (f.is_examined OR f.open_since <= d.at) AND NOT f.is_late""",
    )


def _counted(loop: Loop) -> Iterator[tuple[str, str]]:
    """Yield the queries for what each example has of the feedback.

    Feedback that names no item is for every item that was shown. Of several with one id, the first
    that is for any item counts.
    """
    keys = ", ".join(_keys(loop))
    if loop.decision.items is None:
        yield "fitting", "FROM matched"
    else:
        yield "shown", _SHOWN
        yield (
            "fitting",
            """
            FROM matched JOIN shown USING (_partition, _decision)
            WHERE _item IS NULL OR _item = _shown""",
        )
    yield (
        "counted",
        """
        FROM fitting WHERE NOT _is_final QUALIFY "offset" = min("offset") OVER (
            PARTITION BY _partition, _decision, _id, _stream
        )""",
    )
    yield (
        "lists",
        f"""
        SELECT {keys}, list("offset" ORDER BY "at", "offset") AS feedback_offsets,
               count(*) FILTER (_is_late) AS revision
        FROM counted GROUP BY {keys}""",
    )


def _keys(loop: Loop) -> list[str]:
    """Return the columns that name an example: its decision and, of several items, which."""
    position = [] if loop.decision.items is None else ["_position"]
    return ["_partition", "_decision", *position]


def _labeled(loop: Loop) -> Iterator[tuple[str, str]]:
    """Yield the queries for activation, and for the label from the other feedback."""
    keys = ", ".join(_keys(loop))
    if loop.activation is None:
        yield "outcomes", "FROM counted"
    else:
        yield (
            "activated",
            f"""
            SELECT {keys}, min("at") AS activated_at
            FROM counted WHERE kind = '{loop.activation}' GROUP BY {keys}""",
        )
        yield (
            "outcomes",
            f"""
            FROM counted LEFT JOIN activated USING ({keys})
            WHERE kind <> '{loop.activation}'""",
        )
    query = compile_label(loop, is_published=True)
    yield "labels", query.over("outcomes", _keys(loop), {"first_feedback_at": 'min("at")'})


def _states(loop: Loop) -> Iterator[tuple[str, str]]:
    """Yield the queries for the state of every record."""
    state, label = _WITHOUT_LABEL[loop.label.missing].strip("()").split(", ")
    keys = ", ".join(_keys(loop))
    yield "rows_", _rows(loop)
    yield (
        "decision_states",
        f"""
        SELECT 'decisions' AS log, _partition AS "partition", _decision AS "offset", id,
               {_position(loop)}
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
        FROM (SELECT *, {_is_activated(loop)} AS is_activated FROM rows_) d
        LEFT JOIN labels l USING ({keys}) LEFT JOIN lists j USING ({keys})""",
    )
    yield (
        "taken",
        """
        SELECT _partition, "offset", bool_and(_is_late) AS is_late
        FROM counted JOIN (SELECT DISTINCT _partition, _decision FROM rows_ WHERE is_closed)
             USING (_partition, _decision)
        GROUP BY ALL""",
    )
    yield from _feedback_states(loop)


def _rows(loop: Loop) -> str:
    """Return the query for the decisions; of a closed one, a row for each item it has shown."""
    query = """
        SELECT "partition" AS _partition, "offset" AS _decision, id, judged,
               coalesce("at" < frontier, false) AS is_closed
        FROM d LEFT JOIN frontiers_ USING ("partition")"""
    if loop.decision.items is None:
        return query
    return f"""
        SELECT d.*, s._position FROM ({query}) d LEFT JOIN shown s
          ON d.is_closed AND d._partition = s._partition AND d._decision = s._decision"""


def _position(loop: Loop) -> str:
    return "" if loop.decision.items is None else "_position AS position,"


def _feedback_states(loop: Loop) -> Iterator[tuple[str, str]]:
    """Yield the queries for the state of every feedback."""
    yield (
        "known",
        f"""
        SELECT DISTINCT f."partition", f."offset" FROM f JOIN windows USING (kind) JOIN d
            ON d."partition" = f."partition" AND d.id = f.decision_id AND d.on_time
           AND d.at >= f.at - {span_sql(memory(loop))} AND d.at <= f.at + early""",
    )
    yield (
        "feedback_states",
        f"""
        SELECT 'feedback' AS log, f."partition" AS "partition", f."offset" AS "offset", f.id AS id,
               CASE WHEN f.is_late THEN 'late'
                    WHEN t.is_late THEN 'corrected'
                    WHEN NOT t.is_late THEN 'joined'
                    WHEN NOT f.is_examined THEN 'open'
                    WHEN coalesce(f.at + {span_sql(loop.early)} >= f.frontier, true) THEN 'open'
                    WHEN (f."partition", f."offset") IN
                         (SELECT _partition, "offset" FROM fitting) THEN 'duplicate'
                    WHEN (f."partition", f."offset") IN
                         (SELECT _partition, "offset" FROM matched) THEN 'unknown_item'
                    WHEN (f."partition", f."offset") IN (FROM known) THEN 'late'
                    ELSE 'unmatched' END AS state
        FROM f LEFT JOIN taken t
          ON t._partition = f."partition" AND t."offset" = f."offset" """,
    )


def _is_activated(loop: Loop) -> str:
    if loop.activation is None:
        return "true"
    keys = ", ".join(_keys(loop))
    return f"({keys}) IN (SELECT ({keys}) FROM activated)"
