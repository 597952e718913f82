"""The wall-clock side of the join: how far the stream time of a log with nothing to read may go.

An idle log no longer holds its partition back. When all are idle, time goes on at the pace of the
wall clock from where it stands, so a replay of last year that pauses is not closed by today's date.
It knows no Kafka: who calls it says what is at its end. *now_s* is any clock that never goes back.
"""

from collections.abc import Iterable, Mapping, Set
from datetime import datetime, timedelta

from tidemill.schemas.logs import Log
from tidemill.streams.join.rules import JoinRules
from tidemill.streams.units import micros


class IdleClock:
    """When the logs of one partition were last read, and how far their time may go on."""

    def __init__(self, logs: Iterable[Log], idle_after: timedelta, now_s: float) -> None:
        self._idle_after_s = idle_after.total_seconds()
        self._read_s: dict[Log, float] = dict.fromkeys(logs, now_s)
        self._stands_s = now_s  # since when the newest stream time stands still

    def read(self, log: Log, now_s: float) -> None:
        """Take note that a batch of *log* was read."""
        self._read_s[log] = now_s
        self._stands_s = now_s

    def quiet(self, now_s: float) -> set[Log]:
        """Return the logs of which nothing was read for `idle_after`."""
        return {log for log, at_s in self._read_s.items() if now_s - at_s >= self._idle_after_s}

    def targets(
        self, times: Mapping[Log, datetime | None], idle: Set[Log], now_s: float
    ) -> dict[Log, datetime]:
        """Return how far each of the *idle* logs may go on; empty if nothing was ever read.

        Beside busy logs they follow the slowest: no window closes before it.

        Args:
            times: the stream time of each log.
            idle: logs that are quiet and whose end, asked of the broker, is read.
            now_s: the clock.
        """
        known = [time for time in times.values() if time is not None]
        if not known or not idle:
            return {}
        busy = [time for log, time in times.items() if log not in idle]
        if busy:
            slowest = [time for time in busy if time is not None]
            return dict.fromkeys(idle, min(slowest)) if len(slowest) == len(busy) else {}
        target = max(known) + timedelta(seconds=now_s - self._stands_s)
        return dict.fromkeys(idle, target)

    def advanced(self, now_s: float) -> None:
        """Take note that all logs were moved on to the target of *now_s*."""
        self._stands_s = now_s


def frontier_at(rules: JoinRules, time: datetime) -> int:
    """Return the frontier, in microseconds, once all logs have come to *time*."""
    spans = rules.spans()
    return (micros(time) - spans.close - 1) // spans.bucket * spans.bucket
