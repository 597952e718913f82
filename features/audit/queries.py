"""The queries of an audit: which rows differ, in which columns.

`raw_differences_sql` compares the verdict of each raw row with the stream time of its log, for
which it reads one row more. `example_differences_sql` compares what the logs of a slice imply
(`expected.py`) with what the stream wrote.
"""

from collections.abc import Collection, Iterable, Mapping

from tidemill.features.audit.expected import EXPECTED
from tidemill.features.audit.fragments import (
    ITEM_OF_EXAMPLE,
    Check,
    any_sql,
    bounds_sql,
    columns_sql,
    in_share,
    in_slice,
    not_repeated,
    span_sql,
    values_sql,
    with_items_sql,
)
from tidemill.features.audit.spans import COUNTERS, AuditSlice, OffsetRange, micros
from tidemill.features.lake.layouts import example_key
from tidemill.features.sql.revisions import same_example_sql
from tidemill.features.sql.views import quoted
from tidemill.schemas.events.schemas import CIRCUMSTANCES
from tidemill.schemas.loop.definition import Loop

# Columns that an example copies from its decision: their name there, and SQL over the decision.
_COPIED = {
    "decision_id": "d.id",
    **{
        name: f"d.{quoted(name)}"
        for name in (
            *("topic", "at", "entity", "features", "action", "score", "propensity", "source"),
            *("model_version", "policy_version", "loop_version", *CIRCUMSTANCES),
        )
    },
}

_TAKEN = {**_COPIED, **ITEM_OF_EXAMPLE}

# Columns of an example that are computed from its feedback.
_COMPUTED = ("state", "label", "feedback_offsets", "first_feedback_at")


def raw_differences_sql(
    loop: Loop, table: str, run: OffsetRange, last: Mapping[int, tuple[int, int, int | None]]
) -> str:
    """Return a query for the rows of *run* whose verdict or stream time contradicts their log.

    Args:
        loop: the loop, for its durations.
        table: a FROM item, the raw table of the log.
        run: the ranges of positions.
        last: partition -> (position, at, stream time) of the row before the first, if known.
    """
    log, ranges = run.log, run.ranges
    late_anyway = loop.early + loop.wait + loop.grace + loop.corrections
    length = loop.grace if log == "decisions" else late_anyway
    last_use = '"at"' if log == "decisions" else f'"at" + {span_sql(loop.early)}'
    is_late = f'stream_time > "at" + {span_sql(length)}'
    if log == "decisions" or not loop.corrections:
        is_late += f" OR {last_use} < make_timestamptz(closed)"
    checks = [
        Check("rows", 'CASE WHEN offset_before = "offset" THEN 2 ELSE 1 END', "1"),
        # An idle log is moved on by the clock, so the stream time may be ahead of the rows.
        Check("stream_time", "stream_time", "greatest(stream_time, reached)"),
        Check(
            "verdict",
            "nullif(verdict, 'duplicate')",
            f"CASE WHEN {is_late} THEN 'late' END",
        ),
    ]
    wanted = values_sql(
        (number, *bounds, run.begins[number].frontier) for number, bounds in ranges.items()
    )
    known = values_sql((number, *row) for number, row in last.items()) if last else None
    first, behind = min(o for o, _ in ranges.values()), max(o for _, o in ranges.values())
    before = (
        f"""UNION ALL BY NAME
            SELECT "partition", "offset", make_timestamptz("at") AS "at",
                   make_timestamptz(stream_time::BIGINT) AS stream_time, false AS is_new
            FROM (VALUES {known}) AS last("partition", "offset", "at", stream_time)"""
        if known
        else ""
    )
    return f"""
        WITH wanted("partition", first, behind, closed) AS (VALUES {wanted}),
        rows_ AS (
            SELECT r."partition", r."offset", id, "at", stream_time, verdict, closed,
                   true AS is_new
            FROM {table} r JOIN wanted w
              ON r."partition" = w."partition" AND r."offset" >= first AND r."offset" < behind
            WHERE r."offset" >= {first} AND r."offset" < {behind}
            {before}
        ),
        read_ AS (
            SELECT *, lag("offset") OVER log AS offset_before,
                   greatest(lag("at") OVER log, lag(stream_time) OVER log) AS reached
            FROM rows_ WINDOW log AS (PARTITION BY "partition" ORDER BY "offset")
        )
        SELECT "partition", "offset", NULL, id, "at", {columns_sql(checks)} AS columns_
        FROM read_ WHERE is_new AND ({any_sql(checks)})"""


def last_sql(table: str, ranges: Mapping[int, tuple[int, int]]) -> str:
    """Return a query for the last row of each partition in *ranges*: `last` of the next range."""
    wanted = values_sql((number, *bounds) for number, bounds in ranges.items())
    first, behind = min(o for o, _ in ranges.values()), max(o for _, o in ranges.values())
    return f"""
        WITH wanted("partition", first, behind) AS (VALUES {wanted})
        SELECT r."partition", max(r."offset"), epoch_us(arg_max("at", r."offset")),
               epoch_us(arg_max(stream_time, r."offset")), count(*)
        FROM {table} r JOIN wanted w
          ON r."partition" = w."partition" AND r."offset" >= first AND r."offset" < behind
        WHERE r."offset" >= {first} AND r."offset" < {behind}
        GROUP BY ALL"""


