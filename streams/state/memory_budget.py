"""How much memory open windows may take, and what leaves it when they take more.

Counted are the bytes of the frames, columns and filters that wait for their windows: not what was
read and is not committed yet, nor the program itself. It knows no lake and no file.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

log = logging.getLogger(__name__)

_ROOM = 16  # a part of the budget is made free at once, so that what leaves leaves in bulk


class Spillable(Protocol):
    """Something that takes memory, and of which most can leave it."""

    @property
    def nbytes(self) -> int:
        """How much it takes."""

    def evict(self, nbytes: int) -> int:
        """Let about *nbytes* leave, as far as they can; return how many did."""


@dataclass(frozen=True, slots=True)
class Eviction:
    """What the open windows take, after how much of them has just left, in bytes."""

    nbytes: int
    evicted: int


class MemoryBudget:
    """A limit on what spillables take together, in bytes."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._is_over = False

    def enforce(self, spillables: Collection[Spillable]) -> Eviction:
        """Let spillables leave until all of them are within the budget, as far as they can.

        The largest goes first, half of it at a time. What cannot leave stays, and is told once:
        nothing is ever dropped.

        Raises:
            TidemillError: a store has no room.
        """
        taken = sum(spillable.nbytes for spillable in spillables)
        if taken <= self.nbytes:
            self._is_over = False
            return Eviction(taken, 0)
        left = _evict(list(spillables), taken - self.nbytes + self.nbytes // _ROOM)
        self._warn(taken - left)
        return Eviction(taken - left, left)

    def _warn(self, taken: int) -> None:
        if taken > self.nbytes and not self._is_over:
            log.warning(
                "open windows take %.1f MB of memory and the budget is %.1f MB; nothing is dropped"
                "\n  hint: raise `memory` in the loop file, or start more workers",
                taken / 1e6,
                self.nbytes / 1e6,
            )
        self._is_over = taken > self.nbytes


def _evict(spillables: Sequence[Spillable], nbytes: int) -> int:
    """Let *nbytes* of *spillables* leave; return how many did."""
    left, able = 0, list(spillables)
    while able and left < nbytes:
        spillable = max(able, key=lambda each: each.nbytes)
        gone = spillable.evict(min(nbytes - left, spillable.nbytes // 2 + 1))
        left += gone
        if gone <= 0:
            able.remove(spillable)
    return left
