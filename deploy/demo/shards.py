"""The shards of a playback: past events by partition, so that each partition gets its own in order.

A service sends events as they happen. A playback sends those of a year in minutes, so a tenth of a
second between two workers is hours of event time. Therefore the events of a partition are one
shard: they are sent one after the other, through one worker.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple

import polars as pl

from tidemill.schemas.partitioner import partition_of


class Decide(NamedTuple):
    """A decision to ask for."""

    at: datetime
    id: str
    entity: str | None
    features: dict[str, object]


class Feed(NamedTuple):
    """A feedback to send."""

    at: datetime
    id: str
    decision_id: str
    kind: str
    values: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Past events, in two frames.

    decisions: id, at, entity, and the features by name.
    feedback: id, decision_id, at, and the values of *kind* by name.
    """

    decisions: pl.DataFrame
    feedback: pl.DataFrame
    kind: str

    @property
    def events(self) -> int:
        """How many events there are."""
        return self.decisions.height + self.feedback.height

    def shards(self, partitions: int) -> list["PlaybackShard"]:
        """Return the events of each partition, which is that of the decision's id."""
        decisions, feedback = (
            _split(frame, column, partitions)
            for frame, column in ((self.decisions, "id"), (self.feedback, "decision_id"))
        )
        return [
            PlaybackShard(number, _by_day(decisions[number]), _by_day(feedback[number]), self.kind)
            for number in range(partitions)
        ]

    def days(self) -> list[date]:
        """Return the days that have events, in order."""
        both = pl.concat([self.decisions.select("at"), self.feedback.select("at")])
        return both["at"].dt.date().unique().sort().to_list()


Days = dict[date, pl.DataFrame]


@dataclass(frozen=True, slots=True)
class PlaybackShard:
    """The events of one partition by day."""

    partition: int
    decisions: Days
    feedback: Days
    kind: str

    def day(self, day: date) -> list[Decide | Feed]:
        """Return the events of *day* in event time, at the same time decisions before feedback."""
        events: list[Decide | Feed] = [*self._decide(day), *self._feed(day)]
        events.sort(key=_order)
        return events

    def _decide(self, day: date) -> Iterator[Decide]:
        frame = self.decisions.get(day)
        if frame is not None:
            names = [name for name in frame.columns if name not in ("id", "at", "entity")]
            rows = frame.select("at", "id", "entity", pl.struct(names)).iter_rows()
            yield from map(Decide._make, rows)

    def _feed(self, day: date) -> Iterator[Feed]:
        frame = self.feedback.get(day)
        if frame is not None:
            names = [name for name in frame.columns if name not in ("id", "at", "decision_id")]
            rows = frame.select("at", "id", "decision_id", pl.struct(names)).iter_rows()
            yield from (Feed(at, id_, of, self.kind, values) for at, id_, of, values in rows)


def _order(event: Decide | Feed) -> tuple[datetime, bool]:
    return event.at, isinstance(event, Feed)


def _split(frame: pl.DataFrame, column: str, partitions: int) -> list[pl.DataFrame]:
    keys = frame[column].to_list()
    shard = pl.Series("shard", [partition_of(key.encode(), partitions) for key in keys], pl.Int32)
    marked = frame.with_columns(shard)
    return [marked.filter(pl.col("shard") == number).drop("shard") for number in range(partitions)]


def _by_day(frame: pl.DataFrame) -> Days:
    if frame.is_empty():
        return {}
    marked = frame.with_columns(pl.col("at").dt.date().alias("day"))
    parts = marked.partition_by("day", as_dict=True, include_key=False)
    return {key[0]: part for key, part in parts.items()}
