"""A lake of a loop whose requests bring items, written by hand, and what must be told of it.

Decision `a` has shown two of its four items, `b` one, `c` none; `z` is open. Feedback names an
item that was shown, none, or one that was not shown.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
from tests.features.audited import PARTITION, Spoil, swaps_of, unspoiled
from tests.schemas.loops import with_items
from tests.streams.join_logs import SECOND, START

from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.layouts import DECISIONS, EXAMPLES, FEEDBACK, layouts
from tidemill.features.lake.progress_keys import NOTHING_CLOSED, join_time
from tidemill.schemas.logs import Log, topic_of
from tidemill.schemas.loop.definition import Loop
from tidemill.streams.units import micros

PAGE = with_items(
    "ranking",
    loop="page",
    feedback={"clicked": {"within": "8s", "values": {"seconds": "float"}}},
    label={"sql": "sum(seconds)", "type": "float"},
    gate={"metric": "mse"},
    grace="2s",
    partitions=2,
)
FRONTIER = 19  # both logs are past 19 + 8 + 2 seconds

Item = tuple[str, float | None, int | None]
"""Its id, propensity and position."""

DECIDED: Sequence[tuple[str, int, list[Item] | None]] = [
    ("a", 0, [("p", 0.5, 0), ("r", None, None), ("q", 0.75, 1), ("s", 0.1, 1)]),  # no room for s
    ("b", 1, [("q", 0.9, 0), ("p", None, None)]),
    ("c", 2, None),
    ("b", 3, [("p", 0.4, 0)]),  # a copy
    ("z", 40, [("p", 0.5, 0)]),
]
ANSWERS: Sequence[tuple[str, str, int, str | None, float]] = [
    ("x", "a", 2, "p", 3.0),
    ("y", "a", 3, None, 1.0),  # for every item that was shown
    ("u", "a", 4, "r", 7.0),  # which was not shown
    ("u", "a", 5, "q", 5.0),  # the first of that id that an item takes
    ("x", "a", 2, "p", 3.0),  # a copy
    ("v", "c", 5, None, 2.0),  # which has shown nothing
    ("w", "nobody", 6, "p", 1.0),
    ("t", "a", 6, "s", 9.0),  # another item was at its position
    ("m", "z", 41, "p", 1.0),
    ("k", "b", 4, "q", 1.0),  # at 41 the close time of b, 11, is past
]
STATES = {
    0: "joined",
    1: "joined",
    2: "unknown_item",
    3: "joined",
    4: "duplicate",
    5: "unknown_item",
    6: "unmatched",
    7: "unknown_item",
    8: "open",
    9: "late",
}
DECISION_STATES = {0: "labeled", 1: "no_feedback", 2: "no_feedback", 3: "duplicate", 4: "open"}
COUNTS = {"late": 0, "duplicate": 1, "unmatched": 1, "unknown_item": 3}
EXAMPLE_ROWS: Sequence[tuple[int, int | None, str, float, list[int]]] = [
    (0, 0, "labeled", 4.0, [0, 1]),
    (0, 1, "labeled", 6.0, [1, 3]),
    (1, 0, "no_feedback", 0.0, []),
    (2, None, "no_feedback", 0.0, []),
]
"""Offset, position, state, label and offsets of feedback."""


def seconds(after: int) -> datetime:
    """Return the time so many seconds *after* the start."""
    return START + after * SECOND


def decided(loop: Loop = PAGE) -> pl.DataFrame:
    """Return the raw table of decisions."""
    rows = []
    for offset, (id_, at, brought) in enumerate(DECIDED):
        items = None if brought is None else [_item(*each) for each in brought]
        shown = sorted((at, name) for name, _, at in brought or () if at is not None)
        rows.append(
            {
                "id": id_,
                "at": seconds(at),
                "offset": offset,
                "items": items,
                "action": [name for _, name in shown],
                "source": "explore",
                "features": {"country": "at", "visits": offset},
                "loop_version": 1,
            }
        )
    return _read(rows, DECISIONS, loop, after=2)


def answered(loop: Loop = PAGE) -> pl.DataFrame:
    """Return the raw table of feedback."""
    rows = [
        {
            "id": id_,
            "decision_id": decision,
            "at": seconds(at),
            "item": item,
            "kind": "clicked",
            "values": {"seconds": value},
            "offset": offset,
        }
        for offset, (id_, decision, at, item, value) in enumerate(ANSWERS)
    ]
    return _read(rows, FEEDBACK, loop, after=10)


def made(loop: Loop = PAGE) -> pl.DataFrame:
    """Return the examples that the stream must have closed."""
    raw = {row["offset"]: row for row in decided(loop).iter_rows(named=True)}
    at = {row["offset"]: row["at"] for row in answered(loop).iter_rows(named=True)}
    rows = []
    for offset, position, state, label, feedback in EXAMPLE_ROWS:
        decision = raw[offset]
        shown = [each for each in decision["items"] or () if each["position"] == position]
        item: Mapping[str, Any] = shown[0] if position is not None else {}
        rows.append(
            {
                **decision,
                "decision_id": decision["id"],
                "action": None,  # the row of the decision has the order
                "revision": 0,
                "label": label,
                "state": state,
                "feedback_offsets": feedback,
                "position": position,
                "item": item.get("id"),
                "item_propensity": item.get("propensity"),
                "item_features": item.get("features"),
                "first_feedback_at": min((at[each] for each in feedback), default=None),
            }
        )
    return pl.DataFrame(rows, schema=layouts(loop)[EXAMPLES], strict=False).drop("event_date")


def write_items(
    folder: Path,
    *,
    loop: Loop = PAGE,
    spoil: Mapping[str, Spoil] | None = None,
    counts: Mapping[str, int] = COUNTS,
) -> Lake:
    """Write that lake, with *counts* of feedback; *spoil* changes the rows of a table first."""
    lake, change = Lake(LakeConfig(root=str(folder))), dict(spoil or {})
    lake.create(loop)
    closed = {"frontier": micros(seconds(FRONTIER)), "begin/1": NOTHING_CLOSED, **counts}
    for log, rows in ((DECISIONS, decided(loop)), (FEEDBACK, answered(loop))):
        last = rows["at"].max()
        assert isinstance(last, datetime)
        closed[join_time(log)] = micros(last)
        numbers = {"offset": len(rows), "time": micros(last), "begin/1": 0}
        lake.table(loop.loop, log).append(change.get(log, unspoiled)(rows), swaps=swaps_of(numbers))
    rows = change.get(EXAMPLES, unspoiled)(made(loop))
    lake.table(loop.loop, EXAMPLES).append(rows, swaps=swaps_of(closed))
    return lake


def _item(name: str, propensity: float | None, position: int | None) -> dict[str, object]:
    features = {"price": float(ord(name)), "topic": "news", "age": None}
    return {"id": name, "propensity": propensity, "position": position, "features": features}


def _read(
    rows: Sequence[Mapping[str, object]], log: Log, loop: Loop, *, after: int
) -> pl.DataFrame:
    """Return *rows* as a worker has read them: late ones are so many seconds *after* their time."""
    before = pl.col("at").cum_max().shift(1)
    verdict: pl.Expr = pl.when(before > pl.col("at") + after * SECOND).then(pl.lit("late"))
    if log == DECISIONS:
        copy = pl.when(~pl.col("id").is_first_distinct()).then(pl.lit("duplicate"))
        verdict = pl.coalesce(verdict, copy)
    return (
        pl.DataFrame(rows, schema=layouts(loop)[log], strict=False)
        .with_columns(
            topic=pl.lit(topic_of(loop.loop, log)),
            partition=pl.lit(PARTITION, dtype=pl.Int32),
            ingested_at=pl.col("at"),
            stream_time=before,
            verdict=verdict,
        )
        .drop("event_date")
    )
