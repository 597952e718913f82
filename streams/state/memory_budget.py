"""The memory budget of open windows, and the eviction of what exceeds it.

The budget counts the bytes of open rows, their columns, ids and Bloom filters. It does not count
rows that were read and are not committed yet, nor the program itself.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

logger = logging.getLogger(__name__)

_HEADROOM = 16  # a 16th of the budget is freed beyond what is needed, so that evictions are few


class Spillable(Protocol):
    """Something that takes memory and can spill most of it."""

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""

    def evict(self, nbytes: int) -> int:
        """Spill about *nbytes*, or as many as can be; return how many bytes are free now."""


@dataclass(frozen=True, slots=True)
class Eviction:
    """How many bytes the open windows take, and how many were just evicted."""

    nbytes: int
    evicted: int


class MemoryBudget:
    """A limit on what spillables take together, in bytes."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._is_over = False

    def enforce(self, spillables: Collection[Spillable]) -> Eviction:
        """Evict from *spillables* until they fit the budget together, as far as they can.

        The largest is evicted first, half of it at a time. Rows that cannot be spilled stay in
        memory, which is logged once: nothing is ever dropped.

        Raises:
            TidemillError: a store is full.
        """
        taken = sum(spillable.nbytes for spillable in spillables)
        if taken <= self.nbytes:
            self._is_over = False
            return Eviction(taken, 0)
        evicted = _evict(list(spillables), taken - self.nbytes + self.nbytes // _HEADROOM)
        self._warn(taken - evicted)
        return Eviction(taken - evicted, evicted)

    def _warn(self, taken: int) -> None:
        if taken > self.nbytes and not self._is_over:
            logger.warning(
                "open windows take %.1f MB of memory and the budget is %.1f MB; nothing is dropped"
                "\n  hint: raise `memory` in the loop file, or start more workers",
                taken / 1e6,
                self.nbytes / 1e6,
            )
        self._is_over = taken > self.nbytes


def _evict(spillables: Sequence[Spillable], nbytes: int) -> int:
    """Evict *nbytes* of *spillables*, or as many as can be; return how many bytes were evicted."""
    evicted, candidates = 0, list(spillables)
    while candidates and evicted < nbytes:
        largest = max(candidates, key=lambda each: each.nbytes)
        freed = largest.evict(min(nbytes - evicted, largest.nbytes // 2 + 1))
        evicted += freed
        if freed <= 0:
            candidates.remove(largest)
    return evicted
