"""The training cycles that stay in memory: those of the loops that were worked on last.

A cycle holds the history of its models, a learner and some tables. It is dropped at any moment
without a loss: the next one continues from the lake, as after a crash.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from tidemill.schemas.published import Published
from tidemill.trainers.cycle import TrainingCycle
from tidemill.trainers.trainer import NewestCycle


@dataclass(frozen=True, slots=True)
class TakenCycle:
    """A cycle that one thread works with: *cycle*, of *loop*, held by *newest*."""

    loop: str
    newest: NewestCycle
    cycle: TrainingCycle


class OpenCycles:
    """At most *most* cycles that nobody works with. Safe to share among threads.

    Args:
        make: returns a new holder of the newest cycle of a loop, by its name.
        most: how many of them stay.
    """

    def __init__(self, make: Callable[[str], NewestCycle], *, most: int) -> None:
        self._make, self._most = make, most
        self._lock = threading.Lock()
        self._cycles: OrderedDict[str, NewestCycle] = OrderedDict()

    def take(self, loop: str, published: Published) -> TakenCycle:
        """Return the cycle of *loop*, opened if need be; it is the caller's until `give`.

        Raises:
            TidemillError: it cannot be opened.
        """
        with self._lock:
            newest = self._cycles.pop(loop, None)
        newest = newest or self._make(loop)
        return TakenCycle(loop, newest, newest.among(published))

    def give(self, taken: TakenCycle) -> None:
        """Take back a cycle that may be wanted again; the one unused for longest may go."""
        with self._lock:
            self._cycles[taken.loop] = taken.newest
            while len(self._cycles) > self._most:
                self._cycles.popitem(last=False)

    def drop(self, loop: str) -> None:
        """Forget the cycle of *loop*."""
        with self._lock:
            self._cycles.pop(loop, None)
