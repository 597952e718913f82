"""A lake of a loop with three streams in one join, written by hand, and what must be told of it.

Clicks come by `shop.feedback`, purchases by `shop.feedback.orders`. Where the purchases stand in
time, how late they come and which ids they have is nothing to the clicks.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl
from tests.features.audited import PARTITION, Spoil, swaps_of, unspoiled
from tests.streams.join_logs import LOOP, SECOND, START, D, F, decision_frame, feedback_frame

from tidemill.features.lake.lake import Lake, LakeConfig
from tidemill.features.lake.progress_keys import NOTHING_CLOSED, ProgressName, join_time
from tidemill.schemas.logs import Log, first_position, is_feedback, position_of, topic_of
from tidemill.schemas.loop.definition import Feedback, Loop
from tidemill.streams.units import micros

ORDERS = Log("feedback.orders")
BUY = LOOP.feedback["buy"]
SHOP = LOOP.model_copy(
    update={
        "feedback": {
            "click": LOOP.feedback["click"],
            "buy": Feedback(within=BUY.within, stream="orders", values=BUY.values),
        }
    }
)
DECISIONS = [D("a", 0), D("b", 4), D("c", 30)]
CLICKS = [
    F("x", "a", 2, value=1.0),
    F("y", "b", 5, value=2.0),
    F("z", "nobody", 16),
    F("w", "b", 7),  # at 16 the close time of b, 14, is past
    F("q", "c", 31),
]
BUYS = [
    F("x", "a", 6, "buy", 3.0),  # an id that a click has too
    F("x", "a", 6, "buy", 3.0),
    F("v", "b", 9, "buy", 4.0),
    F("u", "later", 40, "buy"),
]
FRONTIER = 19  # all three logs are past 19 + 8 + 2 seconds
STATES = {
    ("x", 0): "joined",
    ("y", 1): "joined",
    ("z", 2): "unmatched",
    ("w", 3): "late",
    ("q", 4): "open",
    ("x", position_of(ORDERS, 0)): "joined",
    ("x", position_of(ORDERS, 1)): "duplicate",
    ("v", position_of(ORDERS, 2)): "joined",
    ("u", position_of(ORDERS, 3)): "open",
}
JOINED = {"a": [0, position_of(ORDERS, 0)], "b": [1, position_of(ORDERS, 2)]}
COUNTS = {"late": 1, "duplicate": 1, "unmatched": 1}


class Raw(NamedTuple):
    """The rows of one log, the next offset and the stream time."""

    rows: pl.DataFrame
    offset: int
    time: datetime


def raw(log: Log, loop: Loop = SHOP) -> Raw:
    """Return *log* as a worker has read it: each row with the stream time before it."""
    if is_feedback(log):
        told = CLICKS if log == "feedback" else BUYS
        frame = feedback_frame(told, first_position(log))
        length = loop.early + loop.wait + loop.grace + loop.corrections
    else:
        frame, length = decision_frame(DECISIONS), loop.grace
    before = pl.col("at").cum_max().shift(1)
    rows = frame.with_columns(
        topic=pl.lit(topic_of(loop.loop, log)),
        partition=pl.lit(PARTITION, dtype=pl.Int32),
        ingested_at=pl.col("at"),
        stream_time=before,
        verdict=pl.when(before > pl.col("at") + length).then(pl.lit("late")),
    )
    last = frame["at"].max()
    assert isinstance(last, datetime)
    return Raw(rows, len(frame), last)


def examples() -> pl.DataFrame:
    """Return what the stream must have closed: `a` and `b`, with a click and a purchase each."""
    rows = decision_frame(DECISIONS[:2]).rename({"id": "decision_id"})
    return rows.with_columns(
        state=pl.lit("labeled"),
        label=pl.Series([1.0 + 3.0 + 1000.0, 2.0 + 4.0 + 2000.0]),
        feedback_offsets=pl.Series(list(JOINED.values()), dtype=pl.List(pl.Int64)),
        first_feedback_at=pl.Series([START + 2 * SECOND, START + 5 * SECOND]),
        revision=pl.lit(0, dtype=pl.Int32),
        topic=pl.lit(topic_of(SHOP.loop, Log("decisions"))),
        partition=pl.lit(PARTITION, dtype=pl.Int32),
    )


def write_streams(
    folder: Path, *, loop: Loop = SHOP, spoil: Mapping[str, Spoil] | None = None
) -> Lake:
    """Write that lake; *spoil* changes the rows of a log, or of the examples, first."""
    lake, change = Lake(LakeConfig(root=str(folder))), dict(spoil or {})
    lake.create(loop)
    closed = {"frontier": micros(START + FRONTIER * SECOND), "begin/1": NOTHING_CLOSED, **COUNTS}
    for log in loop.logs:
        read = raw(log, loop)
        numbers = {"offset": read.offset, "time": micros(read.time), "begin/1": 0}
        closed[join_time(log)] = numbers["time"]
        table = lake.table(loop.loop, "feedback" if is_feedback(log) else log)
        rows = change.get(log, unspoiled)(read.rows)
        table.append(
            rows,
            swaps=swaps_of({ProgressName(name).for_log(log): n for name, n in numbers.items()}),
        )
    rows = change.get("examples", unspoiled)(examples())
    lake.table(loop.loop, "examples").append(rows, swaps=swaps_of(closed))
    return lake
