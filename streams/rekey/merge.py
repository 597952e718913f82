"""Merges several logs by stream time, so that a fast log does not make the rows of others late.

Feedback is judged by the stream time of its log before it. So if records of several partitions are
written to one log, they have to be ordered by the stream time that their own partition had at each
of them. Times are in microseconds.

A log without rows may have an earlier one that nobody has read yet. So a row overtakes it only if
the broker was asked for the end of that log after the row had been read: what the log gets later
was appended later than the row.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from tidemill.streams.units import NEVER

MergedRow = TypeVar("MergedRow")


class _QueuedRow(NamedTuple, Generic[MergedRow]):
    time: int  # the stream time of its log with it
    moment: int  # when it was taken
    row: MergedRow


class StreamTimeMerge(Generic[MergedRow]):
    """A queue for each log, from which rows are taken in the order of stream time."""

    def __init__(self) -> None:
        self._queues: dict[int, deque[_QueuedRow[MergedRow]]] = {}
        self._times: dict[int, int] = {}
        self._ended: dict[int, int] = {}
        self._moment = 0

    @property
    def moment(self) -> int:
        """How often rows were taken so far; a question to the broker has the moment before it."""
        return self._moment

    def watch(self, logs: Iterable[int]) -> None:
        """Add *logs* with empty queues."""
        for log in logs:
            self._queues.setdefault(log, deque())
            self._ended.setdefault(log, 0)

    def take(self, log: int, rows: Iterable[tuple[int, MergedRow]]) -> None:
        """Queue *rows* of *log* with their event times; `NEVER` for a row without one."""
        self.watch([log])
        self._moment += 1
        queue, time = self._queues[log], self._times.get(log, NEVER)
        for at, row in rows:
            time = max(time, at)
            queue.append(_QueuedRow(time, self._moment, row))
        self._times[log] = time

    def note_ended(self, logs: Iterable[int], moment: int) -> None:
        """Record that *logs* are read up to the ends which the broker told after *moment*."""
        for log in logs:
            self._ended[log] = max(self._ended[log], moment)

    def waiting(self, log: int) -> int:
        """Return how many rows of *log* are waiting."""
        return len(self._queues.get(log, ()))

    def hand_out(self, most: int) -> list[MergedRow]:
        """Return at most *most* rows that no row of another log can precede.

        A log without rows holds back what was taken after the last question for its end.
        """
        heads = [(queue[0].time, log) for log, queue in self._queues.items() if queue]
        heapq.heapify(heads)
        until = self._open_until()
        rows: list[MergedRow] = []
        while heads and len(rows) < most:
            log = heads[0][1]
            queue = self._queues[log]
            if queue[0].moment > until:
                break
            rows.append(queue.popleft().row)
            if queue:
                heapq.heapreplace(heads, (queue[0].time, log))
            else:
                heapq.heappop(heads)
                until = min(until, self._ended[log])
        return rows

    def _open_until(self) -> int:
        """Return the latest moment whose rows may overtake all logs without rows."""
        ended = (self._ended[log] for log, queue in self._queues.items() if not queue)
        return min(ended, default=self._moment)

    def counts(self) -> Mapping[int, int]:
        """Return how many rows of each log are waiting."""
        return {log: len(queue) for log, queue in self._queues.items()}
