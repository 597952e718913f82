"""The budget of open windows: what is evicted, how much, and what is logged when nothing can be."""

import logging

import pytest

from tidemill.streams.state.memory_budget import MemoryBudget


class Heap:
    """Something that can spill all but *stuck* bytes."""

    def __init__(self, nbytes: int, stuck: int = 0) -> None:
        self.nbytes = nbytes
        self.stuck = stuck

    def evict(self, nbytes: int) -> int:
        """Spill so many bytes."""
        freed = min(nbytes, self.nbytes - self.stuck)
        self.nbytes -= freed
        return freed


def test_within_the_budget_nothing_is_evicted() -> None:
    """Windows that fit are as quick as if there were no budget."""
    heaps = [Heap(40), Heap(60)]
    eviction = MemoryBudget(100).enforce(heaps)
    assert (eviction.nbytes, eviction.evicted) == (100, 0)


def test_the_largest_is_evicted_first_and_a_little_more_than_needed() -> None:
    """Rows evicted in bulk are one file, not a thousand."""
    heaps = [Heap(1_000), Heap(100), Heap(10)]
    eviction = MemoryBudget(320).enforce(heaps)
    assert eviction.nbytes == sum(heap.nbytes for heap in heaps) == 320 - 320 // 16
    assert [heap.nbytes for heap in heaps[1:]] == [100, 10]


def test_what_cannot_be_evicted_is_logged_once_and_stays(caplog: pytest.LogCaptureFixture) -> None:
    """An operator has to know of the pressure, and it must never drop a row."""
    budget, heaps = MemoryBudget(100), [Heap(500, stuck=400), Heap(300, stuck=0)]
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert budget.enforce(heaps).nbytes == 400
    assert len(caplog.records) == 1
    assert "nothing is dropped" in caplog.text
    heaps[0].stuck = 0
    assert budget.enforce(heaps).nbytes <= 100
