"""When a commit cycle of a loop is due."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tidemill.streams.commit.progress_table import PATIENCE_S

TOGETHER = 8_000  # so many records are decoded at once; fewer wait for more until the next commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """When work is due, how long it waits for a lake that refuses, and by which clock."""

    every_s: float = 1.0  # a commit of a table takes 12 ms and more; readers see rows this late
    rows: int = 120_000  # bounds what a crash repeats, and the memory of what is not committed
    together: int = TOGETHER  # so many records are decoded at once, or what a commit finds
    patience_s: float = PATIENCE_S  # a lake that refuses for longer ends the worker
    clock: Callable[[], float] = time.monotonic  # in seconds; it never goes back


class CommitSchedule:
    """Decides from the time and size of the last commit cycle when the next one is due."""

    def __init__(self, cadence: Cadence) -> None:
        self.cadence = cadence
        self.committed_s = cadence.clock()
        self._is_behind = False  # windows are due that did not fit into the last cycle
        self._was_full = False  # the last cycle was due for its size, not for the time

    def is_full(self, pending_rows: int) -> bool:
        """Whether so many rows are committed at once, whatever the time."""
        return pending_rows >= self.cadence.rows

    def is_due(self, is_caught_up: Callable[[], bool]) -> bool:
        """Whether it is time for a commit cycle, provided there is something to commit.

        After a full cycle the rest of a backlog does not wait, once all of it is here
        (*is_caught_up*): it is no small cycle of live traffic, which the interval is to prevent.
        """
        waited_s = self.cadence.clock() - self.committed_s
        if self._is_behind or waited_s >= self.cadence.every_s:
            return True
        return self._was_full and is_caught_up()

    def note_behind(self, is_behind: bool) -> None:
        """Record whether windows are due that did not fit into this cycle."""
        self._is_behind = is_behind

    def note_committed(self) -> None:
        """Record that a cycle is in the lake now."""
        self.committed_s, self._was_full = self.cadence.clock(), False

    def note_full(self) -> None:
        """Record that the cycle just committed was due for its size."""
        self._was_full = True
