"""Which records the join does not take, because their time cannot be what their producer meant.

The event time of a record is compared with the time at which its broker appended it. One that is
far ahead would close windows that are still open; one that is decades behind is a number of another
unit, and would become a labeled example of 1970.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from tidemill.schemas.loop.durations import format_duration
from tidemill.streams.units import LAST_MOMENT, Int64s, micros, moment

ReasonAndDetail = tuple[str, str]
"""Reason and detail of a dead letter."""

_LAST_MS = LAST_MOMENT // 1_000
_UNITS = {"milliseconds": 1_000, "seconds": 1_000_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTimes:
    """The limits of a loop: how far an event time may be ahead of its record, and how far behind.

    Records have the broker's time. With CreateTime they have what a producer wrote, so that cannot
    be trusted either.
    """

    max_skew: timedelta
    max_age: timedelta

    def check(self, at: Int64s, arrived_ms: Int64s) -> tuple[Int64s, Mapping[int, ReasonAndDetail]]:
        """Return when each record arrived, and which of them are refused, by row.

        Args:
            at: shape (n,); event times in microseconds.
            arrived_ms: shape (n,); the times of the records in milliseconds, as they are.

        Returns:
            shape (n,), in microseconds, within the years 1970 to 9999; and by row why the record is
            refused.
        """
        known_ms = np.clip(arrived_ms, 0, _LAST_MS)
        arrived = known_ms * 1_000
        ahead = at - arrived
        odd = known_ms != arrived_ms
        odd |= (ahead > micros(self.max_skew)) | (ahead < -micros(self.max_age))
        refused = {
            int(row): self._why(int(at[row]), int(arrived[row]), int(arrived_ms[row]))
            for row in np.flatnonzero(odd)
        }
        return arrived, refused

    def _why(self, at: int, arrived: int, arrived_ms: int) -> ReasonAndDetail:
        if not 0 <= arrived_ms <= _LAST_MS:
            return "record-time", (
                f"the time of its record is {arrived_ms} ms, outside the years 1970 to 9999: the "
                "topic takes it from the producer; set message.timestamp.type=LogAppendTime"
            )
        if at > arrived:
            return "skew", "its event time is past the broker's by more than max_skew"
        for unit, length in _UNITS.items():
            if abs(at * length - arrived) <= micros(self.max_age):
                return "age", f"its event time {at} seems to be in {unit}, not in microseconds"
        day, limit = moment(at).date().isoformat(), format_duration(self.max_age)
        return "age", f"its event time {day} is further before its record than max_age, {limit}"
