"""A buffer of waiting rows against a plain list."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.streams.state.row_buffer import RowBuffer
from tidemill.streams.state.spill_store import MemorySpillStore

STEP = st.tuples(
    st.lists(st.integers(0, 60), max_size=9), st.integers(0, 60), st.booleans(), st.booleans()
)


@settings(deadline=None)
@given(st.lists(STEP, max_size=12), st.integers(1, 20), st.integers(1, 3))
def test_each_row_is_due_once_and_complete(
    steps: Sequence[tuple[list[int], int, bool, bool]], segment_rows: int, spill_segments: int
) -> None:
    """A row that is due twice is an example twice; a row that is never due is lost."""
    waiting = RowBuffer(segment_rows, store=MemorySpillStore(), spill_segments=spill_segments)
    plain = dict[int, int]()
    for times, before, also_remove, spill in steps:
        at = np.array(times, dtype=np.int64)
        numbers = waiting.add(pl.DataFrame({"time": at}), {"at": at})
        plain |= dict(zip(numbers.tolist(), times, strict=True))
        if also_remove and len(numbers):
            waiting.remove(numbers[:1])
            del plain[int(numbers[0])]
        if spill:
            waiting.evict(waiting.nbytes)
            assert waiting.spilled >= len(waiting) - segment_rows // 8
        due = waiting.due(before)
        assert due.tolist() == sorted(row for row, time in plain.items() if time < before)
        frame = waiting.frame(due)
        expected = [plain.pop(row) for row in due.tolist()]
        assert ([] if frame is None else frame["time"].to_list()) == expected
        assert waiting.columns(due, "at")[0].tolist() == expected
        waiting.remove(due)
        assert len(waiting) == len(plain)
        rows = np.array(sorted(plain), dtype=np.int64)
        assert waiting.columns(rows, "at")[0].tolist() == [plain[row] for row in sorted(plain)]
        both = np.sort(np.concatenate((rows, due)))
        assert waiting.waiting(both).tolist() == [row in plain for row in both.tolist()]


def test_what_is_removed_does_not_stay_in_memory() -> None:
    """State must be empty after a close, including the segments."""
    waiting = RowBuffer()
    for start in range(0, 50_000, 500):
        at = np.arange(start, start + 500, dtype=np.int64)
        waiting.add(pl.DataFrame({"time": at}), {"at": at})
        waiting.remove(waiting.due(start - 2_000))
    assert len(waiting) == 2_500
    assert waiting.segments <= 2
    waiting.remove(waiting.due(10**9))
    assert (len(waiting), waiting.segments) == (0, 0)


def test_spilled_rows_take_next_to_no_memory() -> None:
    """Rows that wait for days are on disk; memory has only the flags of those that still wait."""
    waiting = RowBuffer(store=MemorySpillStore())
    for start in range(0, 100_000, 5_000):
        at = np.arange(start, start + 5_000, dtype=np.int64)
        waiting.add(pl.DataFrame({"time": at, "text": ["x" * 100] * 5_000}), {"at": at})
    full = waiting.nbytes
    assert full > 100_000 * 116
    assert waiting.evict(full) == full
    assert (waiting.nbytes, waiting.spilled) == (0, 100_000)


def test_rows_that_a_store_refuses_stay_in_memory() -> None:
    """Rows that are not committed cannot be read back from the lake."""
    store = MemorySpillStore(until=6)
    waiting = RowBuffer(2, store=store, spill_segments=1)
    for start in range(0, 12, 2):
        at = np.arange(start, start + 2, dtype=np.int64)
        waiting.add(pl.DataFrame({"offset": at}), {"at": at})
    waiting.evict(10**9)
    assert (waiting.spilled, store.spilled) == (6, 6)
    store.until = None
    waiting.evict(10**9)
    assert waiting.spilled == 12
