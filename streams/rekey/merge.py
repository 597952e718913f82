"""Merges several logs by stream time, so that a fast log does not make the rows of others late.

Feedback is judged by the stream time of its log before it. So if records of several partitions are
written to one log, they have to be ordered by the stream time that their own partition had at each
of them. Times are in microseconds.
"""

import heapq
from collections import deque
from collections.abc import Container, Iterable, Mapping
from typing import Generic, TypeVar

from tidemill.streams.units import NEVER

MergedRow = TypeVar("MergedRow")


class StreamTimeMerge(Generic[MergedRow]):
    """A queue for each log, from which rows are taken in the order of stream time."""

    def __init__(self) -> None:
        self._queues: dict[int, deque[tuple[int, MergedRow]]] = {}
        self._times: dict[int, int] = {}

    def take(self, log: int, rows: Iterable[tuple[int, MergedRow]]) -> None:
        """Queue *rows* of *log* with their event times; `NEVER` for a row without one."""
        queue = self._queues.setdefault(log, deque())
        time = self._times.get(log, NEVER)
        for at, row in rows:
            time = max(time, at)
            queue.append((time, row))
        self._times[log] = time

    def waiting(self, log: int) -> int:
        """Return how many rows of *log* are waiting."""
        return len(self._queues.get(log, ()))

    def hand_out(self, ended: Container[int], most: int) -> list[MergedRow]:
        """Return at most *most* rows that no later row can precede.

        An empty queue holds all others back, because the next row of its log may be earlier; except
        for logs that have *ended*, which have nothing to read now.
        """
        if any(not queue and log not in ended for log, queue in self._queues.items()):
            return []
        heads = [(queue[0][0], log) for log, queue in self._queues.items() if queue]
        heapq.heapify(heads)
        rows: list[MergedRow] = []
        while heads and len(rows) < most:
            log = heads[0][1]
            queue = self._queues[log]
            rows.append(queue.popleft()[1])
            if queue:
                heapq.heapreplace(heads, (queue[0][0], log))
            elif log in ended:
                heapq.heappop(heads)
            else:
                break
        return rows

    def watch(self, logs: Iterable[int]) -> None:
        """Add *logs* with empty queues."""
        for log in logs:
            self._queues.setdefault(log, deque())

    def counts(self) -> Mapping[int, int]:
        """Return how many rows of each log are waiting."""
        return {log: len(queue) for log, queue in self._queues.items()}
