"""The schedule of commit cycles: of one loop, and of all loops of a worker among one another."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tidemill.streams.commit.progress_table import PATIENCE_S

SMALL_ROWS = 1_000  # with fewer since its last commit cycle, a loop is a small one
AT_ONCE = 4  # commit cycles of small loops that run together
BATCH_RECORDS = 8_000  # records to decode at once; fewer wait for more, until the next commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """When records are decoded and committed, how long a lake may refuse, and by which clock."""

    every_s: float = 1.0  # a commit of a table takes 12 ms or more; readers see rows this late
    rows: int = 120_000  # limits the work a crash repeats, and the memory of uncommitted rows
    batch_records: int = BATCH_RECORDS  # records to decode at once, or fewer before a commit
    share: float = 0.25  # of a core, for the commit cycles of small loops; busy ones do not wait
    longest_s: float = 45.0  # no loop waits longer for its share; readers see its rows this late
    patience_s: float = PATIENCE_S  # a lake that refuses for longer stops the loop
    clock: Callable[[], float] = time.monotonic  # in seconds; it never goes back


class CommitSchedule:
    """Decides from the time and size of the last commit cycle when the next one is due."""

    def __init__(self, cadence: Cadence) -> None:
        self.cadence = cadence
        self.committed_s = cadence.clock()
        self._is_behind = False  # windows are due that did not fit into the last cycle
        self._was_full = False  # the last cycle was due for its size, not for the time

    @property
    def waited_s(self) -> float:
        """How long the last commit cycle is ago."""
        return self.cadence.clock() - self.committed_s

    def is_full(self, pending_rows: int) -> bool:
        """Return whether *pending_rows* are so many that a commit is due at any time."""
        return pending_rows >= self.cadence.rows

    def is_due(self, is_caught_up: Callable[[], bool]) -> bool:
        """Return whether a commit cycle is due, if there is something to commit.

        The interval prevents many small cycles of live traffic. The end of a backlog is none: after
        a cycle that was due for its size, the rest is committed once all of it has arrived
        (*is_caught_up*).
        """
        if self._is_behind or self.waited_s >= self.cadence.every_s:
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


class Committing(Protocol):
    """A loop whose commit cycle is due."""

    @property
    def waited_s(self) -> float:
        """How long its last commit cycle is ago."""

    @property
    def pending_rows(self) -> int:
        """How many records are not committed."""


L = TypeVar("L", bound=Committing)


class CommitTurns(Generic[L]):
    """Decides which of the due commit cycles run now, so that small ones take a share of a core.

    A commit cycle takes as long for one row as for thousands. So the more loops have a few rows,
    the longer each of them waits: as long as the cycles of all of them take, divided by the share,
    and never longer than `Cadence.longest_s`. Busy loops, whose rows cost more than their cycles,
    do not wait.
    """

    def __init__(self, cadence: Cadence) -> None:
        self._cadence = cadence
        self._filled_s = cadence.clock()
        self._left_s = 0.0  # of the share; below zero after cycles that took longer

    def choose(self, due: Iterable[L]) -> list[L]:
        """Return those of *due* whose cycles run now: busy ones, then those that waited longest."""
        now_s = self._cadence.clock()
        self._left_s += (now_s - self._filled_s) * self._cadence.share
        self._left_s = min(self._left_s, self._cadence.share)  # at most what a second brings
        self._filled_s = now_s
        due = sorted(due, key=lambda each: -each.waited_s)
        busy = [each for each in due if each.pending_rows >= SMALL_ROWS]
        small = [each for each in due if each.pending_rows < SMALL_ROWS]
        overdue = [each for each in small if each.waited_s >= self._cadence.longest_s]
        chosen = small[: max(len(overdue), AT_ONCE if self._left_s >= 0 else 0)]
        return busy + chosen[:AT_ONCE]

    def note_spent(self, seconds: float) -> None:
        """Record that cycles of small loops took *seconds* of a core."""
        self._left_s -= seconds
