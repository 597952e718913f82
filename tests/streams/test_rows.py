"""Waiting rows against a plain list."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.streams.rows import WaitingRows

STEP = st.tuples(st.lists(st.integers(0, 60), max_size=9), st.integers(0, 60), st.booleans())


@settings(deadline=None)
@given(st.lists(STEP, max_size=12), st.integers(1, 20))
def test_each_row_is_due_once_and_complete(
    steps: Sequence[tuple[list[int], int, bool]], shelf_rows: int
) -> None:
    """A row that is due twice is an example twice; one that is never due is lost."""
    waiting, plain = WaitingRows(shelf_rows), dict[int, int]()
    for times, before, also_remove in steps:
        at = np.array(times, dtype=np.int64)
        numbers = waiting.add(pl.DataFrame({"time": at}), {"at": at})
        plain |= dict(zip(numbers.tolist(), times, strict=True))
        if also_remove and len(numbers):
            waiting.remove(numbers[:1])
            del plain[int(numbers[0])]
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
    """State must be empty after close, also inside."""
    waiting = WaitingRows()
    for start in range(0, 50_000, 500):
        at = np.arange(start, start + 500, dtype=np.int64)
        waiting.add(pl.DataFrame({"time": at}), {"at": at})
        waiting.remove(waiting.due(start - 2_000))
    assert len(waiting) == 2_500
    assert waiting.shelves <= 2
    waiting.remove(waiting.due(10**9))
    assert (len(waiting), waiting.shelves) == (0, 0)
