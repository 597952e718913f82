"""Idle advances: how far the stream time of a log with nothing to read may go by the clock.

An idle log no longer holds its partition back. If all logs are idle, their time continues from the
newest event time at the pace of the clock: a replay of last year that pauses is not closed by
today's date. The caller says which logs are read to their end, and passes *now_s*, the seconds of
any clock that never goes back.
"""

from collections.abc import Iterable, Mapping, Set
from datetime import datetime, timedelta

from tidemill.schemas.logs import Log
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.units import micros


class IdleClock:
    """When each log of one partition was read last, and how far its time may advance."""

    def __init__(self, logs: Iterable[Log], idle_after: timedelta, now_s: float) -> None:
        self._idle_after_s = idle_after.total_seconds()
        self._read_s: dict[Log, float] = dict.fromkeys(logs, now_s)
        self._advanced_s = now_s  # when the newest stream time advanced last

    def read(self, log: Log, now_s: float) -> None:
        """Record that a batch of *log* was read."""
        self._read_s[log] = now_s
        self._advanced_s = now_s

    def quiet(self, now_s: float) -> set[Log]:
        """Return the logs from which nothing was read for `idle_after`."""
        return {log for log, at_s in self._read_s.items() if now_s - at_s >= self._idle_after_s}

    def targets(
        self, times: Mapping[Log, datetime | None], idle: Set[Log], now_s: float
    ) -> dict[Log, datetime]:
        """Return the stream time that each of the *idle* logs may advance to.

        If other logs are busy, idle ones follow the slowest of them, because no window closes
        before it. Nothing advances if nothing was ever read.

        Args:
            times: the stream time of each log.
            idle: logs that are quiet and read to the end that the broker reported.
            now_s: the clock.
        """
        known = [time for time in times.values() if time is not None]
        if not known or not idle:
            return {}
        busy = [time for log, time in times.items() if log not in idle]
        if busy:
            slowest = [time for time in busy if time is not None]
            return dict.fromkeys(idle, min(slowest)) if len(slowest) == len(busy) else {}
        target = max(known) + timedelta(seconds=now_s - self._advanced_s)
        return dict.fromkeys(idle, target)

    def advanced(self, now_s: float) -> None:
        """Record that all logs advanced to the targets of *now_s*."""
        self._advanced_s = now_s


def frontier_at(rules: JoinRules, time: datetime) -> int:
    """Return the frontier, in microseconds, once all logs have reached *time*."""
    spans = rules.spans()
    return (micros(time) - spans.close - 1) // spans.bucket * spans.bucket
