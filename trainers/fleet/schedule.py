"""The order in which one process works on many loops: who waits longest comes first.

A loop is due when a commit has come, when its slow poll has come, or when its backoff is over. It
waits in one of two queues: for a step (the cheap look, and a slice of online learning), or for a
training in batch. Time comes in as an argument, and the caller holds the lock.
"""

from collections.abc import Mapping
from dataclasses import dataclass

FIRST_BACKOFF_S = 1.0
LAST_BACKOFF_S = 300.0
SILENT_S = 30.0  # three heartbeats: a trainer that has fenced this one and says no more has ended


@dataclass(slots=True, kw_only=True)
class _Wait:
    """What one loop waits for, and since when it is due; in the future if it is not."""

    due_s: float
    is_batch: bool = False
    is_woken: bool = False  # while it was worked on
    failures: int = 0
    fenced_s: float | None = None  # when another trainer was last known to train it


class FleetSchedule:
    """Says which loop of those that a process owns is worked on next.

    Args:
        poll_s: the longest time without a look at a loop that nothing has woken.
        batch_share: the share of its time for which batches are trained; below 1, the queue of
            batches rests after each one.
    """

    def __init__(self, *, poll_s: float, batch_share: float = 1.0) -> None:
        self._poll_s, self._batch_share = poll_s, batch_share
        self._waits: dict[str, _Wait] = {}
        self._versions: dict[str, int] = {}
        self._running: set[str] = set()  # also loops that are no longer owned
        self._batch_from_s = 0.0

    @property
    def loops(self) -> list[str]:
        """The loops that are owned and not left to another trainer."""
        return [name for name, wait in self._waits.items() if wait.fenced_s is None]

    @property
    def fenced(self) -> list[str]:
        """The loops that are owned and left to the trainer that has fenced this one."""
        return [name for name, wait in self._waits.items() if wait.fenced_s is not None]

    def own(self, versions: Mapping[str, int], now_s: float) -> list[str]:
        """Own the loops of *versions*, by their newest one, and no others; return those dropped.

        A loop that is new, or has a new version, is due at once, whatever was the matter with it.
        """
        dropped = [name for name in self._waits if name not in versions]
        for name in dropped:
            del self._waits[name]
        for name, version in versions.items():
            if name not in self._waits or self._versions[name] != version:
                self._waits[name] = _Wait(due_s=now_s, is_woken=name in self._running)
        self._versions = dict(versions)
        return dropped

    def wake(self, loop: str, now_s: float) -> None:
        """Have *loop* looked at now; one that failed still waits for the end of its backoff."""
        wait = self._waits.get(loop)
        if wait is None or wait.is_batch or wait.failures:
            return
        if loop in self._running:
            wait.is_woken = True
        else:
            wait.due_s = min(wait.due_s, now_s)

    def take(self, now_s: float, *, is_batch: bool) -> str | None:
        """Return the loop that waits longest, which is then worked on; None if none is due."""
        if is_batch and now_s < self._batch_from_s:
            return None
        due = [
            (wait.due_s, name)
            for name, wait in self._waits.items()
            if wait.is_batch == is_batch and self._is_free(name, wait, now_s)
        ]
        if not due:
            return None
        _, loop = min(due)
        self._running.add(loop)
        self._waits[loop].fenced_s = None
        return loop

    def _is_free(self, name: str, wait: _Wait, now_s: float) -> bool:
        is_left = wait.fenced_s is not None and now_s < wait.fenced_s + SILENT_S
        return wait.due_s <= now_s and not is_left and name not in self._running

    def done(self, loop: str, now_s: float, *, again_s: float | None = None) -> None:
        """Say that *loop* was worked on without an error; it is due in *again_s*, or by its poll.

        A commit that came meanwhile makes it due at once, behind those that are due already.
        """
        self._running.discard(loop)
        wait = self._waits.get(loop)
        if wait is not None:
            pause_s = 0.0 if wait.is_woken else self._poll_s if again_s is None else again_s
            self._waits[loop] = _Wait(due_s=now_s + pause_s)

    def wants_batch(self, loop: str, now_s: float) -> None:
        """Have *loop* wait for a training in batch, from now on."""
        self._running.discard(loop)
        if loop in self._waits:
            self._waits[loop] = _Wait(due_s=now_s, is_batch=True)

    def trained(self, took_s: float, now_s: float) -> None:
        """Say that a training in batch *took_s*: the next one begins when its share allows it."""
        self._batch_from_s = now_s + took_s * (1.0 / self._batch_share - 1.0)

    def failed(self, loop: str, now_s: float) -> float:
        """Say that an error ended the work on *loop*; return after how many seconds it goes on."""
        self._running.discard(loop)
        wait = self._waits.get(loop)
        if wait is None:
            return 0.0
        pause_s = min(LAST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(wait.failures, 30))
        self._waits[loop] = _Wait(due_s=now_s + pause_s, failures=wait.failures + 1)
        return pause_s

    def fence(self, loop: str, now_s: float) -> None:
        """Leave *loop* to the trainer that has fenced this one, while that one is heard of."""
        self._running.discard(loop)
        if loop in self._waits:
            self._waits[loop] = _Wait(due_s=now_s, fenced_s=now_s)

    def heard(self, loop: str, now_s: float) -> None:
        """Say that another trainer has said that it trains *loop*."""
        wait = self._waits.get(loop)
        if wait is not None and wait.fenced_s is not None:
            wait.fenced_s = now_s

    def waited_s(self, now_s: float, *, is_batch: bool) -> float:
        """Return for how long the loop has waited that waits longest in a queue; 0 for none."""
        first_s = min(
            (
                wait.due_s
                for name, wait in self._waits.items()
                if wait.is_batch == is_batch and self._is_free(name, wait, now_s)
            ),
            default=now_s,
        )
        return max(0.0, now_s - first_s)
