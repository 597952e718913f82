"""Merged logs: rows that were on time in their own log are on time in the merged one."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

import pytest
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
        ended = [number for number, each in enumerate(logs) if read[number] == len(each)]
        ordering.note_ended(ended, ordering.moment)
        found += ordering.hand_out(most)
        turns += 1
    ordering.note_ended(range(len(logs)), ordering.moment)
    while more := ordering.hand_out(most):
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
    assert ordering.hand_out(10) == []
    ordering.note_ended([1], ordering.moment)
    assert ordering.hand_out(10) == ["a", "unreadable", "b"]
    assert ordering.counts() == {0: 0, 1: 0}


def test_a_row_does_not_overtake_what_was_appended_before_the_row_was_read() -> None:
    """Two records of one flush: the later one is read first, and the answer about ends is older."""
    ordering: StreamTimeMerge[str] = StreamTimeMerge()
    ordering.watch([0, 1])
    asked = ordering.moment
    ordering.take(1, [(101, "g")])  # meanwhile "f" of log 0 and "g" were appended
    ordering.note_ended([0, 1], asked)
    assert ordering.hand_out(10) == []
    ordering.take(0, [(1, "f")])
    ordering.note_ended([0, 1], ordering.moment)
    assert ordering.hand_out(10) == ["f", "g"]


@dataclass
class Brokers:
    """Logs that grow, a reader that is behind, and questions whose answers come late."""

    draw: random.Random
    width: int
    logs: list[list[tuple[int, int]]] = field(default_factory=list)  # (order of appends, time)
    read: list[int] = field(default_factory=list)
    answer: tuple[list[int], int] | None = None  # the ends, and the moment before the question
    found: list[tuple[int, int, int]] = field(default_factory=list)  # (log, order, time)
    ordering: StreamTimeMerge[tuple[int, int, int]] = field(default_factory=StreamTimeMerge)
    appends: int = 0

    def __post_init__(self) -> None:
        self.logs = [[] for _ in range(self.width)]
        self.read = [0] * self.width
        self.ordering.watch(range(self.width))

    def append(self) -> None:
        """Append a record somewhere; time goes on, and some records are old."""
        at = self.draw.choice([self.appends, self.draw.randrange(self.appends + 1)])
        self.logs[self.draw.randrange(self.width)].append((self.appends, at))
        self.appends += 1

    def fetch(self) -> None:
        """Read what one log has now, or a part of it."""
        log = self.draw.randrange(self.width)
        rows = self.logs[log][self.read[log] :][: self.draw.randint(1, 3)]
        self.ordering.take(log, [(at, (log, order, at)) for order, at in rows])
        self.read[log] += len(rows)

    def ask(self) -> None:
        """The broker answers with the ends as they are now."""
        self.answer = [len(log) for log in self.logs], self.ordering.moment

    def be_told(self) -> None:
        """The answer arrives, after more was appended and read."""
        if self.answer is not None:
            ends, moment = self.answer
            ended = [log for log in range(self.width) if self.read[log] >= ends[log]]
            self.ordering.note_ended(ended, self.moment_of(moment))

    def moment_of(self, asked: int) -> int:
        """Return the moment that the answer is taken for."""
        return asked

    def hand_out(self) -> None:
        """Write what is due."""
        self.found += self.ordering.hand_out(self.draw.randint(1, 5))

    def made_late(self) -> int:
        """Return how many rows only such rows precede, with a later time, as came after them."""
        count = 0
        for place, (log, order, at) in enumerate(self.found):
            own = max((t for o, t in self.logs[log] if o < order), default=NEVER)
            ahead = [o for _, o, t in self.found[:place] if t > max(own, at)]
            count += any(each > order for each in ahead)
        return count


class BrokersOfStaleAnswers(Brokers):
    """An answer counts for all that was read when it arrives: the negative control."""

    def moment_of(self, asked: int) -> int:
        """Return the moment at which the answer arrives."""
        return self.ordering.moment


def run(made: Callable[[random.Random, int], Brokers], seed: int) -> Brokers:
    """Run one random schedule to its end."""
    draw = random.Random(seed)
    brokers = made(draw, draw.randint(2, 4))
    steps = [brokers.append, brokers.fetch, brokers.ask, brokers.be_told, brokers.hand_out]
    for _ in range(draw.randint(10, 120)):
        draw.choice(steps)()
    while len(brokers.found) < brokers.appends:
        brokers.fetch()
        brokers.ask()
        brokers.be_told()
        brokers.hand_out()
    return brokers


@pytest.mark.slow
def test_no_row_is_written_behind_one_that_was_appended_later_and_makes_it_late() -> None:
    """Whatever the network delays: re-keying makes nothing late that was on time at the broker."""
    for seed in range(2_000):
        brokers = run(Brokers, seed)
        assert brokers.made_late() == 0, seed
        assert sorted(order for _, order, _ in brokers.found) == list(range(brokers.appends))


def test_an_end_that_is_older_than_what_was_read_makes_rows_late() -> None:
    """The negative control: the same schedules, with the end as of before the question."""
    assert sum(run(BrokersOfStaleAnswers, seed).made_late() for seed in range(200)) > 0
