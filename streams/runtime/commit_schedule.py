"""The schedule of a loop's commit cycles."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tidemill.streams.commit.progress_table import PATIENCE_S

BATCH_RECORDS = 8_000  # records to decode at once; fewer wait for more, until the next commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """When records are decoded and committed, how long a lake may refuse, and by which clock."""

    every_s: float = 1.0  # a commit of a table takes 12 ms or more; readers see rows this late
    rows: int = 120_000  # limits the work a crash repeats, and the memory of uncommitted rows
    batch_records: int = BATCH_RECORDS  # records to decode at once, or fewer before a commit
    patience_s: float = PATIENCE_S  # a lake that refuses for longer stops the loop
    clock: Callable[[], float] = time.monotonic  # in seconds; it never goes back


class CommitSchedule:
    """Decides from the time and size of the last commit cycle when the next one is due."""

    def __init__(self, cadence: Cadence) -> None:
        self.cadence = cadence
        self.committed_s = cadence.clock()
        self._is_behind = False  # windows are due that did not fit into the last cycle
        self._was_full = False  # the last cycle was due for its size, not for the time

    def is_full(self, pending_rows: int) -> bool:
        """Return whether *pending_rows* are so many that a commit is due at any time."""
        return pending_rows >= self.cadence.rows

    def is_due(self, is_caught_up: Callable[[], bool]) -> bool:
        """Return whether a commit cycle is due, if there is something to commit.

        The interval prevents many small cycles of live traffic. The end of a backlog is none: after
        a cycle that was due for its size, the rest is committed once all of it has arrived
        (*is_caught_up*).
        """
        waited_s = self.cadence.clock() - self.committed_s
        if self._is_behind or waited_s >= self.cadence.every_s:
            return True
        return self._was_full and is_caught_up()

    def note_behind(self, is_behind: bool) -> None:
        """Record whether due windows are left for the next cycle."""
        self._is_behind = is_behind

    def note_committed(self) -> None:
        """Record that a cycle was committed now."""
        self.committed_s, self._was_full = self.cadence.clock(), False

    def note_full(self) -> None:
        """Record that the cycle just committed was due for its size."""
        self._was_full = True
