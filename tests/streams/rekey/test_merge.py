"""Merged logs: rows that were on time in their own log are on time in the merged one."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from tidemill.streams.rekey.merge import StreamTimeMerge
from tidemill.streams.units import NEVER

TIMES = st.integers(0, 50)
LOGS = st.lists(st.lists(TIMES, max_size=15), min_size=1, max_size=4)
Row = tuple[int, int, int]  # log, row in it, event time


def handed_out(logs: list[list[int]], sizes: list[int], most: int) -> list[Row]:
    """Read *logs* by turns in portions of *sizes*, as a network would deliver them."""
    ordering: StreamTimeMerge[Row] = StreamTimeMerge()
    ordering.watch(range(len(logs)))
    read = [0] * len(logs)
    found: list[Row] = []
    turns = 0
    while any(position < len(log) for position, log in zip(read, logs, strict=True)):
        log = turns % len(logs)
        size = sizes[turns % len(sizes)] if sizes else 1
        rows = [(log, row, at) for row, at in enumerate(logs[log])][read[log] :][:size]
        ordering.take(log, [(row[2], row) for row in rows])
        read[log] += len(rows)
        ended = {number for number, each in enumerate(logs) if read[number] == len(each)}
        found += ordering.hand_out(ended, most)
        turns += 1
    while more := ordering.hand_out(range(len(logs)), most):
        found += more
    return found


def stream_times(times: list[int]) -> list[int]:
    """Return the stream time before each row."""
    return [NEVER, *accumulate(times, max)][:-1]


@given(LOGS, st.lists(st.integers(1, 6), max_size=8), st.integers(1, 9))
def test_each_row_comes_once_and_in_the_order_of_its_log(
    logs: list[list[int]], sizes: list[int], most: int
) -> None:
    """The internal topic must have the records of the source in another order, and nothing else."""
    found = handed_out(logs, sizes, most)
    for number, log in enumerate(logs):
        mine = [(row, at) for each, row, at in found if each == number]
        assert mine == list(enumerate(log))


@given(LOGS, st.lists(st.integers(1, 6), max_size=8), st.integers(1, 9))
def test_no_row_is_later_than_it_was(logs: list[list[int]], sizes: list[int], most: int) -> None:
    """A partition that is read first must not make the others' rows late, in any backlog."""
    found = handed_out(logs, sizes, most)
    before = stream_times([at for _log, _place, at in found])
    for (log, row, at), time in zip(found, before, strict=True):
        own = stream_times(logs[log])[row]
        assert time <= max(own, at)


def test_reading_one_log_after_the_other_would_make_rows_late() -> None:
    """The negative control of the test above."""
    logs = [[10, 20, 30], [1, 2, 3]]
    one_by_one = [at for log in logs for at in log]
    assert stream_times(one_by_one)[3] > 1
    assert [at for _log, _place, at in handed_out(logs, [1], 9)] == [1, 2, 3, 10, 20, 30]


def test_a_log_with_nothing_yet_holds_the_others_back_until_it_has_ended() -> None:
    """Its rows may be earlier than any that were read."""
    ordering: StreamTimeMerge[str] = StreamTimeMerge()
    ordering.watch([0, 1])
    ordering.take(0, [(7, "a"), (NEVER, "unreadable"), (9, "b")])
    assert ordering.hand_out((), 10) == []
    assert ordering.hand_out({1}, 10) == ["a", "unreadable", "b"]
    assert ordering.counts() == {0: 0, 1: 0}