def example_differences_sql(
    loop: Loop, decisions: str, examples: str, columns: Iterable[str], share: AuditSlice
) -> str:
    """Return a query for the examples of a slice that differ from the table `EXPECTED`.

    *columns* are those of *examples*. Where decisions have items, each that was shown is compared.
    """
    present = set(columns)
    key = example_key(present)
    checks = _checks(present)
    known = {name: here for name, here in _TAKEN.items() if name in present}
    known |= not_repeated(loop)
    copied = ", ".join(f"{here} AS d_{name}" for name, here in known.items())
    computed = ", ".join(f"t.{name} AS must_{name}" for name in (*_COMPUTED, "revision"))
    names = [name for name in (*known, *_COMPUTED) if name in present]
    stored = ", ".join(f"e.{quoted(name)} AS e_{name}" for name in names)
    # Rows of the first release have no revision; they are the first of their decision.
    stored += f", {'coalesce(e.revision, 0)' if 'revision' in present else '0'} AS e_revision"
    position, items = "NULL", ""
    if "position" in key:
        position, items = "t.position", with_items_sql(decisions, share)
    keys = ", ".join(f"e.{quoted(name)}" for name in key)
    merged = ", ".join(f"coalesce(m.{quoted(n)}, w.{quoted(n)}) AS {quoted(n)}" for n in key)
    plain = ", ".join(map(quoted, key))
    return f"""
        WITH bounds("partition", since, until) AS (VALUES {bounds_sql(share)}),
        must AS (
            SELECT d."partition", d."offset", {position} AS position, d.id, d."at", d.verdict,
                   t.state AS expected, {computed}, {copied}
            FROM {decisions} d JOIN bounds USING ("partition")
            LEFT JOIN {EXPECTED} t ON t.log = 'decisions'
                 AND t."partition" = d."partition" AND t."offset" = d."offset"
            {items}
            WHERE {in_slice("d", share)} {in_share("d.id", share)}
        ),
        wrote AS (
            SELECT {keys}, e.decision_id, e."at", count(*) OVER same AS times, {stored}
            FROM {examples} e JOIN bounds USING ("partition")
            WHERE {in_slice("e", share)} {in_share("e.decision_id", share)}
            WINDOW same AS (PARTITION BY {keys})
            QUALIFY row_number() OVER same = 1
        ),
        both_ AS (
            SELECT {merged}, coalesce(m.id, w.decision_id) AS id, coalesce(m."at", w."at") AS "at",
                   m.* EXCLUDE ("partition", "offset", position, id, "at"),
                   w.* EXCLUDE ({plain}, decision_id, "at"),
                   times IS NOT NULL AND expected NOT IN ('late', 'duplicate') AS is_example
            FROM must m FULL JOIN wrote w ON {same_example_sql("w", "m", key)}
        )
        SELECT "partition", "offset", {", ".join(key[2:]) or "NULL"}, id, "at",
               {columns_sql(checks)} AS columns_
        FROM both_ WHERE {any_sql(checks)}"""


def _checks(present: Collection[str]) -> list[Check]:
    """Return what is compared of an example with the columns *present*."""
    return [
        # 'late' depends on the stream time alone, and is checked by `raw_differences_sql`.
        Check(
            "verdict",
            "nullif(verdict, 'late')",
            "CASE WHEN expected = 'duplicate' THEN expected END",
        ),
        Check(
            "rows",
            "coalesce(times, 0)",
            "CASE WHEN expected IS NULL OR expected IN ('late', 'duplicate') THEN 0 ELSE 1 END",
        ),
        *(
            Check(name, f"e_{name}", f"CASE WHEN is_example THEN must_{name} ELSE e_{name} END")
            for name in (*_COMPUTED, "revision")
        ),
        *(
            Check(name, f"e_{name}", f"CASE WHEN is_example THEN d_{name} ELSE e_{name} END")
            for name in _TAKEN
            if name in present
        ),
    ]


def compared_sql(decisions: str, share: AuditSlice) -> str:
    """Return a query that counts the decisions of a share."""
    return f"""
        WITH bounds("partition", since, until) AS (VALUES {bounds_sql(share)})
        SELECT count(*) FROM {decisions} d JOIN bounds USING ("partition")
        WHERE {in_slice("d", share)} {in_share("d.id", share)}"""


def settled_sql(loop: Loop, feedback: str, share: AuditSlice) -> str:
    """Return a query that counts, by partition, the feedback of a slice.

    Columns: partition, all of it, and the feedback without a verdict that ended as each of
    `COUNTERS`, which the stream counts.
    """
    ahead = micros(loop.early)
    counted = ", ".join(
        f"count(*) FILTER (t.state = '{state}' AND f.verdict IS NULL)" for state in COUNTERS
    )
    return f"""
        WITH bounds("partition", since, until) AS (VALUES {bounds_sql(share)})
        SELECT f."partition", count(*), {counted}
        FROM {feedback} f JOIN bounds USING ("partition")
        JOIN {EXPECTED} t ON t.log = 'feedback'
             AND t."partition" = f."partition" AND t."offset" = f."offset"
        WHERE {in_slice("f", share, ahead)} {in_share("f.decision_id", share)}
        GROUP BY ALL"""
