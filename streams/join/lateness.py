"""The stream time of each log, and the rules that make a record late by it.

The stream time of a log is the largest event time among its records so far, idle advances
included. A record is judged by the stream time of its own log before it, so its verdict depends on
that log alone.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime

import numpy as np
import polars as pl

from tidemill.schemas.logs import Log, first_position
from tidemill.streams.join.checkpoints import Advance
from tidemill.streams.join.rules import Spans
from tidemill.streams.units import NEVER, Bools, Int64s, micros, moment


class StreamTimes:
    """The stream time and the next offset of each log of one partition."""

    def __init__(self, logs: Iterable[Log]) -> None:
        self.at: dict[Log, int] = dict.fromkeys(logs, NEVER)
        self.offsets: dict[Log, int] = dict.fromkeys(self.at, 0)
        self._advances: list[Advance] = []

    def restore(self, times: Mapping[Log, datetime | None], offsets: Mapping[Log, int]) -> None:
        """Continue from the *times* and *offsets* that a commit recorded."""
        for log, time in times.items():
            self.at[log] = NEVER if time is None else micros(time)
        self.offsets.update(offsets)

    def of(self, log: Log) -> datetime | None:
        """Return the stream time of *log*; None before its first record."""
        return None if self.at[log] == NEVER else moment(self.at[log])

    def known(self) -> dict[Log, datetime]:
        """Return the stream times of all logs that have one."""
        return {log: moment(at) for log, at in self.at.items() if at != NEVER}

    def reached(self) -> int:
        """Return the stream time that every log has reached, in microseconds."""
        return min(self.at.values())

    def follow(self, log: Log, frame: pl.DataFrame) -> tuple[Int64s, Int64s]:
        """Advance *log* past the rows of *frame*.

        Returns:
            The event time of each row, and the stream time before it; in microseconds.

        Raises:
            ValueError: the rows are out of order, or begin before the end of the last ones.
        """
        at = frame["at"].to_physical().to_numpy()
        offsets = frame["offset"].to_numpy() - first_position(log)
        if not len(offsets):
            return at, at
        if offsets[0] < self.offsets[log] or not (np.diff(offsets) > 0).all():
            raise ValueError(
                f"{log} from offset {offsets[0]} to {offsets[-1]} are not in order after "
                f"{self.offsets[log]}"
            )
        reached = np.maximum.accumulate(np.concatenate(([self.at[log]], at)))
        before, after = reached[:-1], reached[-1]
        if "stream_time" in frame.columns:  # rows of the lake have the time they were judged by
            recorded = frame["stream_time"].to_physical().fill_null(NEVER).to_numpy()
            before = np.maximum(before, np.maximum.accumulate(recorded))
            after = max(after, before[-1])
        self.at[log], self.offsets[log] = int(after), int(offsets[-1]) + 1
        return at, before

    def advance(self, log: Log, to: datetime) -> None:
        """Advance the stream time of an idle *log* to *to*; an earlier time changes nothing."""
        if micros(to) > self.at[log]:
            self.at[log] = micros(to)
            self._advances.append(Advance(log, self.offsets[log], to))

    def take_advances(self) -> tuple[Advance, ...]:
        """Return the idle advances since the last call."""
        advances, self._advances = tuple(self._advances), []
        return advances


class Lateness:
    """The rules that say which records are late; docs/guide/joins.md has them in words."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    def is_late_decision(self, at: Int64s, before: Int64s) -> Bools:
        """Return which decisions came later than their grace."""
        return before > at + self._spans.grace

    def is_on_time(self, before: Int64s, decision_at: Int64s) -> Bools:
        """Return which feedback was read before the close time of its decision."""
        return before <= decision_at + self._spans.close

    def is_in_time(self, before: Int64s, decision_at: Int64s) -> Bools:
        """Return which feedback its decision takes: on time, or late within `corrections`."""
        return self.is_on_time(before - self._spans.corrections, decision_at)

    def is_past_every_window(self, at: Int64s, before: Int64s) -> Bools:
        """Return which feedback came too late for every decision it could belong to."""
        last_use = at + self._spans.ahead
        return before > last_use + self._spans.close + self._spans.corrections
