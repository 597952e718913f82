"""The age of an unread record, found by asking a log for times only."""

from bisect import bisect_left
from collections.abc import Mapping
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tidemill.monitor.lag.record_times import Found, record_times


class FakeLog:
    """A log with times that never go down, answering as a broker does; it counts the rounds."""

    def __init__(self, start: int, times: list[int]) -> None:
        self.start = start
        self.times = times
        self.rounds = 0

    def first_at(self, time_ms: int) -> Found | None:
        """Return the first record at or after *time_ms*."""
        index = bisect_left(self.times, time_ms)
        return Found(self.start + index, self.times[index]) if index < len(self.times) else None

    @property
    def newest(self) -> Found:
        """Return the first record with the largest time."""
        found = self.first_at(self.times[-1])
        assert found is not None
        return found

    def ask(self, asked: Mapping[str, int]) -> dict[str, Found | None]:
        """Answer for one partition called log."""
        self.rounds += 1
        return {key: self.first_at(time) for key, time in asked.items()}


@given(
    st.integers(0, 1000),
    st.lists(st.integers(1_700_000_000_000, 1_700_000_100_000), min_size=1, max_size=60),
    st.data(),
)
def test_the_time_of_every_record_is_found_to_the_millisecond(
    start: int, times: list[int], data: st.DataObject
) -> None:
    """Records of one batch share their time; the answer must be exact in the middle of one too."""
    log = FakeLog(start, sorted(times))
    index = data.draw(st.integers(0, len(times) - 1))
    found = record_times(log.ask, {"log": start + index}, {"log": log.newest})
    assert found == {"log": log.times[index]}


def test_a_log_of_weeks_is_searched_in_few_rounds() -> None:
    """Each round is a request; a monitor asks every few seconds."""
    random, rounds, times = Random(7), list[int](), list[int]()
    now_ms = 1_700_000_000_000
    while len(times) < 400_000:  # batches of any size, after pauses of milliseconds to an hour
        now_ms += int(10 ** random.uniform(0, 6.5))
        times += [now_ms] * random.randint(1, 500)
    for offset in random.sample(range(len(times)), 50):
        log = FakeLog(0, times)
        assert record_times(log.ask, {"log": offset}, {"log": log.newest}) == {"log": times[offset]}
        assert log.rounds <= 40
        rounds.append(log.rounds)
    assert sum(rounds) / len(rounds) <= 20


def test_a_log_without_records_has_no_age() -> None:
    """All of it may have been deleted since the ends were read."""
    log = FakeLog(5, [])
    assert record_times(log.ask, {"log": 5}, {}) == {}


def test_an_offset_that_was_deleted_is_taken_for_the_first_that_is_left() -> None:
    """Retention may run between two questions."""
    log = FakeLog(10, [100, 200])
    assert record_times(log.ask, {"log": 3}, {"log": log.newest}) == {"log": 100}


def test_an_offset_without_record_is_never_reported_as_younger() -> None:
    """A transaction's mark takes an offset; an alert may come early then, but not late."""
    answers = {0: Found(0, 100), 101: Found(2, 900)}  # offset 1 is a mark

    def ask(asked: Mapping[str, int]) -> dict[str, Found | None]:
        return {key: answers[0] if time <= 100 else answers[101] for key, time in asked.items()}

    assert record_times(ask, {"log": 1}, {"log": Found(2, 900)}) == {"log": 100}
