"""The label-lag curve: the delay of feedback after its decision, to choose a window by.

It is counted from the raw tables, so it includes feedback that came too late for the current
window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb

from tidemill.features.lake.lake import Lake
from tidemill.features.lake.layouts import DECISIONS, FEEDBACK
from tidemill.features.sql.bounded import bounded_duckdb
from tidemill.features.sql.positions import stream_sql
from tidemill.features.sql.views import snapshot, source
from tidemill.schemas.loop.definition import Loop

QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
_MICROSECOND = timedelta(microseconds=1)
_SECONDS = (1, 2, 5, 10, 15, 30)
_MINUTES = (1, 2, 5, 10, 15, 30)
_HOURS = (1, 2, 3, 4, 6, 8, 12, 18)
_DAYS = (1, 2, 3, 5, 7, 10, 14, 21, 30, 60, 90, 180, 365)
LADDER = (
    *(timedelta(seconds=number) for number in _SECONDS),
    *(timedelta(minutes=number) for number in _MINUTES),
    *(timedelta(hours=number) for number in _HOURS),
    *(timedelta(days=number) for number in _DAYS),
)
"""The windows that people write into loop files."""


@dataclass(frozen=True, slots=True)
class Point:
    """The share of feedback that happens at most *delay* after its decision."""

    delay: timedelta
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelLag:
    """The curve of one kind of feedback.

    Attributes:
        within: the current window, with *early*.
        decisions: the decisions in the chosen period, without copies.
        answered: how many of them have such feedback.
        feedback: records of the kind whose decision is known, without copies.
        unmatched: records whose decision is not known.
        kept: the share of *feedback* in the current window.
        too_late: the share in that window that came after the grace.
        quantiles: by share of *feedback*, the longest delay of that share.
        longest: the longest delay; None without feedback.
        points: the curve, at usual windows and at the current one.
    """

    loop: str
    kind: str
    within: timedelta
    early: timedelta
    decisions: int
    answered: int
    feedback: int
    unmatched: int
    kept: float
    too_late: float
    quantiles: dict[float, timedelta]
    longest: timedelta | None
    points: tuple[Point, ...]

    def to_json(self) -> dict[str, object]:
        """Return all of it as plain values, times in seconds."""
        return {
            "loop": self.loop,
            "kind": self.kind,
            "within_s": self.within.total_seconds(),
            "early_s": self.early.total_seconds(),
            "decisions": self.decisions,
            "answered": self.answered,
            "feedback": self.feedback,
            "unmatched": self.unmatched,
            "kept": self.kept,
            "too_late": self.too_late,
            "quantiles_s": {
                str(share): delay.total_seconds() for share, delay in self.quantiles.items()
            },
            "longest_s": None if self.longest is None else self.longest.total_seconds(),
            "points": [
                {"delay_s": point.delay.total_seconds(), "share": point.share}
                for point in self.points
            ],
        }


def label_lags(
    lake: Lake,
    loop: Loop,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    memory_mb: int = 1_024,
) -> list[LabelLag]:
    """Return the curve of each kind of feedback for decisions made in [*since*, *until*).

    A feedback belongs to the last decision of its id that was made before it, or at most `early`
    after it. Recent decisions may still get feedback: set *until* if that matters.

    Raises:
        LakeError: the lake cannot be read, or the memory is not enough.
    """
    versions = snapshot(lake, loop)
    with bounded_duckdb(f"the label lag of {loop.loop}", memory_mb=memory_mb) as connection:
        tables = [
            source(connection, lake.table(loop.loop, name), versions[name]).sql
            for name in (DECISIONS, FEEDBACK)
        ]
        bounds = {"since": since, "until": until}
        ((decisions,),) = connection.execute(_decisions(tables[0]), bounds).fetchall()
        connection.execute(_delays(loop, *tables), bounds)
        return [_curve(connection, loop, kind, decisions) for kind in loop.feedback]


def _decisions(table: str) -> str:
    at = _inside('"at"')
    return f"SELECT count(*) FROM ({_first_copies(table)}) WHERE {at}"


def _inside(at: str) -> str:
    """Return the condition that *at* is in the chosen period."""
    return (
        f"{at} >= coalesce($since::TIMESTAMPTZ, '-infinity')"
        f" AND {at} < coalesce($until::TIMESTAMPTZ, 'infinity')"
    )


def _first_copies(table: str) -> str:
    """Return a query for the decisions without copies, late ones included."""
    return f"""
        SELECT "partition", "offset", id, "at" FROM {table}
        WHERE verdict IS DISTINCT FROM 'duplicate'"""


def _delays(loop: Loop, decisions: str, feedback: str) -> str:
    """Return the statement that makes a table with the delay of every feedback.

    The delay is null if the decision is not known.
    """
    early, close = (_micros(span) for span in (loop.early, loop.wait + loop.grace))
    return f"""
        CREATE TEMP TABLE delays AS
        WITH d AS ({_first_copies(decisions)}),
        f AS (
            SELECT "partition", decision_id, kind, "at", stream_time,
                   "at" + to_microseconds({early}) AS reach
            FROM {feedback}
            QUALIFY row_number() OVER (
                PARTITION BY "partition", decision_id, id, {stream_sql()} ORDER BY "offset"
            ) = 1
        ),
        found AS (
            SELECT f.kind, f."at" AS told_at, f.stream_time, d."partition", d."offset", d."at"
            FROM f ASOF LEFT JOIN d
              ON f."partition" = d."partition" AND f.decision_id = d.id AND f.reach >= d."at"
        )
        SELECT kind, epoch_us(told_at) - epoch_us("at") AS delay, "partition", "offset",
               coalesce(stream_time > "at" + to_microseconds({close}), false) AS is_late
        FROM found WHERE {_inside('coalesce("at", told_at)')}"""


def _curve(
    connection: duckdb.DuckDBPyConnection, loop: Loop, kind: str, decisions: int
) -> LabelLag:
    window = loop.feedback[kind]
    within, early = _micros(window.within), _micros(window.early)
    steps = sorted({*LADDER, window.within})
    counted = ", ".join(f"count(*) FILTER (delay <= {_micros(step)})" for step in steps)
    inside = f"delay BETWEEN -{early} AND {within}"
    ((found, unmatched, answered, kept, late, longest, quantiles, *counts),) = connection.execute(
        f"""
        SELECT count(delay), count(*) - count(delay),
               count(DISTINCT ("partition", "offset")) FILTER (delay IS NOT NULL),
               count(*) FILTER ({inside}), count(*) FILTER ({inside} AND is_late), max(delay),
               quantile_disc(delay, {list(QUANTILES)}), {counted}
        FROM delays WHERE kind = $kind""",
        {"kind": kind},
    ).fetchall()
    return LabelLag(
        loop=loop.loop,
        kind=kind,
        within=window.within,
        early=window.early,
        decisions=decisions,
        answered=answered,
        feedback=found,
        unmatched=unmatched,
        kept=kept / found if found else 0.0,
        too_late=late / found if found else 0.0,
        quantiles={
            share: delay * _MICROSECOND
            for share, delay in zip(QUANTILES, quantiles or (), strict=False)
        },
        longest=None if longest is None else longest * _MICROSECOND,
        points=_rising_part(steps, counts, found, window.within),
    )


def _rising_part(
    steps: Sequence[timedelta], counts: Sequence[int], found: int, within: timedelta
) -> tuple[Point, ...]:
    """Return the part of the curve that rises, and the current window."""
    points = []
    for number, (step, count) in enumerate(zip(steps, counts, strict=True)):
        starts = count < found * 0.005 and counts[min(number + 1, len(counts) - 1)] < found * 0.005
        is_over = number > 0 and counts[number - 1] == found
        if found and (step == within or not (starts or is_over)):
            points.append(Point(step, count / found))
    return tuple(points)


def _micros(length: timedelta) -> int:
    return length // _MICROSECOND
