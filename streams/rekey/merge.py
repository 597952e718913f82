"""Several logs as one, in the order of their stream times: no log's pace makes another's rows late.

Whether feedback is on time is judged by the stream time of its log before it. Records of several
partitions that are written to one log therefore have to come in the order in which their own
partitions had reached them. It knows no Kafka; a time is in microseconds.
"""

import heapq
from collections import deque
from collections.abc import Container, Iterable, Mapping
from typing import Generic, TypeVar

from tidemill.streams.units import NEVER

MergedRow = TypeVar("MergedRow")


class StreamTimeMerge(Generic[MergedRow]):
    """Rows of several logs, taken in and handed out in the order of stream time."""

    def __init__(self) -> None:
        self._queues: dict[int, deque[tuple[int, MergedRow]]] = {}
        self._times: dict[int, int] = {}

    def take(self, log: int, rows: Iterable[tuple[int, MergedRow]]) -> None:
        """Take in *rows* of *log* with their event times; `NEVER` for one that tells none."""
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
        """Return what nothing can come before any more, at most so many rows.

        A log of which nothing waits holds all others back, for its next row may be earlier; unless
        it is among those that have *ended* for now, and have nothing to read.
        """
        if any(not queue and log not in ended for log, queue in self._queues.items()):
            return []
        heads = [(queue[0][0], log) for log, queue in self._queues.items() if queue]
        heapq.heapify(heads)
        found: list[MergedRow] = []
        while heads and len(found) < most:
            log = heads[0][1]
            queue = self._queues[log]
            found.append(queue.popleft()[1])
            if queue:
                heapq.heapreplace(heads, (queue[0][0], log))
            elif log in ended:
                heapq.heappop(heads)
            else:
                break
        return found

    def watch(self, logs: Iterable[int]) -> None:
        """Wait for rows of *logs* too, before any has come."""
        for log in logs:
            self._queues.setdefault(log, deque())

    def counts(self) -> Mapping[int, int]:
        """Return how many rows of each log are waiting."""
        return {log: len(queue) for log, queue in self._queues.items()}
